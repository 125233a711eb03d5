"""A model that knows red and green behind the web application's queue, with a gate to hold it at; and the
application under a real server.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

from PIL import Image

from fakes import NAMES, ColourNetwork, FakeLoaded
from instancefcn.inference.predictor import Predictor
from instancefcn.instances import Instances
from instancefcn.studio.service import ModelQueue


@dataclass
class Served:
    """Every image waits at the gate, inside the network's call, while it is shut."""

    names: tuple[str, str] = NAMES
    network: ColourNetwork = field(default_factory=ColourNetwork)
    gate: threading.Event = field(default_factory=threading.Event)
    loads: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self.gate.set()
        self.network.register_forward_pre_hook(self._enter)
        self.network.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.gate.wait(20)

    def _leave(self, _module: Any, _images: Any, found: list[Instances]) -> list[Instances]:
        self.at_once -= 1
        return [replace(one, class_names=self.names) for one in found]

    @property
    def runs(self) -> int:
        """How often the network ran."""
        return len(self.network.calls)

    def load(self) -> Predictor:
        self.loads += 1
        return Predictor(FakeLoaded(self.network), "cpu")  # type: ignore[arg-type]

    def worker(self, waiting: int = 16) -> ModelQueue:
        return ModelQueue(self.load, waiting)


def as_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """The address of an application under a server, in a thread."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off"))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listener]),))
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


def watched(browser: Any, url: str, **options: Any) -> Any:
    """A page at an address that notes errors of its scripts, and requests to elsewhere."""
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **options})
    page.set_default_timeout(30_000)
    page.errors, page.elsewhere = [], []
    page.on("pageerror", lambda error: page.errors.append(error))
    page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
    own = (url, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(own) or page.elsewhere.append(request.url))
    page.goto(url)
    return page
