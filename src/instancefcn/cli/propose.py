"""`instancefcn propose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.predict import Device, Explain, Frames, Json, Places, Resume, Save, Tile
from instancefcn.cli.predict_sources import check_request, chosen_kinds, segment
from instancefcn.cli.prediction_request import PredictionRequest
from instancefcn.errors import ConfigError


def propose(
    sources: Places,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("proposals"),
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|PATH",
            help="An InstanceFCN: a bundled model, a checkpoint file or the folder of a run.",
        ),
    ] = "instancefcn-objects",
    top: Annotated[int, typer.Option(min=1, max=1000, help="The most proposals of one picture.")] = 100,
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out proposals below this score.")] = 0.0,
    save: Save = "overlay,coco",
    json_: Json = False,
    tile: Tile = None,
    explain: Explain = False,
    frames: Frames = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Propose masks of objects of any class, the most likely first (InstanceFCN).

    A file that is no picture is reported and the rest goes on; the exit status is then 1.
    """
    wanted = PredictionRequest(out, chosen_kinds(save), score, 1, tile, frames, explain, json_, top, resume)
    # Mistakes in the sources show before torch is imported and the model read.
    from instancefcn.inference.sources import find_sources

    found = find_sources(sources, out)
    check_request(found, wanted)
    from instancefcn.inference.predictor import load
    from instancefcn.models.instance_fcn import InstanceFCN

    predictor = load(model, device=device)
    if not isinstance(predictor.network, InstanceFCN):
        raise ConfigError(
            f"{model} finds objects of classes, not proposals: say instancefcn predict, or name an"
            " InstanceFCN with --model"
        )
    segment(predictor, found, wanted)
