"""`instancefcn app`."""

from __future__ import annotations

from typing import Annotated

import typer

from instancefcn.cli.options import Host, Port


def app(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Replaces the bundled model of its kind (FCIS or InstanceFCN): a checkpoint file or the"
            " folder of a run.",
            show_default=False,
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
) -> None:
    """Serve a web page to drop images on, and its HTTP API."""
    from instancefcn.studio import serve

    serve(model, host=host, port=port)
