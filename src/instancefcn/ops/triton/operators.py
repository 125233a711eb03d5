"""The operators on a GPU: tensors in, Triton kernels, tensors out.

Maps already laid out as `[N, H, W, k, k, (2,) C]` are read without a copy; gradients are views of that
layout. Maps are float32 or half precision, sums are float32. Nothing here waits for the GPU, so values are
not checked: a window that is not finite, or whose image or label does not exist, gives NaN.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

from instancefcn.ops.triton import geometry, kernels

_PAIRED = (0, 5, 6, 1, 2, 3, 4)  # [N, k, k, 2, C, H, W] -> [N, H, W, k, k, 2, C]
_PLAIN = (0, 4, 5, 1, 2, 3)  # [N, k, k, D, H, W] -> [N, H, W, k, k, D]

# Programs per window: otherwise a few windows would leave most of a large GPU idle.
_SPLIT = 8


def class_scores(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """See `instancefcn.ops.class_scores`."""
    return _average(maps.permute(_PAIRED), rois, stride, paired=True)


def class_scores_backward(grad: Tensor, maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """Gradient of the maps from grad [R, C]."""
    n, k, _, two, channels, height, width = maps.shape
    out = maps.new_empty((n, height, width, k, k, two, channels))
    return _average_backward(grad, maps.permute(_PAIRED).contiguous(), rois, stride, out)


def ps_average(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """See `instancefcn.ops.ps_average`."""
    return _average(maps.permute(_PLAIN), rois, stride, paired=False)


def ps_average_backward(
    grad: Tensor, rois: Tensor, stride: float, n: int, k: int, height: int, width: int
) -> Tensor:
    """Gradient of maps [n, k, k, D, height, width] from grad [R, D]."""
    out = grad.new_empty((n, height, width, k, k, grad.shape[1]))
    return _average_backward(grad, None, rois, stride, out)


def mask_logits(maps: Tensor, rois: Tensor, labels: Tensor, stride: float, size: int) -> Tensor:
    """See `instancefcn.ops.mask_logits`."""
    images, k, channels, height, width = maps.shape[0], maps.shape[1], *maps.shape[4:]
    out = maps.new_empty((rois.shape[0], size, size))
    if out.numel() == 0:
        return out
    cells = maps.permute(_PAIRED).contiguous()
    block = min(512, triton.next_power_of_2(size * size))
    with device_of(maps):
        kernels.mask_logits[(rois.shape[0], triton.cdiv(size * size, block))](
            cells, _windows(rois, stride), labels.long().contiguous(), out,
            images, height, width, channels, size, K=k, BLOCK=block,
        )  # fmt: skip
    return out


def mask_logits_backward(
    grad: Tensor,
    rois: Tensor,
    labels: Tensor,
    stride: float,
    n: int,
    k: int,
    channels: int,
    height: int,
    width: int,
) -> Tensor:
    """Gradient of maps [n, k, k, 2, channels, height, width] from grad [R, size, size]."""
    size, windows = grad.shape[1], _windows(rois, stride)
    out = grad.new_empty((n, height, width, k, k, 2, channels))
    if out.numel() == 0 or grad.numel() == 0:
        return _logical(out.zero_())
    block_x, block_c = _blocks(k, channels)
    with device_of(grad):
        starts, lists, counts = _covering(windows, n, k, height, size)
        kernels.mask_logits_backward[
            (n * height * k, triton.cdiv(width * k, block_x), triton.cdiv(channels, block_c))
        ](
            grad.contiguous(), windows, labels.long().contiguous(), starts, lists, counts, out,
            rois.shape[0], height, width, channels, size,
            K=k, POINTS=triton.cdiv(size, k), BLOCK_X=block_x, BLOCK_C=block_c, num_warps=8,
        )  # fmt: skip
    return _logical(out)


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's GPU the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _average(cells: Tensor, rois: Tensor, stride: float, paired: bool) -> Tensor:
    """cells [N, H, W, k, k, (2,) C] -> [R, C]."""
    images, height, width, k, channels = *cells.shape[:4], cells.shape[-1]
    count, reserved = rois.shape[0], max(height, width) + k - 1
    if cells.numel() == 0 or count == 0:
        return cells.new_zeros((count, channels))
    windows, cells = _windows(rois, stride), cells.contiguous()
    positions = torch.empty((count, 2, reserved), dtype=torch.int32, device=cells.device)
    shares = torch.empty((count, 2, reserved), dtype=torch.float32, device=cells.device)
    counts = torch.empty((count, 2), dtype=torch.int32, device=cells.device)
    sums = torch.empty((_SPLIT, count, channels), dtype=torch.float32, device=cells.device)
    block_c = min(128, triton.next_power_of_2(channels))
    with device_of(cells):
        geometry.slots[(count, 2)](
            windows, positions, shares, counts, images, height, width, reserved,
            K=k, BLOCK=triton.next_power_of_2(reserved),
        )  # fmt: skip
        kernels.average[(count, _SPLIT, triton.cdiv(channels, block_c))](
            cells, windows, positions, shares, counts, sums,
            count, images, height, width, channels, reserved,
            K=k, PAIRED=paired, SPLIT=_SPLIT, BLOCK_X=min(64, max(16, 1024 // block_c)), BLOCK_C=block_c,
        )  # fmt: skip
    return sums.sum(0).to(cells.dtype)


def _average_backward(grad: Tensor, cells: Tensor | None, rois: Tensor, stride: float, out: Tensor) -> Tensor:
    """Fill out [N, H, W, k, k, (2,) C] from grad [R, C]; `cells`, if given, are the paired maps."""
    images, height, width, k, channels = *out.shape[:4], out.shape[-1]
    if out.numel() == 0 or rois.shape[0] == 0:
        return _logical(out.zero_())
    windows = _windows(rois, stride)
    block_x, block_c = _blocks(k, channels)
    with device_of(grad):
        starts, lists, counts = _covering(windows, images, k, height, 0)
        kernels.average_backward[
            (images * height * k, triton.cdiv(width * k, block_x), triton.cdiv(channels, block_c))
        ](
            grad.contiguous(), cells, windows, starts, lists, counts, out,
            rois.shape[0], height, width, channels,
            K=k, PAIRED=cells is not None, BLOCK_X=block_x, BLOCK_R=16, BLOCK_C=block_c, num_warps=8,
        )  # fmt: skip
    return _logical(out)


def _covering(windows: Tensor, images: int, k: int, height: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Starts, lists and counts of `geometry.covering`; for areas if `size` is 0, else for grids."""
    index, order = windows[:, 0].sort(stable=True)
    bounds = torch.arange(images + 1, dtype=index.dtype, device=index.device)
    starts = torch.searchsorted(index.contiguous(), bounds)
    lists = torch.empty((height * k, len(windows)), dtype=torch.int32, device=windows.device)
    counts = torch.empty((images, height * k), dtype=torch.int32, device=windows.device)
    geometry.covering[(images, height * k)](
        windows, order, starts, lists, counts, len(windows), height, size, K=k, POINTS=size > 0, BLOCK=128
    )
    return starts, lists, counts


def _blocks(k: int, channels: int) -> tuple[int, int]:
    """Positions and channels of a tile in the backward kernels; `tl.dot` needs at least 16 of each."""
    return 32, min(128, max(16, triton.next_power_of_2(channels)))


def _windows(rois: Tensor, stride: float) -> Tensor:
    """RoIs in map cells, float64 [R, 5]."""
    windows = rois.detach().to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    windows[:, 1:] /= stride
    return windows


def _logical(grad: Tensor) -> Tensor:
    """[N, H, W, ...] -> the view [N, ..., H, W]."""
    return grad.permute(0, *range(3, grad.dim()), 1, 2)
