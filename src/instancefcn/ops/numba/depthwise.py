"""Depthwise convolution whose training is as fast on a CPU as its inference.

It is not an operator of the papers, but a training step of `fcis_lite` on a laptop spends its time here.
PyTorch's gradient of a depthwise filter takes ten to seventy times as long as the convolution (dilated, or in
bfloat16); here it takes about twice as long. The gradient of the input is a convolution with the flipped
filter. The forward pass is PyTorch's. `benchmarks/training_step.py` measures both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import prange
from torch import Tensor
from torch.library import custom_op
from torch.nn.grad import conv2d_input

from instancefcn.ops.numba.kernels import compiled
from instancefcn.ops.numba.threads import threads


@custom_op("instancefcn::depthwise_conv2d", mutates_args=(), device_types="cpu")
def depthwise_conv2d(
    x: Tensor, filters: Tensor, bias: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    """`torch.nn.functional.conv2d` with one filter per channel.

    Args:
        x: [N, C, H, W]; float32, float64, bfloat16 or float16.
        filters: [C, 1, K, K], of the same type.
        bias: [C], of the same type; it gets no gradient.
        stride, padding, dilation: in cells, the same along both axes.

    Returns:
        [N, C, H', W'].
    """
    return F.conv2d(x, filters, bias, stride, padding, dilation, x.shape[1])


@depthwise_conv2d.register_fake
def _(x: Tensor, filters: Tensor, bias: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    return F.conv2d(x, filters, bias, stride, padding, dilation, x.shape[1])


@custom_op("instancefcn::depthwise_filter_gradient", mutates_args=(), device_types="cpu")
def filter_gradient(grad: Tensor, x: Tensor, size: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Gradient [C, 1, size, size] of the filters, in the type of `x`. Sums are float32 (float64 for float64)
    and do not depend on the number of threads.
    """
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = torch.empty((x.shape[1], size * size), dtype=working)
    with threads(grad.numel() * size * size):
        _filter_gradient(
            _rows(grad, working), _rows(x, working), size, stride, padding, dilation, out.numpy()
        )
    return out.view(x.shape[1], 1, size, size).to(x.dtype)


@filter_gradient.register_fake
def _(grad: Tensor, x: Tensor, size: int, stride: int, padding: int, dilation: int) -> Tensor:
    return x.new_empty((x.shape[1], 1, size, size))


def _rows(x: Tensor, working: torch.dtype) -> Any:
    """[N, C, H, W] as an array [N, H, W, C]; a view if the memory is channels-last."""
    return x.detach().to(working).permute(0, 2, 3, 1).contiguous().numpy()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, filters, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, filters)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
    x, filters = ctx.saved_tensors
    stride, padding, dilation = ctx.geometry
    size, channels = filters.shape[-1], x.shape[1]
    grad_x = grad_filters = None
    reach = dilation * (size - 1) - padding
    if ctx.needs_input_grad[0] and stride == 1 and reach >= 0:
        grad_x = F.conv2d(grad, filters.flip(2, 3), None, 1, reach, dilation, channels)
    elif ctx.needs_input_grad[0]:
        # In float32 also for half precision, in which this gradient is several times as slow.
        wide = torch.promote_types(x.dtype, torch.float32)
        grad_x = conv2d_input(
            x.shape, filters.to(wide), grad.to(wide), stride, padding, dilation, channels
        ).to(x.dtype)
    if ctx.needs_input_grad[1]:
        grad_filters = filter_gradient(grad, x, size, stride, padding, dilation)
    return grad_x, grad_filters, None, None, None, None


depthwise_conv2d.register_autograd(_backward, setup_context=_setup)


@compiled(parallel=True)
def _filter_gradient(
    grad: Any, x: Any, size: int, stride: int, padding: int, dilation: int, out: Any
) -> None:
    """grad [N, H', W', C], x [N, H, W, C] -> out [C, size^2].

    Each thread owns a block of channels, whose sums fit the nearest cache. Loops over a constant number of
    channels compile to vector instructions without a remainder.
    """
    height, width, channels = x.shape[1:]
    for block in prange((channels + 47) // 48):
        first = block * 48
        count = min(48, channels - first)
        sums = np.zeros((size * size, 48), x.dtype)
        for n in range(grad.shape[0]):
            for i in range(grad.shape[1]):
                for p in range(size):
                    y = i * stride + p * dilation - padding
                    if y < 0 or y >= height:
                        continue
                    for q in range(size):
                        shift = q * dilation - padding
                        begin = (max(0, -shift) + stride - 1) // stride
                        end = min(grad.shape[2], (width - 1 - shift) // stride + 1)
                        for j in range(begin, end):
                            column = j * stride + shift
                            if count == 48:
                                g, v = grad[n, i, j, first : first + 48], x[n, y, column, first : first + 48]
                                for c in range(48):
                                    sums[p * size + q, c] += g[c] * v[c]
                            else:
                                for part in range(0, count - 15, 16):
                                    g, v = grad[n, i, j, first + part :], x[n, y, column, first + part :]
                                    total = sums[p * size + q, part:]
                                    for c in range(16):
                                        total[c] += g[c] * v[c]
                                for c in range(count - count % 16, count):
                                    sums[p * size + q, c] += (
                                        grad[n, i, j, first + c] * x[n, y, column, first + c]
                                    )
        for t in range(size * size):
            for c in range(count):
                out[first + c, t] = sums[t, c]
