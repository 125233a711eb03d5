"""`instancefcn app`."""

from __future__ import annotations

from typing import Annotated

import typer


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
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other computers connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free one.")] = 7860,
) -> None:
    """Serve a web page to drop images on, and its HTTP API."""
    from instancefcn.studio import serve

    serve(model, host=host, port=port)
