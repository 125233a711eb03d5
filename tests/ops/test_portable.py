"""What only the portable form promises: export, bounded memory, full precision under autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from instancefcn import ops
from instancefcn.ops import portable

PAIRED = torch.randn(1, 3, 3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
ROIS = torch.tensor([[0, 3.0, 5, 40, 30], [0, -9, 2, 17, 80], [0, 10, 10, 10, 10]])
LABELS = torch.tensor([1, 3, 0])


class Head(nn.Module):
    def forward(self, maps: Tensor, rois: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        plain = maps[:, :, :, 0]
        return (
            ops.class_scores(maps, rois, 8.0),
            ops.ps_average(plain, rois, 8.0),
            ops.mask_logits(maps, rois, labels, 8.0, 5),
        )


def test_export_to_standard_operators_for_any_number_of_windows() -> None:
    windows = torch.export.Dim("windows", min=2, max=1000)
    program = torch.export.export(
        Head(), (PAIRED, ROIS, LABELS), dynamic_shapes=(None, {0: windows}, {0: windows})
    )
    named = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in named if name.startswith("instancefcn")]
    rows = [2, 0, 1, 1, 0]
    expected = Head()(PAIRED, ROIS[rows], LABELS[rows])
    torch.testing.assert_close(
        program.module()(PAIRED, ROIS[rows], LABELS[rows]), expected, rtol=1e-5, atol=1e-5
    )


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation made in new memory."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given, self.elements = given.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.given:
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("training", [False, True])
def test_class_scores_make_nothing_of_the_pooled_size(training: bool) -> None:
    windows, classes, k, height, width, m = 200, 21, 3, 12, 16, 21
    maps = torch.randn(1, k, k, 2, classes, height, width, requires_grad=training)
    corner = torch.rand(windows, 2) * 64
    rois = torch.cat([torch.zeros(windows, 1), corner, corner + 64], 1)
    with Largest(maps) as largest:
        scores = portable.class_scores(maps, rois, 8.0)
        if training:
            scores.sum().backward()
    assert 0 < largest.elements <= max(classes * height * windows, maps.numel())
    assert largest.elements < windows * 2 * classes * m * m / 20


@pytest.mark.parametrize("name", ["class_scores", "ps_average"])
def test_autocast_does_not_lower_the_precision(name: str) -> None:
    maps = PAIRED if name == "class_scores" else PAIRED[:, :, :, 0]
    operator = getattr(portable, name)
    expected = operator(maps, ROIS, 8.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator(maps, ROIS, 8.0), expected)


def test_using_chooses_the_form_and_restores_it() -> None:
    maps = PAIRED.clone().requires_grad_()
    kernel = "instancefcn" if ops.HAS_KERNELS else "Div"
    with ops.using("portable"):
        assert "instancefcn" not in str(ops.class_scores(maps, ROIS, 8.0).grad_fn)
    assert kernel in str(ops.class_scores(maps, ROIS, 8.0).grad_fn) or not ops.HAS_KERNELS
    with pytest.raises(ValueError, match="form must be"), ops.using("quick"):  # type: ignore[arg-type]
        pass


def test_gradients_in_half_precision_are_summed_in_full() -> None:
    """A hundred windows read the same cells: sums of bfloat16 would stop growing."""
    maps = torch.randn((1, 1, 1, 2, 1, 3, 3), generator=torch.Generator().manual_seed(1))
    rois = torch.tensor([[0.0, 0, 0, 24, 24]]).expand(100, 5)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = maps.to(dtype, copy=True).requires_grad_()
        labels = torch.zeros(100, dtype=torch.int64)
        portable.mask_logits(leaf, rois, labels, 8.0, 5).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad.float())
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2)
