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
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The checkpoint to write, a .safetensors file.", show_default=False
        ),
    ],
) -> None:
    """Make a checkpoint of the published weights of FCIS-ResNet-101, for PASCAL VOC or COCO.

    The model finds what the implementation found that the weights come from; docs/published-weights.md says
    how closely. It runs, and is not trained further.
    """
    from instancefcn.published.conversion import convert_weights as convert

    done = convert(source, out)
    typer.echo(
        f"{out}: fcis_resnet101_published for {done.variant} ({done.classes} classes,"
        f" {done.anchors} anchors), from {done.origin}; {out.stat().st_size / 1e6:.0f} MB"
    )
    if done.unused:
        some = ", ".join(done.unused[:3]) + (", ..." if len(done.unused) > 3 else "")
        typer.echo(f"not needed at test time and left out: {len(done.unused)} arrays ({some})")
