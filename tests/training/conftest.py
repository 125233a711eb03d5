"""Runs of a tiny network on tiny images: a whole one takes a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_network import TinyNetwork

Train = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than so little work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[TinyNetwork]:
    """Builds the tiny network instead of every model; the list holds those that were built."""
    from instancefcn.models import zoo
    from instancefcn.models.head import Classes

    built: list[TinyNetwork] = []

    def build(spec: object, *, class_names: Any, category_ids: Any, **ignored: object) -> TinyNetwork:
        torch.manual_seed(5)
        built.append(TinyNetwork(Classes(tuple(class_names), tuple(category_ids))))
        return built[-1]

    monkeypatch.setattr(zoo, "build", build)
    return built


@pytest.fixture
def tiny_train(
    networks: list[TinyNetwork],
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Train:
    """`train` with small settings: 6 images in batches of 2, no reading processes. The plot of the curves
    takes longer than all the rest and is left out, except for a test that asks for the fixture `curves`."""
    from instancefcn.training import loop

    if "curves" not in request.fixturenames:
        monkeypatch.setattr(loop, "plot_curves", lambda rows, path: None)

    def run(out: Path, model: str | None = None, **settings: Any) -> Path:
        small = {
            "data": tiny_data,
            "batch_size": 2,
            "epochs": 2,
            "workers": 0,
            "short_side": 64,
            "long_side": 64,
            "train_short": (48, 64),
            "learning_rate": 0.1,
            "warmup": 2,
            "accelerator": "cpu",
            "init": None,
            "sheets_every": 0,
            "evaluate_every": 0,
            "log_every": 1,
        }
        return loop.train(model=model, out=out, **(small | settings))

    return run


@pytest.fixture
def curves() -> None:
    """The runs of this test plot their curves."""


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 train and 2 val images of 64 px. Read only."""
    from instancefcn.data.synthetic import write_shapes

    return write_shapes(tmp_path_factory.mktemp("tiny"), train=6, val=2, size=64, seed=1)
