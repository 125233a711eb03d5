"""Position-sensitive operators: reading objects from k x k groups of score maps.

There are two: `class_scores` is the mean of max(inside, outside) over a window, `mask_logits` is
inside - outside on a grid over it. `reference.py` specifies both as slow, obvious loops. The fast forms equal
it but for rounding: `portable.py` (plain PyTorch), `numba/` (CPU) and `triton/` (GPU).

`__all__` is the public list. It adds `ps_average`, the mean over plain maps; `vote_masks`, mask voting, with
its specification and its forms in `voting/`; and `depthwise_convolution`, which trains fast on a CPU.

Maps are `[N, k, k, 2, C, H, W]`: image, row part, column part, (0 outside, 1 inside), class with background
at 0, rows, columns. Plain maps are `[N, k, k, D, H, W]`. They are float32, bfloat16, float16 or float64 and
have a gradient; sums are float32 (float64 for float64), and results have the maps' type. Any memory layout is
accepted; `[N, H, W, k, k, 2, C]`, which a channels-last convolution returns, is read without a copy.

RoIs are `[R, 5]`, float32 or float64: batch index, x1, y1, x2, y2 in image pixels, half-open. `stride` is the
side of a map cell in image pixels: cell (i, j) covers pixels
[j * stride, (j + 1) * stride) x [i * stride, (i + 1) * stride).

Maps on a CPU run the Numba kernels, maps on a GPU the Triton kernels (float64: the portable form). Without
Numba or Triton, on other devices and under `torch.export` the portable form runs; `using` selects it.

Every operator raises ValueError for a shape, type, stride or size that does not fit. Batch indices, labels
and finite RoIs are checked on the CPU only: on a GPU the check would wait for the device, and a compiled or
exported portable form has no values to check.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from instancefcn.ops import checks, portable, registration
from instancefcn.ops.forms import HAS_KERNELS, is_portable, using
from instancefcn.ops.voting.operator import vote_masks

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

    The window is cut into k x k equal parts, and each part reads its own maps. Every cell is weighted by its
    exact overlap with the part, without rounding. The average is over the window's area on the map; a window
    that misses the map, has no area or is inverted gives 0. The gradient of the maximum goes to the larger
    map, on a tie to the outside one.

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
    """The average of `class_scores` over plain maps, without the maximum: for the box branch.

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

    Their sigmoid is the softmax over the pair of maps. A point is read bilinearly from the maps of its part:
    grid step a belongs to part floor((a + 0.5) * k / size). A cell's value is at its centre (+0.5), and
    points are clamped to the outermost centres. A window without area reads the same point everywhere.

    Args:
        maps: [N, k, k, 2, C, H, W] with H and W at least 1.
        rois: [R, 5].
        labels: [R] integers, indices of the maps' class axis (background 0).
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
    """PyTorch's convolution with one filter per channel, and a gradient that is fast on a CPU.

    See `numba/depthwise.py`. Under autocast it computes in half precision, except for float64, as PyTorch's
    does.

    Args:
        x: [N, C, H, W].
        filters: [C, 1, K, K].
        bias: [C]; gets no gradient.
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
