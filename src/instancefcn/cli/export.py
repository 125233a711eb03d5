"""`instancefcn export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """The formats of `--format`."""

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
    dynamic_batch: Annotated[
        bool,
        typer.Option(
            "--dynamic-batch",
            help="Any number of images of one size at once, with results for each (ONNX only).",
        ),
    ] = False,
    instances: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Number of objects in the results; unused ones have score 0. The model's own limit when "
            "left out, or 100 proposals.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The file; named after the model when left out.", show_default=False
        ),
    ] = None,
) -> None:
    """Write a model as one file that runs without this package: image in, boxes, scores, labels and masks
    out, in standard operators.

    The file's results are compared with PyTorch's on several images. A file that differs is not kept, and the
    exit status is 2. docs/export.md says how to prepare images for it and how to read its results.
    """
    from instancefcn.export import export_model
    from instancefcn.export.check import comparison_table

    typer.echo(f"tracing {model}, which takes some minutes on a busy machine", err=True)
    done = export_model(
        model,
        format=format_.value,
        dynamic=dynamic,
        dynamic_batch=dynamic_batch,
        instances=instances,
        out=out,
    )
    typer.echo(comparison_table(done.rows))
    size = done.path.stat().st_size / 1e6
    typer.echo(f"{done.path}: {size:.1f} MB; agrees with PyTorch on {len(done.rows)} images")
