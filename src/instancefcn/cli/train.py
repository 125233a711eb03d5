"""`instancefcn train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from instancefcn.errors import ConfigError, InstanceFCNError

GRACE = 5.0
"""Seconds for which other processes than the first keep an error to themselves: the first may have the same,
and its end makes the launcher end them."""


def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="Annotated images: a folder with train.json, val.json and images/ (COCO), or one of VOC,"
            " SBD, YOLO, LabelMe or mask PNGs; or a YAML file of COCO's or YOLO's kind. See docs/data.md."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run: weights, curves, sheets, log.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="fcis_lite (default), fcis_fine (many small objects), fcis_resnet50, fcis_resnet101,"
            " fcis_resnet101_voc; for proposals instancefcn_lite or instancefcn_vgg16."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How often every image is seen.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other setting, such as batch_size=8 or augment.flip=0."
        ),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")
    ] = False,
) -> None:
    """Train a model on annotated images; their format is recognised.

    Stop with Ctrl-C; --resume continues exactly where it stopped.
    """
    # torch and lightning take seconds to import: only a real run pays for them.
    from instancefcn.training.config import parse_assignments

    settings = parse_assignments(set_ or [])
    for key in sorted(settings.keys() & {"data", "model", "out"}):
        raise ConfigError(f"--set {key}=... is not possible: give it as instancefcn train DATA --model --out")
    if epochs is not None:
        settings["epochs"] = epochs
    from instancefcn.processes import StoppedElsewhere, is_first
    from instancefcn.training.keeper import Interrupted
    from instancefcn.training.run import train as run

    main = is_first()
    try:
        best = run(data, model, out=out, resume=resume, **settings)
    except StoppedElsewhere:
        return  # the first process says why and ends with an error
    except Interrupted as stop:
        if not main:
            return
        typer.echo(str(stop), err=True)
        raise typer.Exit(128 + stop.signal) from None
    except InstanceFCNError:
        if not main:
            time.sleep(GRACE)
        raise
    if not main:
        return
    if json_:
        import json

        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps({"checkpoint": str(best), **metrics}))
    else:
        typer.echo(str(best))
