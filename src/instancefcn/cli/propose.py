"""`instancefcn propose`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.predict import Device, Json, Save, Sources, Writer, chosen_kinds, write_all
from instancefcn.errors import ConfigError


def propose(
    sources: Sources,
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
    device: Device = None,
) -> None:
    """Propose masks of objects of any class, the most likely first (InstanceFCN).

    A file that is no picture is reported and the rest goes on; the exit status is then 1.
    """
    kinds = chosen_kinds(save)
    # Mistakes in the sources show before torch is imported and the model read.
    from instancefcn.inference.sources import find_pictures

    paths = find_pictures(sources)
    from instancefcn.inference.predictor import load
    from instancefcn.inference.writers import CocoSummary, output_names
    from instancefcn.models.instance_fcn import InstanceFCN

    predictor = load(model, device=device)
    if not isinstance(predictor.network, InstanceFCN):
        raise ConfigError(
            f"{model} finds objects of classes, not proposals: say instancefcn predict, or name an"
            " InstanceFCN with --model"
        )
    summary = CocoSummary(predictor.class_names, predictor.category_ids)
    writer = Writer(out, kinds, output_names(paths), summary, labels=False)
    best = (
        replace(result, instances=None if result.instances is None else result.instances[:top])
        for result in predictor.files(paths, score=score)
    )
    write_all(best, len(paths), writer, json_)
