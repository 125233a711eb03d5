"""Steps of inference with results of a fixed count, as a graph needs them: padding instead of fewer rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

FINE = 56
"""Points along each side of the grid on which the extent of a mask is looked for."""


def suppress(boxes: Tensor, scores: Tensor, iou: float, count: int) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression of boxes [K, 4], best first: rows int64 [count], and bool [count]: whether a
    box was left for this place (row 0 stands where none was).
    """
    found = nms(boxes, scores, single(iou))
    padding = found.new_zeros(count)
    rows = torch.cat((found, padding))[:count]
    there = torch.cat((torch.ones_like(found), padding))[:count] > 0
    return rows, there


def single(threshold: float) -> float:
    """The largest number in single precision that is not above `threshold`.

    torch compares an overlap with the threshold in double precision, ONNX with one rounded to single. Boxes
    that snap to cells overlap by exactly 0.8 often enough, and 0.8 is rounded up.
    """
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1)))


def apart(boxes: Tensor, classes: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Boxes [K, 4] moved so that those of different `classes` [K] (of `count`) never overlap, in a picture of
    `size` (height, width).

    The classes' pictures lie on a square, not in a row: large coordinates would cost single precision.
    """
    side = 1
    while side * side < count:
        side += 1
    column, row = classes % side, torch.div(classes, side, rounding_mode="floor")
    shift = torch.stack((column * (size[1] + 1), row * (size[0] + 1)), 1)
    return boxes + shift.to(boxes.dtype).repeat(1, 2)


def front(there: Tensor) -> Tensor:
    """Rows int64 [N] in an order that puts those that are `there` (bool [N]) first and else keeps it."""
    count = there.shape[0]
    places = torch.arange(count, device=there.device) + torch.where(there, 0, count)
    return places.topk(count, largest=False).indices


def average(
    masks: Tensor, boxes: Tensor, which: Tensor, weights: Tensor, areas: Tensor, points: int
) -> Tensor:
    """The weighted average of votes, read at the centres of a grid over each area.

    What `instancefcn.ops.voting.average.vote_average` reads at pixels: bilinearly between the cells' centres,
    clamped at the outermost ones, 0 outside the vote's box.

    Args:
        masks: [V, m, m]: probabilities on a grid over each vote's box.
        boxes: [V, 4].
        which: int64 [V]: the area that a vote counts for.
        weights: [V].
        areas: [N, 4], in the pixels of the boxes.
        points: of the grid, along each side.

    Returns:
        [N, points, points], rows first.
    """
    cells, count = masks.shape[1], areas.shape[0]
    across = _readings(boxes[:, 0::2], areas[which][:, 0::2], points, cells)
    down = _readings(boxes[:, 1::2], areas[which][:, 1::2], points, cells)
    votes = torch.matmul(torch.matmul(down, masks), across.transpose(1, 2)).flatten(1)
    # One matrix product sums the votes of every area: no scattering, which few runtimes do well.
    own = which == torch.arange(count, device=which.device)[:, None]
    total = torch.matmul(own * weights, votes)
    return total.reshape(count, points, points)


def _readings(ends: Tensor, area: Tensor, points: int, cells: int) -> Tensor:
    """[V, points, cells]: how much every cell over `ends` [V, 2] counts at the points over `area` [V, 2]."""
    steps = (torch.arange(points, device=ends.device, dtype=ends.dtype) + 0.5) / points
    place = area[:, :1] + (area[:, 1:] - area[:, :1]) * steps
    low, high = ends[:, :1], ends[:, 1:]
    cell = ((place - low) / (high - low).clamp(min=1e-6) * cells - 0.5).clamp(0, cells - 1)
    index = torch.arange(cells, device=ends.device, dtype=ends.dtype)
    shares = (1 - (cell[:, :, None] - index).abs()).clamp(min=0)
    inside = (place >= low) & (place < high)
    return shares * inside[:, :, None].to(shares.dtype)


def tighten(fine: Tensor, areas: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Boxes around what reaches `threshold`, between the points of the grid by interpolation.

    Args:
        fine: [N, P, P]: values on a grid over each area.
        areas: [N, 4].

    Returns:
        [N, 4], inside the areas, of any kind where nothing reaches the threshold; bool [N]: something does.
    """
    low_x, high_x = _ends(fine.amax(1), threshold)
    low_y, high_y = _ends(fine.amax(2), threshold)
    shares = torch.stack((low_x, low_y, high_x, high_y), 1)
    corner, sides = areas[:, :2].repeat(1, 2), (areas[:, 2:] - areas[:, :2]).repeat(1, 2)
    return corner + shares * sides, fine.flatten(1).amax(1) >= threshold


def _ends(line: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Where the values [N, P] first rise to `threshold` and last fall below it, as shares of the length."""
    flipped = line.flip(1)
    return _first(line, threshold), 1 - _first(flipped, threshold)


def _first(line: Tensor, threshold: float) -> Tensor:
    points = line.shape[1]
    first = (line >= threshold).to(line.dtype).argmax(1, keepdim=True)
    value = line.gather(1, first)
    before = line.gather(1, (first - 1).clamp(min=0))
    # A share of the step from the point before; the first point itself has none: the area begins half a step
    # ahead of it.
    rise = ((threshold - before) / (value - before).clamp(min=1e-6)).clamp(0, 1)
    place = torch.where(first == 0, torch.zeros_like(rise), first.to(line.dtype) - 0.5 + rise)
    return place[:, 0] / points
