"""The whole web application: the API and the page, behind one queue for each model."""

from __future__ import annotations

import os
import socket
from functools import partial
from importlib.resources import as_file, files

from fastapi import FastAPI

from instancefcn.errors import ConfigError
from instancefcn.inference.predictor import DEFAULT_MODEL, load
from instancefcn.inference.sources import find_images
from instancefcn.studio.results import Kept
from instancefcn.studio.service import MAX_BYTES, ModelQueue

PROPOSALS = "instancefcn-objects"


def workers(model: str | None) -> tuple[ModelQueue, ModelQueue, str]:
    """The two models, and which of them the page begins with: "predict" or "propose".

    Args:
        model: None for the bundled ones, which are loaded when they are first needed; else this one takes the
            place of the bundled model of its kind, and is loaded now, so that mistakes show at once.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
    """
    from instancefcn.models.instance_fcn import InstanceFCN

    finder, proposer = ModelQueue(partial(load, DEFAULT_MODEL)), ModelQueue(partial(load, PROPOSALS))
    if model is None:
        return finder, proposer, "predict"
    own = load(model)
    if isinstance(own.network, InstanceFCN):
        return finder, ModelQueue(lambda: own), "propose"
    return ModelQueue(lambda: own), proposer, "predict"


def build_app(finder: ModelQueue, proposer: ModelQueue, verb: str = "predict") -> FastAPI:
    """The application, ready for a server.

    Args:
        finder: finds objects of classes.
        proposer: finds objects of any class.
        verb: "predict" or "propose": which of the two the page begins with.
    """
    # Before it is imported: it would report its use, and hub libraries theirs.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio as gr

    from instancefcn.studio.api import build_api
    from instancefcn.studio.page import CSS, Page, build_page

    kept = Kept()
    api = build_api(finder, proposer, kept)
    with as_file(files("instancefcn") / "assets" / "demo") as folder:
        examples = find_images([folder])
        page = build_page(Page(finder, proposer, kept, examples), verb)
        # Only then does Gradio refuse paths of a client that are not uploads; mounting alone leaves it unset.
        page.has_launched = True
        return gr.mount_gradio_app(
            api,
            page,
            path="/",
            allowed_paths=[str(folder)],
            max_file_size=MAX_BYTES,
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=gr.themes.Default(
                primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
            ),
            css=CSS,
        )


def serve(model: str | None, host: str, port: int) -> None:
    """Serve the page and the API until the process is told to end.

    Args:
        model: see `workers`.
        host: the address to listen at; "127.0.0.1" is reached from this computer alone.
        port: 0 takes a free one.

    Raises:
        CheckpointError: see `workers`.
        ConfigError: the address or the port cannot be had.
    """
    import uvicorn

    # Before anything is loaded: a taken port is the likeliest mistake.
    with _listen(host, port) as listener:
        app = build_app(*workers(model))
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listener.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"{host}:{port} cannot be used ({reason}): name another --port (0 takes a free one) or --host"
        ) from error
