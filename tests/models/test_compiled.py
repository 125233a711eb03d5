"""From images to scored windows nothing waits for a GPU: a graph of fixed shapes for compilers and CUDA
graphs.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from instancefcn.models import zoo
from instancefcn.models.fcis import FCIS, Windows
from instancefcn.ops import forms
from instancefcn.ops.voting.survivors import side_by_side
from tiny import tiny_spec

SIZES = [(64, 96), (50, 60)]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


def network() -> FCIS:
    torch.manual_seed(0)
    return zoo.build(tiny_spec(), 2).eval()


def random_images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


def test_compiled_as_one_graph_with_equal_results() -> None:
    net, images = network(), random_images()
    expected = net(images)
    compiled = torch.compile(net.score_windows, fullgraph=True, dynamic=False, backend="aot_eager")
    net.score_windows = compiled  # type: ignore[method-assign]
    for found, wanted in zip(net(images), expected, strict=True):
        assert len(found) == len(wanted) > 0
        assert torch.equal(found.scores, wanted.scores)
        assert torch.equal(found.boxes, wanted.boxes)
        assert torch.equal(found.masks.pixels, wanted.masks.pixels)


def test_anchors_are_the_same_in_half_precision() -> None:
    net, features = network(), torch.zeros(1, 1, 2, 3)
    wanted = net.rpn.grid(features)
    assert torch.equal(net.bfloat16().rpn.grid(features), wanted)
    assert wanted.dtype == torch.float32


class Transfers(TorchDispatchMode):
    """Notes what goes from one device to another. What reads a value fails by itself: it is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {part.device for part in (*args, out) if isinstance(part, Tensor)}
        if len(devices) > 1:
            self.seen.append(str(func))
        return out


def on_a_gpu(net: nn.Module) -> None:
    """Inside `FakeTensorMode`: its tensors become such as lie on a GPU that need not exist."""
    for module in net.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")


@needs_triton
def test_nothing_is_read_back_from_a_gpu() -> None:
    """With tensors that have no values: a result whose shape depends on them, or a value that is looked at,
    cannot be.
    """
    net = network()
    assert forms.has_triton()
    with FakeTensorMode(), Transfers() as transfers:
        on_a_gpu(net)
        batch = torch.rand(2, 3, 64, 96, device="cuda")
        with torch.inference_mode():
            windows = net.score_windows(batch, SIZES)
        found = side_by_side(windows.boxes, windows.probabilities, 0.3, 0.05, 7)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            windows.boxes.sum().item()  # the test can fail
    assert isinstance(windows, Windows)
    count = 2 * net.rpn.spec.after_nms
    assert windows.boxes.shape == (2, count, 4)
    assert windows.probabilities.shape == (2, count, 3)
    assert windows.boxes.device.type == "cuda"
    assert windows.boxes.dtype == windows.probabilities.dtype == torch.float32
    assert [part.shape for part in found] == [(2, 7)] * 3
    assert transfers.seen == []


def test_a_batch_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = FCIS.masks

    def spy(self: FCIS, maps: Any, rois: Tensor, classes: Tensor) -> Tensor:
        calls.append(len(rois))
        return original(self, maps, rois, classes)

    monkeypatch.setattr(FCIS, "masks", spy)
    network()(random_images())
    assert len(calls) == 1
