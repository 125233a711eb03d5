"""The operators in plain PyTorch: any device and type, differentiable in the maps, exportable to ONNX.

The overlap of a window's part with a cell is the product of an overlap in y and one in x. An average is
therefore two matrix products per part, with weights `[R, H]` and `[R, W]`; no tensor of size R x 2C x m x m
is needed. Half precision is accumulated in float32. The maps must be finite (zero times infinity is NaN).
While a graph is captured, every window is computed on every image of the batch and masked; in eager mode each
image computes its own windows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def class_scores(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """See `instancefcn.ops.class_scores`."""

    def larger(p: int) -> Tensor:
        outside, inside = maps[:, p, :, 0], maps[:, p, :, 1]
        # Not torch.maximum, which splits the gradient on a tie.
        return torch.where((inside > outside) | inside.isnan(), inside, outside)

    return _average(larger, maps, maps.shape[4], rois, stride)


def ps_average(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """See `instancefcn.ops.ps_average`."""
    return _average(lambda p: maps[:, p], maps, maps.shape[3], rois, stride)


def mask_logits(maps: Tensor, rois: Tensor, labels: Tensor, stride: float, size: int = 21) -> Tensor:
    """See `instancefcn.ops.mask_logits`."""
    k, height, width = maps.shape[1], maps.shape[5], maps.shape[6]
    batch, x1, y1, x2, y2 = _cells(rois, stride)
    steps = torch.arange(size, device=rois.device)
    part = (2 * steps + 1) * k // (2 * size)
    upper, lower, share_y = _corners(y1, y2, steps, height)
    left, right, share_x = _corners(x1, x2, steps, width)
    share_y, share_x = share_y.to(_working(maps))[:, :, None], share_x.to(_working(maps))[:, None, :]
    image, label = batch.long()[:, None, None], labels.long()[:, None, None]
    dtype = maps.dtype
    if maps.requires_grad:  # gradients too are summed in float32
        maps = maps.to(_working(maps))

    def read(i: Tensor, j: Tensor) -> Tensor:
        row, column = i[:, :, None], j[:, None, :]
        inside = maps[image, part[:, None], part[None, :], 1, label, row, column]
        outside = maps[image, part[:, None], part[None, :], 0, label, row, column]
        return inside.to(_working(maps)) - outside.to(_working(maps))

    above = read(upper, left) * (1 - share_x) + read(upper, right) * share_x
    below = read(lower, left) * (1 - share_x) + read(lower, right) * share_x
    return (above * (1 - share_y) + below * share_y).to(dtype)


def _working(maps: Tensor) -> torch.dtype:
    return torch.float64 if maps.dtype == torch.float64 else torch.float32


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would do the matrix products in half precision."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _cells(rois: Tensor, stride: float) -> tuple[Tensor, ...]:
    """Batch index and corners in map cells; float64 where the device has it, as in the other forms."""
    exact = rois.detach().to(torch.float32 if rois.device.type == "mps" else torch.float64)
    return (exact[:, 0], *(exact[:, 1:] / stride).unbind(1))


def _average(
    row_of_parts: Callable[[int], Tensor], maps: Tensor, depth: int, rois: Tensor, stride: float
) -> Tensor:
    """Averages [R, depth]; `row_of_parts(p)` gives the plain maps [N, k, depth, H, W] of part row p.

    The sum over a row's parts and columns is one matrix product, over k * W.
    """
    k, height, width = maps.shape[1], maps.shape[-2], maps.shape[-1]
    batch, x1, y1, x2, y2 = _cells(rois, stride)
    with _full_precision(maps.device):
        rows, columns = (
            weights.to(_working(maps)) for weights in (_shares(y1, y2, k, height), _shares(x1, x2, k, width))
        )
        columns = columns.flatten(1)
        total = columns.new_zeros((rois.shape[0], depth))
        for p in range(k):
            values = (
                row_of_parts(p)
                .to(columns.dtype)
                .permute(0, 2, 3, 1, 4)
                .reshape(maps.shape[0], depth, height, k * width)
            )
            for n, chosen, mask in _groups(batch, maps.shape[0]):
                x, y = _of_image(columns, chosen), _of_image(rows[:, p], chosen, mask)
                sums = ((values[n] @ x.t()) * y.t()).sum(1).t()
                total = total + sums if chosen is None else total.index_add(0, chosen, sums)
    return total.to(maps.dtype)


def _shares(start: Tensor, end: Tensor, k: int, cells: int) -> Tensor:
    """[R, k, cells]: each part and cell's share of the window's length on the map; the sum is 1, or 0."""
    parts = torch.arange(k, device=start.device, dtype=start.dtype)
    low = (start[:, None] + (end - start)[:, None] * parts / k)[:, :, None]
    high = (start[:, None] + (end - start)[:, None] * (parts + 1) / k)[:, :, None]
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)
    overlap = (torch.minimum(high, cell + 1) - torch.maximum(low, cell)).clamp(min=0)
    on_map = (end.clamp(max=cells) - start.clamp(min=0)).clamp(min=0)[:, None, None]
    empty = on_map == 0
    return overlap / on_map.masked_fill(empty, 1) * ~empty


def _groups(batch: Tensor, images: int) -> Iterator[tuple[int, Tensor | None, Tensor | None]]:
    """(image, its rows, or a mask [R] of them): one image needs neither, a captured graph uses the mask."""
    if images == 1:
        yield 0, None, None
    else:
        for n in range(images):
            belongs = batch == n
            if torch.compiler.is_compiling():
                yield n, None, belongs
            else:
                yield n, belongs.nonzero()[:, 0], None


def _of_image(weights: Tensor, chosen: Tensor | None, mask: Tensor | None = None) -> Tensor:
    """Weights [R, ...] of one image's windows: its rows, or all rows with zeros for the others."""
    if mask is not None:
        return weights * mask.reshape(-1, *[1] * (weights.dim() - 1))
    return weights if chosen is None else weights[chosen]


def _corners(start: Tensor, end: Tensor, steps: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower cell, upper cell and the upper one's share [R, size] at the grid's points, clamped to the map."""
    middle = (steps.to(start.dtype) + 0.5) / steps.shape[0]
    position = (start[:, None] + (end - start)[:, None] * middle - 0.5).clamp(0, cells - 1)
    low = position.floor()
    return low.long(), (low + 1).clamp(max=cells - 1).long(), position - low
