"""Telling the person in front of the screen how the run goes."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

import lightning as L

from instancefcn.training.log import RunLog
from instancefcn.training.module import TrainModule
from instancefcn.training.stream import RunLoader


class Progress(L.Callback):
    """A progress bar on a terminal, otherwise a plain line every few seconds; and the rows of log.csv.

    Args:
        book: where the numbers go; None on all processes but the first.
        every_steps: batches between two rows of the log.
        every_seconds: time between two plain lines.
    """

    def __init__(
        self,
        loader: RunLoader,
        book: RunLog | None,
        every_steps: int,
        every_seconds: float = 15.0,
        file: TextIO | None = None,
    ) -> None:
        self.loader, self.book, self.every_steps, self.every_seconds = (
            loader,
            book,
            every_steps,
            every_seconds,
        )
        self.file = file or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._sums: dict[str, float] = {}
        self._count = 0
        self._start = self._said = self._train_seconds = self._mark = 0.0
        self._first = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks and, on a terminal, the bar."""
        self._start = self._said = self._mark = time.monotonic()
        self._first = self.loader.seen
        if self.book is not None and self.file.isatty():
            self._bar, self._task = _bar(len(self.loader.batches), self.loader.seen)
            self._bar.start()

    def state_dict(self) -> dict[str, Any]:
        """What the next row of the log is a mean of."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with that row."""
        self._sums, self._count = dict(state_dict["sums"]), int(state_dict["count"])

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, earlier attempts and evaluations included."""
        before = self.book.seconds_before if self.book is not None else 0.0
        return before + time.monotonic() - self._start

    def say(self, text: str) -> None:
        """Print a line, above the bar when there is one."""
        if self.book is None:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.file, flush=True)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The time of evaluations is not the time of steps."""
        self._mark = self._mark or time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Gather the losses; show and write them when it is time. Runs before the other callbacks."""
        assert isinstance(pl_module, TrainModule)
        self.loader.seen = batch_idx + 1
        now = time.monotonic()
        self._train_seconds += now - self._mark
        self._mark = now
        if self.book is None:
            return
        self._count += 1
        for name, value in pl_module.losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        last = self.loader.seen == len(self.loader.batches)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self.loader.seen,
                loss=f"{pl_module.losses['loss']:.3f}",
                epoch=self._epoch(),
            )
        elif now - self._said >= self.every_seconds or last:
            self._said = now
            self.say(self._line(pl_module))
        if self.loader.seen % self.every_steps == 0 or last:
            means = {name: round(value / self._count, 6) for name, value in self._sums.items()}
            self.book.add(
                trainer.global_step, self._epoch(), self.seconds, {"learning_rate": pl_module.rate, **means}
            )
            self._sums, self._count = {}, 0

    def pause(self) -> None:
        """Time from now to `go_on` is no training time."""
        self._train_seconds += time.monotonic() - self._mark

    def go_on(self) -> None:
        """Training goes on."""
        self._mark = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self.book is not None:
            self.book.close()

    def _epoch(self) -> float:
        """Epochs done, with the fraction."""
        return self.loader.seen / self.loader.batches.epoch_length

    def _line(self, module: TrainModule) -> str:
        done, total = self.loader.seen, len(self.loader.batches)
        pace = (done - self._first) / max(self._train_seconds, 1e-9)
        terms = "  ".join(f"{name} {value:.3f}" for name, value in module.losses.items() if name != "loss")
        return (
            f"batch {done}/{total}  epoch {self._epoch():.2f}  loss {module.losses['loss']:.3f}  ({terms})  "
            f"lr {module.rate:.2e}  {pace:.2f} batches/s  {duration((total - done) / pace)} left"
        )


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(total: int, done: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("epoch {task.fields[epoch]:.1f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    return bar, bar.add_task("training", total=total, completed=done, loss="-", epoch=0.0)
