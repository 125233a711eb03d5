"""`instancefcn train`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from instancefcn.cli.options import CrowdsAsObjects, SkipBad
from instancefcn.errors import ConfigError, InstanceFCNError


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
            help="Train a model with its own recipe instead of the plan that the data ask for: fcis_lite,"
            " fcis_fine, fcis_wide, fcis_resnet50, fcis_resnet101, fcis_resnet101_voc; for proposals"
            " instancefcn_lite or instancefcn_vgg16."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How often every image is seen.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Length of the whole run by the clock, instead of epochs; the schedule fits."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other setting, such as batch_size=8 or augment.flip=0."
        ),
    ] = None,
    crowds_as_objects: CrowdsAsObjects = False,
    skip_bad: SkipBad = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")
    ] = False,
) -> None:
    """Train a model on annotated images; their format is recognised.

    Stop with Ctrl-C; --resume continues exactly where it stopped.
    """
    settings = parse_assignments(set_ or [])
    for key in sorted(settings.keys() & {"data", "model", "out"}):
        raise ConfigError(f"--set {key}=... is not possible: give it as instancefcn train DATA --model --out")
    settings |= {
        name: value for name, value in (("epochs", epochs), ("minutes", minutes)) if value is not None
    }
    for key, chosen in (("crowds_as_objects", crowds_as_objects), ("skip_bad", skip_bad)):
        if chosen:  # a resumed run keeps its own
            settings[key] = True
    # torch takes seconds to import: only a real run pays for it.
    from instancefcn.processes import GRACE, StoppedElsewhere, is_first
    from instancefcn.training.interruption import Interrupted
    from instancefcn.training.loop import train as run

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
            time.sleep(GRACE)  # its end makes the launcher end this process
        raise
    if not main:
        return
    if json_:
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps({"checkpoint": str(best), **metrics}))
    else:
        typer.echo(str(best))


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["epochs=3", "augment.flip=0"]` as a nested dict; values are JSON, or else plain text.

    Raises:
        ConfigError: no equals sign.
    """
    from instancefcn.settings import nest

    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment!r} is not of the form key=value")
        try:
            value = json.loads(text)
        except ValueError:
            value = {"True": True, "False": False, "None": None}.get(text, text)
        values[key.strip()] = value
    return nest(values)
