"""`instancefcn convert`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """What can be written."""

    coco = "coco"
    yolo = "yolo"
    labelme = "labelme"
    voc = "voc"


def convert(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Folder of a dataset in any known layout (see docs/data.md), or its YAML file."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
    to: Annotated[Format, typer.Option("--to", help="The format to write.", show_default=False)],
    json_: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Write a dataset in another format, and say what that format cannot hold.

    All splits are converted. Pictures are hard-linked where that is possible, else copied.
    """
    from instancefcn.data.convert import convert as run

    with _progress() as progress:
        done = run(data, out, to.value, progress)
    if json_:
        typer.echo(json.dumps({"to": to.value, "out": str(out), **asdict(done)}))
        return
    typer.echo(f"{out}: {to.value}, from {done.source}")
    for split, counts in done.splits.items():
        typer.echo(f"  {split}: {counts['pictures']} pictures, {counts['annotations']} annotations")
    typer.echo(f"Not held by {to.value} as it was:" if done.lost else "Nothing was lost.")
    for row in done.lost:
        typer.echo(f"  {row['count']} {row['of']}: {row['what']}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each of reading, checking and writing on a terminal, elsewhere a plain line every ten
    seconds; on standard error.
    """
    if not sys.stderr.isatty():
        said = time.monotonic()

        def say(stage: str, done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said >= 10:
                said = time.monotonic()
                typer.echo(f"{stage}: {done}/{total} pictures", err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Any = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield advance
