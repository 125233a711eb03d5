"""`instancefcn predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.options import (
    Batch,
    Device,
    Explain,
    Frames,
    Json,
    MaxObjects,
    Model,
    Page,
    Precision,
    Resume,
    Save,
    Score,
    SourceArguments,
    Tile,
)


def predict(
    sources: SourceArguments,
    model: Model = "fcis-animals7",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("predictions"),
    score: Score = 0.5,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Find only objects of these classes, separated by commas, such as 'deer,otter'.",
            show_default=False,
        ),
    ] = None,
    max_objects: MaxObjects = None,
    save: Save = "overlay,coco",
    json_: Json = False,
    batch: Batch = 1,
    tile: Tile = "auto",
    explain: Explain = False,
    frames: Frames = None,
    page: Page = None,
    device: Device = None,
    precision: Precision = "auto",
    resume: Resume = False,
) -> None:
    """Segment images and videos: find, name and outline every object.

    An unreadable file is reported and the others are processed; the exit status is then 1.
    """
    from instancefcn.cli.results import print_results
    from instancefcn.console import progress
    from instancefcn.inference.predict import predict as run
    from instancefcn.inference.request import kinds_of

    with progress() as show:
        results = run(
            sources,
            model,
            out=out,
            score=score,
            classes=classes,
            max_objects=max_objects,
            save=save,
            batch=batch,
            tile=tile,
            explain=explain,
            frames=frames,
            page=page,
            device=device,
            precision=precision,
            resume=resume,
            progress=show,
        )
        print_results(results, show, json_, out if kinds_of(save) or explain else None)
