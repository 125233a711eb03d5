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

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note that `done` of `total` (0: unknown) steps of the work `what` are done."""

    def line(self, text: str) -> None:
        """Say something in one line."""


class _Lines(Progress):
    """Plain lines on standard error; progress at most every EVERY seconds."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}
        self.said = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start = self.started.setdefault(what, now)
        if not done or now - self.said < EVERY:
            return
        self.said = now
        left = (now - start) / done * (total - done)
        self.line(f"{what}: {done}/{total}, about {left:.0f} s left" if total else f"{what}: {done}")

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Bars(Progress):
    """Lines above one bar for each kind of work, with the time left."""

    def __init__(self, bars: Any) -> None:
        self.bars = bars
        self.tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.tasks:
            from rich.markup import escape

            self.tasks[what] = self.bars.add_task(escape(what), total=total or None)
        self.bars.update(self.tasks[what], completed=done, total=total or None)

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Report on standard error, with bars where it is a terminal."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich import progress as rich
    from rich.console import Console

    columns: Any = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("left"),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)
