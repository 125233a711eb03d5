"""Telling the person in front of the screen how the run is going."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from instancefcn.training.log import RunLog

EVERY_SECONDS = 15.0
"""Between two plain lines."""


class Progress:
    """A progress bar on a terminal, otherwise a plain line every few seconds; and the rows of log.csv.

    Args:
        log: where the rows go; None in all processes but the first, which then keep silent.
        total, epoch_length: batches of the whole run, and of an epoch.
        seen: batches that earlier attempts have trained on.
        every: batches between two rows of the log.
        row: what the next row is a mean of, for a run that resumes.
    """

    def __init__(
        self,
        log: RunLog | None,
        total: int,
        epoch_length: int,
        seen: int,
        every: int,
        row: dict[str, Any] | None = None,
    ) -> None:
        self.log, self.total, self.epoch_length, self.every = log, total, epoch_length, every
        self.row: dict[str, Any] = row or {"sums": {}, "count": 0}
        self._first = seen
        self._start = self._said = time.monotonic()
        self._paused = 0.0
        self._bar: Any = None
        if log is not None and sys.stderr.isatty():
            self._bar = _bar(total, seen)
            self._bar.start()

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, earlier attempts and evaluations included."""
        before = self.log.seconds_before if self.log is not None else 0.0
        return before + time.monotonic() - self._start

    def say(self, text: str) -> None:
        """Print a line, above the bar when there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self.log is not None:
            print(text, file=sys.stderr, flush=True)

    def batch(self, seen: int, step: int, rate: float, losses: Mapping[str, float]) -> None:
        """One more batch: gather its losses; show and log them when it is time.

        Args:
            seen: batches so far.
            step: optimizer steps so far.
            rate: the last step's learning rate.
            losses: means over all processes by name, and their sum as "loss".
        """
        if self.log is None:
            return
        sums, epoch, last = self.row["sums"], seen / self.epoch_length, seen == self.total
        self.row["count"] += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=seen, loss=f"{losses['loss']:.3f}", epoch=epoch)
        elif now - self._said >= EVERY_SECONDS or last:
            self._said = now
            pace = (seen - self._first) / max(now - self._start - self._paused, 1e-9)
            terms = "  ".join(f"{name} {value:.3f}" for name, value in losses.items() if name != "loss")
            self.say(
                f"batch {seen}/{self.total}  epoch {epoch:.2f}  loss {losses['loss']:.3f}  ({terms})  "
                f"lr {rate:.2e}  {pace:.2f} batches/s  {duration((self.total - seen) / pace)} left"
            )
        if seen % self.every == 0 or last:
            means = {name: round(value / self.row["count"], 6) for name, value in sums.items()}
            self.log.add(step, epoch, self.seconds, {"learning_rate": rate, **means})
            self.row = {"sums": {}, "count": 0}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside the block is not training time."""
        start = time.monotonic()
        yield
        self._paused += time.monotonic() - start

    def close(self) -> None:
        """Remove the bar and close the log."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self.log is not None:
            self.log.close()


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(total: int, done: int) -> Any:
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("epoch {task.fields[epoch]:.1f}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("loss {task.fields[loss]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task("training", total=total, completed=done, loss="-", epoch=0.0)
    return bar
