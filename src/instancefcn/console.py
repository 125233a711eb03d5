"""Progress of long work: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

EVERY = 10.0
"""Seconds between two plain lines of progress."""


class Progress:
    """Receives the progress of long work. This class itself is silent."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Note that `done` of `total` (0: unknown) steps of the work `what` are done.

        The first call for some work begins it: the time left follows from the steps after it.

        Args:
            note: how the work stands, such as "loss 0.512".
        """

    def line(self, text: str) -> None:
        """Say something in one line."""


class _Lines(Progress):
    """Plain lines on standard error; progress at most every EVERY seconds."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[float, int]] = {}
        self.said = time.monotonic()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        start, before = self.begun.setdefault(what, (now, done))
        if done == before or now - self.said < EVERY:
            return
        self.said = now
        left = (now - start) / (done - before) * (total - done)
        parts = [f"{what}: {done}/{total}, {duration(left)} left" if total else f"{what}: {done}", note]
        self.line("  ".join(filter(None, parts)))

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Bars(Progress):
    """Lines above one bar for each kind of work, with the time left."""

    def __init__(self, bars: Any) -> None:
        self.bars = bars
        self.tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        if what not in self.tasks:
            from rich.markup import escape

            self.tasks[what] = self.bars.add_task(escape(what), total=total or None, completed=done, note="")
        self.bars.update(self.tasks[what], completed=done, total=total or None, note=note)

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress(show: bool = True) -> Iterator[Progress]:
    """Report on standard error, with bars where it is a terminal.

    Args:
        show: False reports nothing, as in all but the first of several processes.
    """
    if not show or not sys.stderr.isatty():
        yield _Lines() if show else Progress()
        return
    from rich import progress as rich
    from rich.console import Console

    columns: Any = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("left  {task.fields[note]}", markup=False),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
