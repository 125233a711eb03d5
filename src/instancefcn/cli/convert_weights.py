"""`instancefcn convert-weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert_weights(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help=".params of the official MXNet code, or .npz of ChainerCV.", show_default=False
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The checkpoint to write, a .safetensors file.", show_default=False
        ),
    ],
) -> None:
    """Convert the published weights of FCIS-ResNet-101, for PASCAL VOC or COCO, into a checkpoint.

    The model finds what the original implementation finds; docs/published-weights.md says how closely. It is
    for inference and cannot be trained further.
    """
    from instancefcn.published.conversion import convert_weights as run

    done = run(source, target)
    typer.echo(
        f"{target}: fcis_resnet101_published for {done.variant} ({done.classes} classes,"
        f" {done.anchors} anchors), from {done.origin}; {target.stat().st_size / 1e6:.0f} MB"
    )
    if done.unused:
        some = ", ".join(done.unused[:3]) + (", ..." if len(done.unused) > 3 else "")
        typer.echo(f"not needed for inference and left out: {len(done.unused)} arrays ({some})")
