"""`instancefcn app`."""

from __future__ import annotations

from typing import Annotated

import typer

from instancefcn.errors import ConfigError


def app(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Instead of the bundled model of its kind: a checkpoint file or the folder of a run, FCIS or"
            " InstanceFCN.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other computers in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
) -> None:
    """Serve a web page to drop pictures on, and its HTTP API."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ConfigError("the web page needs Gradio, which is not installed: pip install gradio")
    from instancefcn.studio.app import serve

    serve(model, host, port)
