"""`instancefcn propose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.options import (
    Device,
    Explain,
    Frames,
    Json,
    Page,
    Precision,
    Resume,
    Save,
    SourceArguments,
    Tile,
)


def propose(
    sources: SourceArguments,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("proposals"),
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|PATH",
            help="An InstanceFCN: a bundled model, a checkpoint file or the folder of a run.",
        ),
    ] = "instancefcn-objects",
    top: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of proposals in an image.")] = 100,
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out proposals below this score.")] = 0.0,
    save: Save = "overlay,coco",
    json_: Json = False,
    tile: Tile = "auto",
    explain: Explain = False,
    frames: Frames = None,
    page: Page = None,
    device: Device = None,
    precision: Precision = "auto",
    resume: Resume = False,
) -> None:
    """Propose masks of objects of any class, best first (InstanceFCN).

    An unreadable file is reported and the others are processed; the exit status is then 1.
    """
    from instancefcn.cli.results import print_results
    from instancefcn.console import progress
    from instancefcn.inference.predict import propose as run
    from instancefcn.inference.request import kinds_of

    with progress() as show:
        results = run(
            sources,
            model,
            out=out,
            top=top,
            score=score,
            save=save,
            tile=tile,
            explain=explain,
            frames=frames,
            page=page,
            device=device,
            precision=precision,
            resume=resume,
            progress=show,
        )
        where = out if kinds_of(save) or explain else None
        print_results(results, show, json_, where, ranked=True)
