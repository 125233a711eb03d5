"""Steps of inference with a fixed number of results, as graphs need them: padding instead of fewer rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

FINE = 56
"""Points along each side of the grid on which the extent of a mask is found."""


def suppress(boxes: Tensor, scores: Tensor, iou: float, count: int) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression of boxes [K, 4]: rows int64 [count] of the kept boxes, best first and padded
    with 0; and bool [count]: which are not padding.
    """
    found = nms(boxes, scores, single(iou))
    padding = found.new_zeros(count)
    rows = torch.cat((found, padding))[:count]
    there = torch.cat((torch.ones_like(found), padding))[:count] > 0
    return rows, there


def single(threshold: float) -> float:
    """The largest number in single precision that is not above `threshold`.

    torch compares overlaps with a threshold in double precision, ONNX with one in single precision. Boxes
    made of whole cells often overlap by exactly 0.8, which single precision rounds up.
    """
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1)))


def apart(boxes: Tensor, classes: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Boxes [K, 4] in an image of `size` (height, width), moved so that those of different `classes` [K] (of
    `count`) never overlap.

    The classes are arranged in a square, not in a row, as large coordinates would be less precise.
    """
    side = 1
    while side * side < count:
        side += 1
    column, row = classes % side, torch.div(classes, side, rounding_mode="floor")
    shift = torch.stack((column * (size[1] + 1), row * (size[0] + 1)), 1)
    return boxes + shift.to(boxes.dtype).repeat(1, 2)


def front(there: Tensor) -> Tensor:
    """Rows int64 [N]: first those that are `there` (bool [N]), then the others, both in their order."""
    count = there.shape[0]
    ranks = torch.arange(count, device=there.device) + torch.where(there, 0, count)
    return ranks.topk(count, largest=False).indices


def average(
    masks: Tensor, boxes: Tensor, which: Tensor, weights: Tensor, areas: Tensor, points: int
) -> Tensor:
    """The weighted average of votes, read at the centres of a grid over each area.

    Votes are read as `instancefcn.ops.voting.average.vote_average` reads them at pixels: bilinearly between
    the centres of cells, clamped at the outermost centres, 0 outside the vote's box.

    Args:
        masks: [V, m, m]: probabilities on a grid over each vote's box.
        boxes: [V, 4].
        which: int64 [V]: the index of the area that a vote counts for.
        weights: [V].
        areas: [N, 4], in the same pixels as the boxes.
        points: along each side of the grid.

    Returns:
        [N, points, points], rows first.
    """
    cells, count = masks.shape[1], areas.shape[0]
    across = _readings(boxes[:, 0::2], areas[which][:, 0::2], points, cells)
    down = _readings(boxes[:, 1::2], areas[which][:, 1::2], points, cells)
    votes = torch.matmul(torch.matmul(down, masks), across.transpose(1, 2)).flatten(1)
    # A matrix product sums the votes of each area, as few runtimes scatter well.
    own = which == torch.arange(count, device=which.device)[:, None]
    total = torch.matmul(own * weights, votes)
    return total.reshape(count, points, points)


def _readings(ends: Tensor, area: Tensor, points: int, cells: int) -> Tensor:
    """[V, points, cells]: the weights of the cells between `ends` [V, 2] at the points of `area` [V, 2]."""
    steps = (torch.arange(points, device=ends.device, dtype=ends.dtype) + 0.5) / points
    position = area[:, :1] + (area[:, 1:] - area[:, :1]) * steps
    low, high = ends[:, :1], ends[:, 1:]
    cell = ((position - low) / (high - low).clamp(min=1e-6) * cells - 0.5).clamp(0, cells - 1)
    index = torch.arange(cells, device=ends.device, dtype=ends.dtype)
    shares = (1 - (cell[:, :, None] - index).abs()).clamp(min=0)
    inside = (position >= low) & (position < high)
    return shares * inside[:, :, None].to(shares.dtype)


def tighten(fine: Tensor, areas: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Boxes around the values that reach `threshold`, interpolated between the points of the grid.

    Args:
        fine: [N, P, P]: values on a grid over each area.
        areas: [N, 4].

    Returns:
        boxes [N, 4] inside the areas, arbitrary where no value reaches the threshold; and bool [N]: whether
        one does.
    """
    low_x, high_x = _ends(fine.amax(1), threshold)
    low_y, high_y = _ends(fine.amax(2), threshold)
    shares = torch.stack((low_x, low_y, high_x, high_y), 1)
    corner, sides = areas[:, :2].repeat(1, 2), (areas[:, 2:] - areas[:, :2]).repeat(1, 2)
    return corner + shares * sides, fine.flatten(1).amax(1) >= threshold


def _ends(line: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Where values [N, P] first reach `threshold` and last fall below it, as shares of the length."""
    flipped = line.flip(1)
    return _first(line, threshold), 1 - _first(flipped, threshold)


def _first(line: Tensor, threshold: float) -> Tensor:
    points = line.shape[1]
    first = (line >= threshold).to(line.dtype).argmax(1, keepdim=True)
    value = line.gather(1, first)
    before = line.gather(1, (first - 1).clamp(min=0))
    # A share of the step from the point before. The first point has none before it: there the mask begins at
    # the edge of the area, half a step ahead.
    rise = ((threshold - before) / (value - before).clamp(min=1e-6)).clamp(0, 1)
    position = torch.where(first == 0, torch.zeros_like(rise), first.to(line.dtype) - 0.5 + rise)
    return position[:, 0] / points
