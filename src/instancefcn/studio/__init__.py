"""The web page and its HTTP API: images come in by upload, wait for their turn, and leave as JSON, as
outlines to play with, or as cut-outs. Needs the extra `app`.
"""

from __future__ import annotations

from importlib.util import find_spec

from instancefcn.errors import MissingPackageError


def serve(model: str | None = None, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page and the API until the process ends.

    Args:
        model: replaces the bundled model of its kind: a checkpoint file or the folder of a run.
        host: address to listen on; "127.0.0.1" is reached from this computer alone.
        port: 0 chooses a free one.

    Raises:
        MissingPackageError: the packages of the page are missing.
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: the address or port cannot be used.
    """
    if find_spec("gradio") is None:
        raise MissingPackageError("the web page needs Gradio, which is not installed: pip install gradio")
    from instancefcn.studio import app

    app.serve(model, host, port)
