"""Position-sensitive operators: reading an object from k x k groups of maps.

Maps are `[N, k, k, 2, C, H, W]`: image, row part, column part, (0 outside, 1 inside), class with background
at 0, rows, columns; plain maps are `[N, k, k, D, H, W]`. RoIs are `[R, 5]`: batch index, x1, y1, x2, y2 in
image pixels, half-open; float32 or float64. `stride` is the side of a map cell in image pixels: cell (i, j)
covers pixels [j * stride, (j + 1) * stride) x [i * stride, (i + 1) * stride). Any strides in memory are
accepted; the order `[N, H, W, k, k, 2, C]`, which a channels-last convolution with channels ordered (part,
outside/inside, class) returns, is read without a copy.

Maps are float32, bfloat16, float16 or float64; sums are in float32 (float64 for float64), the result has the
maps' type. The maps have a gradient, RoIs and labels none. On a CPU the Numba kernels of `numba/` run, on a
GPU the Triton kernels of `triton/` (not for float64); elsewhere, without Numba
or Triton, or under `torch.export`, the plain PyTorch of `portable.py`; the answers are equal but
for rounding. `reference.py` specifies the operators, `voting/reference.py` the voting, in float64.
`depthwise_convolution` is PyTorch's own, with a gradient that is faster on a CPU.

Every operator raises ValueError for a shape, type, stride or size that does not fit. Batch indices, labels
and finite RoIs are checked on the CPU, in both forms; a GPU would have to be waited for, and the portable
form has no values to look at while it is compiled or exported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from instancefcn.ops import checks, portable, registration
from instancefcn.ops.forms import HAS_KERNELS, is_portable, using

if HAS_KERNELS:
    from instancefcn.ops.numba import depthwise

__all__ = [
    "HAS_KERNELS",
    "class_scores",
    "depthwise_convolution",
    "mask_logits",
    "ps_average",
    "using",
    "vote_masks",
]


def class_scores(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """Class scores of windows: the mean over each window of max(inside, outside).

    The window is cut into k x k equal parts and each part reads its own maps. Every cell counts by its exact
    overlap with the part, without rounding. What lies off the map does not count, nor in the divisor; a
    window that misses the map, or has no area, or is inverted, gives 0. The gradient of the maximum goes to
    the larger map, on a tie to the outside one.

    Args:
        maps: [N, k, k, 2, C, H, W].
        rois: [R, 5].
        stride: image pixels per cell.

    Returns:
        [R, C] logits in the maps' type (softmax over C gives class probabilities).
    """
    checks.check_paired_maps(maps)
    checks.check_windows(maps, rois, stride)
    if _portable(maps):
        checks.check_values(maps, rois)
        return portable.class_scores(maps, rois, stride)
    return registration.class_scores(maps, rois, float(stride))


def ps_average(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """The average of `class_scores` over plain maps, without a maximum (the box branch).

    Args:
        maps: [N, k, k, D, H, W].
        rois: [R, 5].
        stride: image pixels per cell.

    Returns:
        [R, D] in the maps' type.
    """
    checks.check_plain_maps(maps)
    checks.check_windows(maps, rois, stride)
    if _portable(maps):
        checks.check_values(maps, rois)
        return portable.ps_average(maps, rois, stride)
    return registration.ps_average(maps, rois, float(stride))


def mask_logits(maps: Tensor, rois: Tensor, labels: Tensor, stride: float, size: int = 21) -> Tensor:
    """Mask logits of chosen (window, class) pairs: inside - outside on a size x size grid over the window.

    The sigmoid is the softmax over the pair. Each point is read bilinearly, values standing at the cells'
    centres (+0.5), clamped to the map, from the map of the part it lies in: grid step a belongs to part
    floor((a + 0.5) * k / size). A window without area reads one point everywhere.

    Args:
        maps: [N, k, k, 2, C, H, W] with H and W at least 1.
        rois: [R, 5].
        labels: [R] integers, index of the maps' class axis (background 0).
        stride: image pixels per cell.
        size: points per side.

    Returns:
        [R, size, size], rows first, in the maps' type.
    """
    checks.check_paired_maps(maps)
    checks.check_windows(maps, rois, stride)
    checks.check_label_shape(labels, rois)
    checks.check_size(size)
    if maps.shape[5] == 0 or maps.shape[6] == 0:
        raise ValueError(
            f"maps must have at least one row and column to be read, got shape {tuple(maps.shape)}"
        )
    if _portable(maps):
        checks.check_values(maps, rois, labels)
        return portable.mask_logits(maps, rois, labels, stride, size)
    return registration.mask_logits(maps, rois, labels, float(stride), size)


def depthwise_convolution(
    x: Tensor, filters: Tensor, bias: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    """Convolution with one filter a channel, for training: the library's, with a gradient that is fast on a
    CPU (see `numba/depthwise.py`). Under autocast it computes in half precision, but for float64, as the
    library's does.

    Args:
        x: [N, C, H, W].
        filters: [C, 1, K, K].
        bias: [C]; has no gradient.
        stride, padding, dilation: the same along both axes.

    Returns:
        [N, C, H', W'].
    """
    bias = bias.detach()
    if x.device.type != "cpu" or _portable(x):
        return F.conv2d(x, filters, bias, stride, padding, dilation, x.shape[1])
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu")
        x, filters, bias = (t if t.dtype == torch.float64 else t.to(half) for t in (x, filters, bias))
    return depthwise.depthwise_conv2d(x, filters, bias, stride, padding, dilation)


def _portable(maps: Tensor) -> bool:
    return is_portable(maps.device) or (maps.device.type == "cuda" and maps.dtype == torch.float64)


# Last, because voting is built on what stands above.
from instancefcn.ops.voting.operator import vote_masks  # noqa: E402
