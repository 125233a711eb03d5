"""The operators as obvious loops in float64: the specification that every other form is tested against.

Shapes, units and conventions are those of `instancefcn.ops`; results are float64, and autograd works. Slow on
purpose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def class_scores(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """[N, k, k, 2, C, H, W], [R, 5] -> [R, C]: the mean over the window of max(inside, outside)."""
    outside, inside = maps.double().unbind(3)
    # The maximum. NaN propagates; on a tie the gradient goes to outside.
    return ps_average(torch.where((inside > outside) | inside.isnan(), inside, outside), rois, stride)


def ps_average(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """[N, k, k, D, H, W], [R, 5] -> [R, D]: each part of the window from its own map, weighted by area."""
    k, depth, height, width = maps.shape[1], *maps.shape[3:]
    out = torch.zeros((len(rois), depth), dtype=torch.float64)
    for r, (n, x1, y1, x2, y2) in enumerate(_in_cells(rois, stride)):
        area = _overlap(x1, x2, 0, width) * _overlap(y1, y2, 0, height)  # of the window on the map
        if area == 0:
            continue
        for p in range(k):
            top, bottom = y1 + (y2 - y1) * p / k, y1 + (y2 - y1) * (p + 1) / k
            for q in range(k):
                left, right = x1 + (x2 - x1) * q / k, x1 + (x2 - x1) * (q + 1) / k
                for i in range(height):
                    for j in range(width):
                        share = _overlap(top, bottom, i, i + 1) * _overlap(left, right, j, j + 1)
                        if share > 0:
                            out[r] += share / area * maps[n, p, q, :, i, j].double()
    return out


def mask_logits(maps: Tensor, rois: Tensor, labels: Tensor, stride: float, size: int = 21) -> Tensor:
    """[N, k, k, 2, C, H, W], [R, 5], [R] -> [R, size, size]: inside - outside of the label on a grid."""
    k = maps.shape[1]
    out = torch.zeros((len(rois), size, size), dtype=torch.float64)
    for r, (n, x1, y1, x2, y2) in enumerate(_in_cells(rois, stride)):
        for a in range(size):
            for b in range(size):
                p = (2 * a + 1) * k // (2 * size)  # floor((a + 0.5) * k / size)
                q = (2 * b + 1) * k // (2 * size)
                outside, inside = maps[n, p, q, :, int(labels[r])].double()
                y = y1 + (y2 - y1) * (a + 0.5) / size
                x = x1 + (x2 - x1) * (b + 0.5) / size
                out[r, a, b] = _bilinear(inside - outside, y, x)
    return out


def _in_cells(rois: Tensor, stride: float) -> list[tuple[int, float, float, float, float]]:
    """Batch index, and x1, y1, x2, y2 in units of map cells."""
    return [
        (int(n), x1 / stride, y1 / stride, x2 / stride, y2 / stride)
        for n, x1, y1, x2, y2 in rois.double().tolist()
    ]


def _overlap(start: float, end: float, low: float, high: float) -> float:
    return max(0.0, min(end, high) - max(start, low))


def _bilinear(grid: Tensor, y: float, x: float) -> Tensor:
    """Value at map coordinates (y, x). The value of cell (i, j) is at (i + 0.5, j + 0.5); points are clamped
    to the outermost centres.
    """
    height, width = grid.shape
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    i, j = math.floor(y), math.floor(x)
    below, right = min(i + 1, height - 1), min(j + 1, width - 1)
    upper = grid[i, j] * (1 - (x - j)) + grid[i, right] * (x - j)
    lower = grid[below, j] * (1 - (x - j)) + grid[below, right] * (x - j)
    return upper * (1 - (y - i)) + lower * (y - i)
