"""`instancefcn label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.options import Host, Port


def label(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES|DATA",
            help="A folder of images, an annotated dataset in any layout of docs/data.md (to correct it), or"
            " the OUT of an earlier call (to continue).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Folder to write: train.json, val.json, images/ and labelling/. By default IMAGES-labelled.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str, typer.Option(metavar="a,b,c", help="Names of classes; more can be added on the page.")
    ] = "",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|RUN",
            help="Suggests objects at first: a bundled model, a checkpoint file or the folder of a run. By"
            " default the model trained here last, else the bundled one for objects of any class.",
            show_default=False,
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
) -> None:
    """Serve a web page to label images on, with a model that helps and is trained there."""
    from instancefcn.studio import label as serve_label

    names = [name.strip() for name in classes.split(",") if name.strip()]
    serve_label(data, out=out, classes=names, model=model, host=host, port=port)
