"""A model that knows red and green behind the web application's queue, with a gate to hold it at."""

from __future__ import annotations

import threading
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
