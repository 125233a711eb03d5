"""Position-sensitive operators: reading an object from k x k groups of maps.

Maps are `[N, k, k, 2, C, H, W]`: image, row part, column part, (0 outside, 1 inside), class with background
at 0, rows, columns; plain maps are `[N, k, k, D, H, W]`. RoIs are `[R, 5]`: batch index, x1, y1, x2, y2 in
image pixels, half-open; float32 or float64. `stride` is the side of a map cell in image pixels: cell (i, j)
covers pixels [j * stride, (j + 1) * stride) x [i * stride, (i + 1) * stride). Any strides in memory are
accepted; the order `[N, H, W, k, k, 2, C]`, which a channels-last convolution with channels ordered (part,
outside/inside, class) returns, is read without a copy.

Maps are float32, bfloat16, float16 or float64; sums are in float32 (float64 for float64), the result has the
maps' type. The maps have a gradient, RoIs and labels none. On a CPU the Numba kernels of `cpu.py` run, on a
GPU the Triton kernels of `cuda.py` (not for float64, nor for the published pooling); elsewhere, without Numba
or Triton, or under `torch.export`, the plain PyTorch of `portable.py`; the answers are equal but
for rounding. `reference.py` specifies the operators, `voting_reference.py` the voting, in float64.
`depthwise_convolution` is PyTorch's own, with a gradient that is faster on a CPU.

Every operator raises ValueError for a shape, type, stride or size that does not fit. Batch indices, labels
and finite RoIs are checked on the CPU, in both forms; a GPU would have to be waited for, and the portable
form has no values to look at while it is compiled or exported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from instancefcn.ops import portable, registration
from instancefcn.ops.checks import check_labels, check_rois
from instancefcn.ops.forms import HAS_KERNELS, is_portable, using

if HAS_KERNELS:
    from instancefcn.ops.numba import depthwise

__all__ = [
    "HAS_KERNELS",
    "class_scores",
    "depthwise_convolution",
    "mask_logits",
    "ps_average",
    "psroi_average_pool",
    "using",
    "vote_masks",
]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    _check_paired(maps)
    _check_common(maps, rois, stride)
    if _portable(maps):
        _check_values(maps, rois)
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
    _check_plain(maps)
    _check_common(maps, rois, stride)
    if _portable(maps):
        _check_values(maps, rois)
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
    _check_paired(maps)
    _check_common(maps, rois, stride)
    _check_labels(labels, rois)
    _check_size(size)
    if maps.shape[5] == 0 or maps.shape[6] == 0:
        raise ValueError(
            f"maps must have at least one row and column to be read, got shape {tuple(maps.shape)}"
        )
    if _portable(maps):
        _check_values(maps, rois, labels)
        return portable.mask_logits(maps, rois, labels, stride, size)
    return registration.mask_logits(maps, rois, labels, float(stride), size)


def psroi_average_pool(maps: Tensor, rois: Tensor, stride: float, size: int = 21) -> Tensor:
    """The published networks' quantised pooling: size x size bins, each the mean of every cell it touches.

    A window is at least 0.1 cell wide and high (grown to the right and downwards); bin edges are real-valued,
    floor of the start and ceil of the end, clipped to the map; an empty bin is 0. Bin a reads part floor(a *
    k / size). Edges are computed in float64.

    Args:
        maps: [N, k, k, D, H, W].
        rois: [R, 5].
        stride: image pixels per cell.
        size: bins per side.

    Returns:
        [R, D, size, size] in the maps' type.
    """
    _check_plain(maps)
    _check_common(maps, rois, stride)
    _check_size(size)
    if maps.device.type != "cpu" or _portable(maps):
        _check_values(maps, rois)
        return portable.psroi_average_pool(maps, rois, stride, size)
    return registration.psroi_average_pool(maps, rois, float(stride), size)


def depthwise_convolution(
    x: Tensor, filters: Tensor, bias: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    """Convolution with one filter a channel, for training: the library's, with a gradient that is fast on a
    CPU (see `depthwise.py`). Under autocast it computes in half precision, but for float64, as the library's
    does.

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


def _check_paired(maps: Tensor) -> None:
    if maps.dim() != 7 or maps.shape[1] != maps.shape[2] or maps.shape[1] < 1 or maps.shape[3] != 2:
        raise ValueError(
            f"maps must be [N, k, k, 2, C, H, W] with k at least 1, got shape {tuple(maps.shape)}"
        )


def _check_plain(maps: Tensor) -> None:
    if maps.dim() != 6 or maps.shape[1] != maps.shape[2] or maps.shape[1] < 1:
        raise ValueError(f"maps must be [N, k, k, D, H, W] with k at least 1, got shape {tuple(maps.shape)}")


def _check_common(maps: Tensor, rois: Tensor, stride: float) -> None:
    if maps.dtype not in _FLOATS:
        raise ValueError(f"maps must be float32, bfloat16, float16 or float64, got {maps.dtype}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be [R, 5] (batch index, x1, y1, x2, y2), got shape {tuple(rois.shape)}")
    if rois.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"rois must be float32 or float64 (half precision cannot hold pixels), got {rois.dtype}"
        )
    if rois.device != maps.device:
        raise ValueError(f"rois must be on the maps' device {maps.device}, not on {rois.device}")
    if not 0 < stride < float("inf"):
        raise ValueError(f"stride must be positive and finite, got {stride}")


def _check_labels(labels: Tensor, rois: Tensor) -> None:
    if labels.dim() != 1 or labels.shape[0] != rois.shape[0]:
        raise ValueError(f"labels must be [R] = [{rois.shape[0]}], got shape {tuple(labels.shape)}")
    if labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.device != rois.device:
        raise ValueError(f"labels must be on the rois' device {rois.device}, not on {labels.device}")


def _check_values(maps: Tensor, rois: Tensor, labels: Tensor | None = None) -> None:
    """What the portable form has to check itself; `cpu.py` does so within its operators.

    Fake tensors, a subclass, have no values, nor has what is compiled or exported.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return
    if rois.device.type != "cpu" or type(rois) is not Tensor:
        return
    check_rois(rois, maps.shape[0])
    if labels is not None:
        check_labels(labels, maps.shape[4])


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")


# Last, because voting is built on what stands above.
from instancefcn.ops.voting.operator import vote_masks  # noqa: E402
