"""Showing how long work goes on: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

EVERY = 10.0
"""Seconds between two plain lines."""

Show = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Yield a function that shows on standard error how far each kind of work is, with the time left.

    Where standard error is no terminal, work that is done within EVERY seconds says nothing.
    """
    if not sys.stderr.isatty():
        yield _plain()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Any = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def _plain() -> Show:
    started: dict[str, float] = {}
    said = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        start = started.setdefault(what, now)
        if done and now - said >= EVERY:
            said = now
            left = (now - start) / done * (total - done)
            print(f"{what}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return show
