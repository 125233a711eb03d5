"""Looking into runs of the tiny network, and disturbing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny_network import TinyNetwork


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "last.ckpt", weights_only=True)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages and optimizer state agree to the last bit."""
    a, b = state(one), state(other)
    for left, right in (
        (a["network"], b["network"]),
        (a["average"], b["average"]),
        (load_file(one / "last.safetensors"), load_file(other / "last.safetensors")),
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    moments = [s["optimizer"]["state"] for s in (a, b)]
    assert moments[0].keys() == moments[1].keys()
    for index, entry in moments[0].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(moments[1][index][k])) for k, v in entry.items()
        )
    assert (a["seen"], a["step"], a["rate"], a["row"]) == (b["seen"], b["step"], b["rate"], b["row"])


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Do something in the middle of the forward pass number `step`, once."""
    forward, calls = TinyNetwork.forward, [0]

    def interrupted(self: TinyNetwork, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            calls[0] += 1
            if calls[0] == step:
                action()
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(TinyNetwork, "forward", interrupted)


class PowerFailure(BaseException):
    """What no code of a run handles: as when the machine stops."""


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The power fails in the middle of the forward pass number `step`."""

    def fail() -> None:
        raise PowerFailure

    stop_at(monkeypatch, step, fail)
