"""What `predict` and `propose` say while they work."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from instancefcn.safe_text import one_line

if TYPE_CHECKING:
    from instancefcn.inference.predictor import FileResult
    from instancefcn.instances import Instances

EVERY = 10.0
"""Seconds between two words on a long video, where there is no bar."""


class Reporter:
    """Prints lines on standard error, without a bar: for files and programs."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.said = total, 0, time.monotonic()

    def line(self, text: str) -> None:
        """Say something in one line, with names of files that may hold anything."""
        typer.echo(one_line(text), err=True)

    def advance(self) -> None:
        """One more picture or frame is done."""
        self.done += 1

    def still(self, what: str) -> None:
        """Say, now and then, how far a long video is."""
        if time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            of = f" of {self.total}" if self.total else ""
            self.line(f"{what}: frame {self.done}{of}")


class BarReporter(Reporter):
    """Prints lines above a bar with the time left."""

    def __init__(self, total: int, bar: Any) -> None:
        super().__init__(total)
        self.bar, self.task = bar, bar.add_task("", total=total or None)

    def line(self, text: str) -> None:
        self.bar.console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)

    def advance(self) -> None:
        super().advance()
        self.bar.advance(self.task)

    def still(self, what: str) -> None:
        """The bar says it."""


@contextmanager
def reporter(total: int) -> Iterator[Reporter]:
    """A reporter of `total` pictures or frames (0: nobody knows): with a bar on a terminal."""
    if not sys.stderr.isatty():
        yield Reporter(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Iterable[Any] = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield BarReporter(total, bar)


def count_by_class(instances: Instances) -> str:
    """For example "2 deer, 1 tiger", the most frequent first; "nothing" for none."""
    return ", ".join(f"{n} {name}" for name, n in Counter(instances.names).most_common()) or "nothing"


def result_as_json(result: FileResult) -> dict[str, Any]:
    """What `--json` prints of one picture or frame."""
    head = {"file": str(result.path)} | ({} if result.frame is None else {"frame": result.frame})
    if result.instances is None:
        return {**head, "error": str(result.error)}
    from instancefcn.inference.writers import prediction

    return {**head, **prediction(str(result.path), result.instances)}
