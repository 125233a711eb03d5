"""What ends a run early, and what the user is told: signals, data that change, a disk that is full."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from instancefcn.errors import DataError, ImageError, TrainingError
from instancefcn.files import WRITE_ERRORS
from instancefcn.processes import Stopped
from instancefcn.training.checkpoints import LAST


class Interrupted(Stopped):
    """A signal stopped the run; `signal` is its number, the message says what is saved and how to resume."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


@contextlib.contextmanager
def stop_signals(speaks: bool) -> Iterator[Callable[[], int]]:
    """Within the block Ctrl-C and SIGTERM only ask; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        speaks: whether to tell the user that the first signal was heard.

    Returns:
        a function that returns the number of the signal that came, 0 for none.
    """
    asked = 0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if speaks:  # print is not safe in a handler
            os.write(2, b"\nstopping after this step; Ctrl-C stops at once, without saving it\n")

    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # Python lets no other set handlers
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set by Python


@contextlib.contextmanager
def explained(folder: Path, data: str) -> Iterator[None]:
    """Around a run in `folder` on `data`: errors say what is kept of the run and how to resume it.

    Raises:
        DataError: instead of an ImageError or DataError.
        TrainingError: instead of an OSError of a file that cannot be written.
        Interrupted: instead of a KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(signal.SIGINT, f"stopped at once. {_kept(folder, data)}") from None
    except (ImageError, DataError) as error:
        kept = _kept(folder, data, "fix this, then ")
        raise DataError(f"{error}\nThe data changed during the run. {kept}") from error
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        place, kept = error.filename or folder, _kept(folder, data, "fix this, then ")
        raise TrainingError(f"{place}: cannot be written ({error.strerror}). {kept}") from error


def resume_command(folder: Path, data: str) -> str:
    """The command that resumes the run in `folder`."""
    words = ["instancefcn", "train", data, "--out", str(folder), "--resume"]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _kept(folder: Path, data: str, first: str = "") -> str:
    if not (folder / LAST).is_file():
        return f"Nothing was saved yet: {first}start the run again"
    return f"{LAST} holds the run as it was last saved: {first}resume it with: {resume_command(folder, data)}"
