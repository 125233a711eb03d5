"""`instancefcn eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.options import CrowdsAsObjects, MaxObjects, Precision, SkipBad, Tile


def eval_(
    data: Annotated[
        Path, typer.Argument(help="Annotated images: a folder or YAML file as for instancefcn train.")
    ],
    model: Annotated[
        str, typer.Option(help="A bundled model, a checkpoint, or the folder of a training run.")
    ],
    split: Annotated[str, typer.Option(help="Name of the split; no other needs to exist.")] = "val",
    tile: Tile = "auto",
    crowds_as_objects: CrowdsAsObjects = False,
    skip_bad: SkipBad = False,
    max_objects: MaxObjects = None,
    precision: Precision = "auto",
    json_: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", dir_okay=False, help="Write the figures as JSON."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for detections (COCO results), curves of precision and recall, and sheets of images."
        ),
    ] = None,
) -> None:
    """Measure a model: mask and box AP (COCO), mAP^r (VOC), recall of proposals, and AP of each class.

    Processes that torchrun or srun starts share the images.
    """
    from instancefcn import processes
    from instancefcn.errors import OutputError
    from instancefcn.evaluation.report import table
    from instancefcn.evaluation.run import NotWritten, evaluate
    from instancefcn.files import writable, write_json
    from instancefcn.safe_text import plain

    main = processes.is_first()
    problems: list[OutputError] = []
    try:
        metrics = evaluate(
            data,
            model,
            split=split,
            tile=tile,
            precision=precision,
            out=out,
            crowds_as_objects=crowds_as_objects,
            skip_bad=skip_bad,
            max_objects=max_objects,
            share=True,
        )
    except processes.StoppedElsewhere:
        return  # the first process reports the error
    except NotWritten as error:
        metrics = error.metrics
        problems.append(error)
    if not main:
        return
    # Before anything else can fail: the figures may have taken hours.
    typer.echo(table(metrics))
    if json_ is not None:
        try:
            with writable("--json"):
                write_json(json_, metrics)
        except OutputError as error:
            problems.append(error)
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    if out is not None:
        typer.echo(plain(f"\nDetections, curves and sheets are in {out}"))
