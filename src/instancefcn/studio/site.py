"""The whole web application: the page, the API behind one queue for each model, and open labels."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from instancefcn.console import progress
from instancefcn.errors import ConfigError
from instancefcn.inference.predictor import DEFAULT_MODEL, load
from instancefcn.inference.sources import find_images
from instancefcn.studio.api import build_api
from instancefcn.studio.gate import BodyLimit, Gate
from instancefcn.studio.labelling.opening import open_labels
from instancefcn.studio.labelling.routes import MAX_BODY, build_routes
from instancefcn.studio.labelling.session import Session
from instancefcn.studio.results import Kept
from instancefcn.studio.service import MAX_BYTES, SUFFIXES, ModelQueue

PROPOSALS = "instancefcn-objects"
LOCAL = ("127.0.0.1", "localhost", "::1")
"""Addresses that are reached from this computer alone."""


def workers(model: str | None) -> tuple[ModelQueue, ModelQueue, str]:
    """The two models, and which of them the page begins with: "predict" or "propose".

    Args:
        model: None for the bundled ones, which are loaded when they are first needed; else this one replaces
            the bundled model of its kind, and is loaded now, so that mistakes show at once.

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


def build_app(
    finder: ModelQueue,
    proposer: ModelQueue,
    verb: str = "predict",
    session: Session | None = None,
    *,
    hosts: Sequence[str] = (),
    token: str = "",
) -> FastAPI:
    """The application, ready for a server.

    Args:
        finder: finds objects of classes.
        proposer: finds objects of any class.
        verb: "predict" or "propose": which of the two the page begins with.
        session: open labels, or None: the page only looks.
        hosts: names by which a browser may call the server; none: any.
        token: a secret that the first address must have; "": none.
    """
    app = build_api(finder, proposer, Kept())
    if session is not None:
        app.include_router(build_routes(session))
        app.add_middleware(BodyLimit, path="/api/label/", most=MAX_BODY)
    assets = Path(str(files("instancefcn") / "studio" / "assets"))
    demo = Path(str(files("instancefcn") / "assets" / "demo"))
    examples = {path.name: path for path in find_images([demo])}

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(assets / "index.html")

    @app.get("/api/page")
    async def settings() -> dict[str, Any]:
        return {
            "label": session is not None,
            "verb": verb,
            "examples": list(examples),
            "max_bytes": MAX_BYTES,
            "suffixes": SUFFIXES,
        }

    app.mount("/assets", StaticFiles(directory=assets))
    app.mount("/examples", StaticFiles(directory=demo))
    app.add_middleware(Gate, hosts=tuple(hosts), token=token)
    return app


def serve(model: str | None, host: str, port: int) -> None:
    """Serve the page that looks, and the API, until the process is told to end.

    Args:
        model: see `workers`.
        host: the address to listen on; "127.0.0.1" is reached from this computer alone.
        port: 0 chooses a free one.

    Raises:
        CheckpointError: see `workers`.
        ConfigError: the address or the port cannot be used.
    """
    # Before anything is loaded: a taken port is the likeliest mistake.
    with _listen(host, port) as listener:
        _run(build_app(*workers(model), hosts=_hosts(host)), listener, host, "")


def label(
    source: Path | str,
    out: Path | str | None,
    classes: Sequence[str],
    model: str | None,
    host: str,
    port: int,
) -> None:
    """Serve the page that labels and looks until the process is told to end.

    Args:
        source, out, classes: see `open_labels`.
        model: suggests objects at first; None: the one trained here last, else the bundled one for objects of
            any class.
        host: the address to listen on; for any but this computer's own the page's address has a secret.
        port: 0 chooses a free one.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: the address or the port cannot be used, or another server has the labels open.
        DataError: there are no images, or the data set cannot be read.
        OutputError: `out` holds something else, or cannot be written.
    """
    from instancefcn.models.checkpoint import locate

    with _listen(host, port) as listener:
        if model is not None:
            locate(model)
        with progress() as show:
            labels = open_labels(source, out, classes, show)
        session = Session(labels, model)
        try:
            token = "" if host in LOCAL else secrets.token_urlsafe(16)
            finder, proposer, verb = workers(None)
            app = build_app(finder, proposer, verb, session, hosts=_hosts(host), token=token)
            print(f"{labels.store.out}: labels, train.json, val.json and images/", flush=True)
            if problems := labels.store.fact("problems"):
                print(
                    f"{len(problems)} problems in {source}, the first: {problems[0]}. The page lists all"
                    " under 'Check the labels'; what they concern is left out",
                    file=sys.stderr,
                    flush=True,
                )
            _run(app, listener, host, token)
        finally:
            session.close()


def _hosts(host: str) -> tuple[str, ...]:
    return LOCAL if host in LOCAL else ()


def _run(app: FastAPI, listener: socket.socket, host: str, token: str) -> None:
    import uvicorn

    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}" + (f"/?token={token}" if token else "")
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"{host}:{port} cannot be used ({reason}): name another --port (0 takes a free one) or --host"
        ) from error
