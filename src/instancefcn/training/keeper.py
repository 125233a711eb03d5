"""Keeping a run safe: the resumable checkpoint, the exported weights, and a clean stop on a signal."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.io import TorchCheckpointIO

from instancefcn.errors import CheckpointError, DataError, ImageError, TrainingError
from instancefcn.files import WRITE_ERRORS, atomic_write
from instancefcn.safe_text import plain
from instancefcn.training.module import has_stepped
from instancefcn.training.stream import RunLoader

LAST = "last.ckpt"


class Interrupted(Exception):
    """The run was stopped by a signal; `signal` is its number, `message` says what is saved and how to go
    on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class StoppedAtOnce(BaseException):
    """Ctrl-C came twice. (Lightning would answer a KeyboardInterrupt by ending the process.)"""


class Keeper(L.Callback):
    """Counts the batches, saves last.ckpt when it is due and stops the run when a signal asks for it.

    A checkpoint is taken only right after an optimizer step, so no half-gathered gradient is ever lost.

    Args:
        out: the run's folder.
        loader: the run's loader; its counter is kept here.
        export: writes the present weights as a model file, given its name.
        every_minutes: time between two saves within an epoch.
        model: the network's specification, as `spec_to_json` gives it.
    """

    def __init__(
        self,
        out: Path,
        loader: RunLoader,
        export: Callable[[str], None],
        every_minutes: float,
        model: dict[str, Any],
    ) -> None:
        self.out, self.loader, self.export, self.every_seconds = out, loader, export, 60 * every_minutes
        self.model = model
        self.stopped_by: signal.Signals | None = None  # of all processes
        self._asked: signal.Signals | None = None  # of this one
        self._saved_at = time.monotonic()
        self._due = self._speaks = False
        self._seen_when_saved = -1
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Catch Ctrl-C and the polite kill; Lightning's own handler would drop the step at hand."""
        self._saved_at = time.monotonic()
        self._speaks = trainer.is_global_zero
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._handlers[name] = signal.signal(name, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None and number == signal.SIGINT:
            raise StoppedAtOnce  # asked twice: do not wait for the step
        self._asked = signal.Signals(number)
        if self._speaks:  # print is not safe in a handler
            os.write(2, b"\nstopping after this step; Ctrl-C stops at once, without saving it\n")

    def release_signals(self) -> None:
        """Put back the handlers before ours: Lightning's, unless it has put back those before its own."""
        for name, handler in self._handlers.items():
            if signal.getsignal(name) == self._stop:
                signal.signal(name, handler)
        self._handlers = {}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Signals do their usual work again."""
        self.release_signals()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Signals do their usual work again."""
        self.release_signals()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the evaluation of the same batch (callbacks run in order): save if it is time."""
        self.loader.seen = batch_idx + 1
        late = time.monotonic() - self._saved_at >= self.every_seconds
        number, late = self._agree(trainer, self._asked or 0, late)
        self.stopped_by = signal.Signals(number) if number else None
        epoch_ended = self.loader.seen % self.loader.batches.epoch_length == 0
        self._due = self._due or late or epoch_ended or number > 0
        if self._due and has_stepped(trainer, batch_idx, len(self.loader.batches)):
            self.save(trainer)
            if number:
                trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What the network is travels with the run."""
        checkpoint["model"] = self.model

    def save(self, trainer: L.Trainer) -> None:
        """Write last.safetensors and last.ckpt; every process must call this.

        last.ckpt comes last: whenever the process ends, what it says was done has all been written.
        """
        if self._seen_when_saved == self.loader.seen:
            return
        if trainer.is_global_zero:
            self.export("last.safetensors")
        save_run(trainer, self.out / LAST)
        self._saved_at, self._due, self._seen_when_saved = time.monotonic(), False, self.loader.seen

    @staticmethod
    def _agree(trainer: L.Trainer, number: int, late: bool) -> tuple[int, bool]:
        """Several processes save and stop together: what one of them wants, all do. A signal by its number,
        0 for none.
        """
        if trainer.world_size == 1:
            return number, late
        flags = torch.tensor([number, int(late)], device=trainer.strategy.root_device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return int(flags[0]), bool(flags[1])


class StraightToFile(TorchCheckpointIO):
    """Writes a checkpoint where it is asked for. Lightning's own way leads through the system's folder of
    temporary files, which may be too small, and where a killed process leaves it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        # torch.save says nothing of the reason when it cannot write to a file.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())


def save_run(trainer: L.Trainer, path: Path) -> None:
    """Lightning's checkpoint of everything that changes, under a temporary name until it is whole."""
    with atomic_write(path) if trainer.is_global_zero else contextlib.nullcontext(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=False)


def read_run(path: Path) -> dict[str, Any]:
    """Read last.ckpt without ever running code from it.

    Raises:
        CheckpointError: missing, damaged, or holding anything but tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: there is nothing to resume. Start the run without --resume"
        )
    try:
        with zipfile.ZipFile(path) as archive:  # torch packs nothing: what is packed can be of any size
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it holds packed files")
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        batches_seen(checkpoint)
        int(checkpoint["global_step"])
        if not isinstance(checkpoint["callbacks"], dict):
            raise ValueError("it holds no callbacks")
    except Exception as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a training run, or it is damaged: {error}"
        ) from None
    return checkpoint


def check_fit(
    checkpoint: Mapping[str, Any], model: dict[str, Any], own: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Raises CheckpointError when last.ckpt is not of the network with the specification `model` (see
    `spec_to_json`) and such weights as `own`.
    """
    before, now = _flat(checkpoint.get("model") or {}), _flat(model)
    if before != now:
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        list_ = "; ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed[:5])
        raise CheckpointError(
            f"{path} holds a run of another network: {plain(list_)[:500]}. Was config.json changed, or does "
            "this release know the model otherwise? Go on with the release that began the run, or start a "
            f"new one from its weights: --set init={path.parent}"
        )
    theirs = checkpoint.get("state_dict")
    if not isinstance(theirs, dict) or theirs.keys() != own.keys():
        raise CheckpointError(f"{path} holds the weights of another network: was config.json changed?")
    wrong = [name for name in own if getattr(theirs[name], "shape", None) != own[name].shape]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]} is of another shape: was config.json changed?")


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested JSON objects by their place, such as "head.k"; tuples as lists."""
    leaves: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = list(value) if isinstance(value, tuple) else value
    return leaves


def batches_seen(checkpoint: dict[str, Any]) -> int:
    """Batches (per process) that a run had trained on when its checkpoint was taken."""
    return int(checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["seen"])


@contextlib.contextmanager
def state_kept(folder: Path, data: str) -> Iterator[None]:
    """Around a run in `folder`: say what happened to the data or the disk in the middle of it, and how to go
    on.

    Raises:
        DataError: in the place of an ImageError or DataError.
        TrainingError: in the place of an OSError, when a file cannot be written.
        Interrupted: in the place of StoppedAtOnce.
    """
    try:
        yield
    except StoppedAtOnce:
        message = f"stopped at once. {_what_is_kept(folder, data, 'then')}"
        raise Interrupted(signal.SIGINT, message) from None
    except (ImageError, DataError) as error:
        raise DataError(f"{error}\nThe data changed under the run. {_what_is_kept(folder, data)}") from error
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        raise TrainingError(
            f"{error.filename or folder}: cannot be written ({error.strerror}). {_what_is_kept(folder, data)}"
        ) from error


def way_on(folder: Path, data: str) -> str:
    """The command that goes on with a run."""
    words = ["instancefcn", "train", data, "--out", str(folder), "--resume"]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _what_is_kept(folder: Path, data: str, first: str = "mend this and") -> str:
    if not (folder / LAST).is_file():
        return f"Nothing had been saved yet: {first} start the run again"
    return f"{LAST} holds the run as it was saved before: {first} go on with: {way_on(folder, data)}"
