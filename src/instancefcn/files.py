"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the block succeeds.

    The folder is created when it is missing. On an error the temporary file is removed and an older `path`
    stays as it was. The temporary name keeps the suffix, so that writers which look at it (Pillow,
    Matplotlib) work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`: its files are private, and the umask that says what is usual can only be read by
    # setting it, which other threads would notice.
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(6)}{path.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which takes that name when the block succeeds and vanishes
    when it fails.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def link_or_copy(source: Path | str, target: Path) -> None:
    """A second name for the file, or a copy where the disk does not allow one."""
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def write_json(path: Path | str, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, atomically. NaN and infinity are refused (ValueError): JSON has no word for
    them.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
