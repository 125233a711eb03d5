"""Depthwise convolution for training: the library's values, and gradients checked against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instancefcn import ops
from instancefcn.ops.numba import threads as parallel

pytestmark = pytest.mark.skipif(not ops.HAS_KERNELS, reason="needs Numba")

# Around the kernel's blocks of 48 channels and 16.
CHANNELS = st.sampled_from([1, 3, 15, 16, 17, 47, 48, 49, 64, 80, 97])


def inputs(
    channels: int, height: int, width: int, size: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(channels + 100 * height + 1000 * size)
    x = torch.randn(2, channels, height, width, generator=random)
    filters = torch.randn(channels, 1, size, size, generator=random)
    return x.to(dtype), filters.to(dtype), torch.randn(channels, generator=random).to(dtype)


def gradients(form: Any, x: Tensor, filters: Tensor, bias: Tensor, *geometry: int) -> tuple[Tensor, ...]:
    x, filters = x.clone().requires_grad_(), filters.clone().requires_grad_()
    out = form(x, filters, bias, *geometry)
    upstream = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).reshape(out.shape).to(out.dtype)
    return (out.detach(), *torch.autograd.grad(out, (x, filters), upstream))


def library(x: Tensor, filters: Tensor, bias: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    return F.conv2d(x, filters, bias, stride, padding, dilation, x.shape[1])


def exact(x: Tensor, filters: Tensor, bias: Tensor, *geometry: int) -> tuple[Tensor, ...]:
    return gradients(library, x.double(), filters.double(), bias.double(), *geometry)


@settings(max_examples=60, deadline=None)
@given(
    channels=CHANNELS,
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 6),
    dilation=st.integers(1, 3),
    channels_last=st.booleans(),
)
def test_equals_the_library_in_double_precision(
    channels: int,
    height: int,
    width: int,
    size: int,
    stride: int,
    padding: int,
    dilation: int,
    channels_last: bool,
) -> None:
    padding = max(padding, (dilation * (size - 1) + 2 - min(height, width)) // 2)  # something comes out
    x, filters, bias = inputs(channels, height, width, size)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    geometry = (stride, padding, dilation)
    own = gradients(ops.depthwise_convolution, x, filters, bias, *geometry)
    for found, wanted in zip(own, exact(x, filters, bias, *geometry), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, stride: int, dilation: int) -> None:
    x, filters, bias = inputs(48, 12, 10, 5, dtype)
    geometry = (stride, 2 * dilation, dilation)
    own = gradients(ops.depthwise_convolution, x, filters, bias, *geometry)
    for found, wanted in zip(own, exact(x, filters, bias, *geometry), strict=True):
        assert found.dtype == dtype
        assert (found.double() - wanted).abs().max() <= 0.02 * wanted.abs().max()


def test_gradcheck() -> None:
    x, filters, bias = inputs(3, 5, 6, 3, torch.float64)
    for geometry in ((1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 5, 1)):

        def call(x: Tensor, filters: Tensor, geometry: tuple[int, int, int] = geometry) -> Tensor:
            return ops.depthwise_convolution(x, filters, bias, *geometry)

        assert torch.autograd.gradcheck(call, (x.clone().requires_grad_(), filters.clone().requires_grad_()))


def test_autocast_computes_in_half_precision_and_returns_gradients_in_the_weights_type() -> None:
    x, filters, bias = inputs(48, 8, 8, 3)
    x.requires_grad_()
    filters.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.depthwise_convolution(x, filters, bias, 1, 1, 1)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert filters.grad is not None
    assert filters.grad.dtype == torch.float32


def test_autocast_leaves_double_precision_alone() -> None:
    inputs_ = inputs(5, 8, 8, 3, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        out, wanted = ops.depthwise_convolution(*inputs_, 1, 1, 1), library(*inputs_, 1, 1, 1)
    assert out.dtype == wanted.dtype == torch.float64
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("form", ["portable", "fastest"])
def test_the_bias_has_no_gradient(form: Any) -> None:
    x, filters, bias = inputs(4, 6, 6, 3)
    with ops.using(form):
        out = ops.depthwise_convolution(x, filters.requires_grad_(), bias.requires_grad_(), 1, 1, 1)
    out.sum().backward()
    assert filters.grad is not None
    assert bias.grad is None


def test_no_gradient_where_none_is_needed() -> None:
    """A frozen filter, or an input without gradient: only the other gradient."""
    x, filters, bias = inputs(4, 6, 6, 3)
    filters.requires_grad_()
    ops.depthwise_convolution(x, filters, bias, 1, 1, 1).sum().backward()
    assert filters.grad is not None
    assert x.grad is None


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SMALL", -1)
    x, filters, bias = inputs(97, 12, 12, 5)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(gradients(ops.depthwise_convolution, x, filters, bias, 1, 2, 1)[2])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_opcheck() -> None:
    x, filters, bias = inputs(5, 6, 7, 3)
    gradient = (torch.ones(2, 5, 6, 7), x.clone(), 3, 1, 2, 2)  # itself without a gradient
    torch.library.opcheck(torch.ops.instancefcn.depthwise_filter_gradient.default, gradient)
    leaves = x.requires_grad_(), filters.requires_grad_()
    torch.library.opcheck(torch.ops.instancefcn.depthwise_conv2d.default, (*leaves, bias, 1, 2, 2))
