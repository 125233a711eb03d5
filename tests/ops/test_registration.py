"""The torch.library operators: opcheck, torch.compile, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from instancefcn import ops

needs_kernels = pytest.mark.skipif(not ops.HAS_KERNELS, reason="needs Numba")

PAIRED = torch.randn(2, 3, 3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
PLAIN = PAIRED[:, :, :, 0]
ROIS = torch.tensor([[0, 3.0, 5, 40, 30], [1, -9, 2, 17, 80], [0, 10, 10, 10, 10]])
LABELS = torch.tensor([1, 3, 0])
CALLS: dict[str, tuple[Any, ...]] = {
    "class_scores": (PAIRED, ROIS, 8.0),
    "ps_average": (PLAIN, ROIS, 8.0),
    "mask_logits": (PAIRED, ROIS, LABELS, 8.0, 5),
}
BACKWARD: dict[str, tuple[Any, ...]] = {
    "class_scores_backward": (torch.ones(3, 4), PAIRED, ROIS, 8.0),
    "ps_average_backward": (torch.ones(3, 4), ROIS, 8.0, 2, 3, 5, 6),
    "mask_logits_backward": (torch.ones(3, 5, 5), ROIS, LABELS, 8.0, 2, 3, 4, 5, 6),
}


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    maps, *rest = CALLS[name]
    torch.library.opcheck(
        getattr(torch.ops.instancefcn, name).default, (maps.to(dtype).clone().requires_grad_(), *rest)
    )


@needs_kernels
@pytest.mark.parametrize("name", BACKWARD)
def test_opcheck_backward(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.instancefcn, name).default, BACKWARD[name])


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "fastest") for name in CALLS), ("class_scores", "portable"), ("mask_logits", "portable")],
)
def test_compile_without_graph_breaks(name: str, form: Any) -> None:
    """Equal values and gradients, and no second compilation for another number of windows."""
    operator: Callable[..., Tensor] = getattr(ops, name)
    torch._dynamo.reset()
    with ops.using(form):
        compiled = torch.compile(operator, fullgraph=True, backend="aot_eager", dynamic=True)
        for rows in ([0, 1, 2], [1, 0, 2, 2, 1]):
            maps, rois, *rest = CALLS[name]
            rest = [value[rows] if isinstance(value, Tensor) else value for value in rest]
            results = []
            for call in (operator, compiled):
                leaf = maps.clone().requires_grad_()
                out = call(leaf, rois[rows], *rest)
                out.square().sum().backward()
                results.append((out.detach(), leaf.grad))
            torch.testing.assert_close(results[1], results[0])


def test_a_whole_model_compiles_from_convolution_to_loss() -> None:
    """The layout the network uses: a view of a channels-last convolution's output."""
    conv = torch.nn.Conv2d(8, 3 * 3 * 2 * 4, 1).to(memory_format=torch.channels_last)
    image = torch.randn(2, 8, 5, 6).to(memory_format=torch.channels_last)

    def loss(features: Tensor) -> Tensor:
        maps = conv(features).permute(0, 2, 3, 1).unflatten(3, (3, 3, 2, 4)).permute(0, 3, 4, 5, 6, 1, 2)
        scores = ops.class_scores(maps, ROIS, 8.0)
        return scores.square().sum() + ops.mask_logits(maps, ROIS, LABELS, 8.0).square().mean()

    torch._dynamo.reset()
    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        conv.zero_grad()
        function(image).backward()
        assert conv.weight.grad is not None
        grads.append(conv.weight.grad.clone())
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("form", ["portable", "fastest"])
@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        ("class_scores", 0, PLAIN, r"maps .*\(2, 3, 3, 4, 5, 6\)"),
        ("ps_average", 0, PAIRED, r"maps .*\[N, k, k, D, H, W\]"),
        ("mask_logits", 0, PAIRED[:, :2], "maps"),
        ("class_scores", 0, PAIRED.long(), r"maps .*int64"),
        ("class_scores", 1, ROIS[:, 1:], r"rois .*\[R, 5\]"),
        ("ps_average", 1, ROIS.half(), r"rois .*float16"),
        ("ps_average", 1, ROIS + 1, r"rois\[1, 0\] is 2\.0"),
        ("ps_average", 1, ROIS - 1, r"rois\[0, 0\] is -1.0"),
        ("class_scores", 1, ROIS + 0.5, r"rois\[0, 0\] is 0.5"),
        ("class_scores", 1, ROIS * float("nan"), r"rois .*row 0"),
        ("mask_logits", 2, LABELS + 1, r"labels\[1\] is 4"),
        ("mask_logits", 2, LABELS - 1, r"labels\[2\] is -1"),
        ("mask_logits", 2, LABELS[:2], r"labels .*\(2,\)"),
        ("mask_logits", 2, LABELS.float(), r"labels .*float32"),
        ("mask_logits", 0, PAIRED[..., :0], r"maps .* row and column"),
        ("class_scores", 2, 0.0, r"stride .*0\.0"),
        ("class_scores", 2, float("nan"), r"stride .*nan"),
        ("mask_logits", 4, 0, r"size .*0"),
    ],
)
def test_wrong_arguments_are_named(name: str, position: int, value: object, message: str, form: Any) -> None:
    arguments = list(CALLS[name])
    arguments[position] = value
    with ops.using(form), pytest.raises(ValueError, match=message):
        getattr(ops, name)(*arguments)


@pytest.mark.parametrize("form", ["portable", "fastest"])
@pytest.mark.parametrize("name", CALLS)
def test_tensors_without_values_are_not_looked_at(name: str, form: Any) -> None:
    """Fake tensors say that they are on the CPU."""
    mode = FakeTensorMode()
    maps, *rest = CALLS[name]
    given = [mode.from_tensor(v) if isinstance(v, Tensor) else v for v in (maps[:1], *rest)]
    with mode, ops.using(form):
        found = getattr(ops, name)(*given)
    assert found.shape == getattr(ops, name)(maps, *rest).shape
