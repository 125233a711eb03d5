"""`instancefcn convert`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.options import CrowdsAsObjects


class DatasetFormat(StrEnum):
    """The formats that can be written."""

    coco = "coco"
    yolo = "yolo"
    labelme = "labelme"
    voc = "voc"


def convert(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Folder of a dataset in any layout of docs/data.md, or its YAML file."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    to: Annotated[DatasetFormat, typer.Option("--to", help="The format to write.", show_default=False)],
    val_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Hold out this share of train's images as the split val, such as 0.2.",
        ),
    ] = None,
    crowds_as_objects: CrowdsAsObjects = False,
    split_parts: Annotated[
        bool,
        typer.Option(
            "--split-parts",
            help="Make every separate part of an annotation an object of its own: for masks that hold all "
            "objects of an image.",
        ),
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Write a dataset in another format, and report what that format cannot hold.

    All splits are converted. Images are hard-linked where the disk allows it, else copied. --val-share
    chooses by file name; images that look nearly the same stay together.
    """
    from instancefcn.console import progress
    from instancefcn.data.conversion import convert as run
    from instancefcn.safe_text import plain

    with progress() as show:
        done = run(
            data,
            out,
            to.value,
            show,
            val_share,
            split_parts=split_parts,
            crowds_as_objects=crowds_as_objects,
        )
    if json_:
        typer.echo(json.dumps({"to": to.value, "out": str(out), **asdict(done)}))
        return
    for note in done.notes:
        typer.echo(f"note: {plain(note)}")
    typer.echo(f"{out}: {to.value}, from {done.source}")
    for split, counts in done.splits.items():
        typer.echo(f"  {split}: {counts['images']} images, {counts['annotations']} annotations")
    typer.echo(f"{to.value} cannot hold:" if done.lost else "Nothing is lost.")
    for row in done.lost:
        typer.echo(f"  {row['count']} {row['of']}: {row['what']}")
