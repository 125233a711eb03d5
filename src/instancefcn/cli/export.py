"""`instancefcn export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from instancefcn.export import Format


class Form(StrEnum):
    """What `--format` knows."""

    onnx = "onnx"
    torch_export = "torch-export"


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A bundled model, a checkpoint file or the folder of a run.",
            show_default=False,
        ),
    ],
    format_: Annotated[
        Form, typer.Option("--format", help="ONNX, or a program that torch.export.load reads.")
    ] = Form.onnx,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic", help="Height and width are free (FCIS only); else the model's short and long side."
        ),
    ] = False,
    instances: Annotated[
        int, typer.Option(min=1, max=1000, help="How many objects come out; unused places have score 0.")
    ] = 100,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The file; named after the model when left out.", show_default=False
        ),
    ] = None,
) -> None:
    """Write a model as one file that runs without this package: picture in, boxes, scores, labels and masks
    out, in standard operators.

    The file's results are compared with PyTorch's on several pictures; one that differs is not kept, and the
    exit status is 2. docs/export.md says how to prepare pictures for it and read its results.
    """
    from instancefcn.export import SUFFIXES
    from instancefcn.export import export as write

    form: Format = format_.value
    source = Path(model).absolute()
    # A folder's name has no suffix: lr0.01 and lr0.02 are two runs.
    path = out or Path((source.name if source.is_dir() else source.stem) + SUFFIXES[form])
    from instancefcn.export.check import comparison_table
    from instancefcn.inference.predictor import load

    predictor = load(model, device="cpu")
    typer.echo(f"tracing {model}, which takes some minutes on a busy machine", err=True)
    rows = write(predictor, path, form, dynamic=dynamic, instances=instances)
    typer.echo(comparison_table(rows))
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB; agrees with PyTorch on {len(rows)} pictures")
