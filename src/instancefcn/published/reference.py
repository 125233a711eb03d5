"""The published pooling and mask voting as plain loops in float64: the specification against which the other
forms are tested. Slow on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from instancefcn.ops.voting.reference import (
    Box,
    Grid,
    ReadMask,
    VotedInstance,
    has_area,
    read,
    suppress,
    vote_average,
    voters_of,
)


def psroi_average_pool(maps: Tensor, rois: Tensor, stride: float, size: int = 21) -> Tensor:
    """Maps [N, k, k, D, H, W] and RoIs [R, 5] to [R, D, size, size]: means of the cells that bins touch."""
    k, depth, height, width = maps.shape[1], *maps.shape[3:]
    out = torch.zeros((len(rois), depth, size, size), dtype=torch.float64)
    for r, (n, *corners) in enumerate(rois.double().tolist()):
        x1, y1, x2, y2 = (side / stride for side in corners)
        bin_height, bin_width = max(y2 - y1, 0.1) / size, max(x2 - x1, 0.1) / size
        for a in range(size):
            top = min(max(math.floor(a * bin_height + y1), 0), height)
            bottom = min(max(math.ceil((a + 1) * bin_height + y1), 0), height)
            for b in range(size):
                left = min(max(math.floor(b * bin_width + x1), 0), width)
                right = min(max(math.ceil((b + 1) * bin_width + x1), 0), width)
                if bottom > top and right > left:
                    cells = maps[int(n), a * k // size, b * k // size, :, top:bottom, left:right]
                    out[r, :, a, b] = cells.double().mean((1, 2))
    return out


def vote_published(
    read_mask: ReadMask,
    boxes: Sequence[Box],
    probabilities: Sequence[Sequence[float]],
    image_size: tuple[int, int],
    *,
    nms_iou: float = 0.3,
    vote_iou: float = 0.5,
    max_instances: int = 100,
    min_score: float = 1e-3,
    threshold: float = 0.4,
) -> list[VotedInstance]:
    """See `instancefcn.published.voting`. `read_mask(row, class)` returns a grid of m x m; an instance's
    `average` is resized to m x m.
    """
    chosen = survivors(boxes, probabilities, nms_iou, min_score)
    if len(chosen) > max_instances:
        chosen = [s for s in chosen if s[0] >= chosen[max_instances - 1][0]]
    voted = []
    for score, class_, row in chosen:
        voters, weights = voters_of(row, class_, boxes, probabilities, vote_iou)
        masks = [read_mask(r, 1 + int(np.argmax(probabilities[r][1:]))) for r in voters]
        found = _resized_vote(masks, [boxes[r] for r in voters], weights, image_size, threshold)
        if found is not None and found[3].any():
            voted.append(VotedInstance(found[0], score, class_, row, *found[1:]))
    return voted


def survivors(
    boxes: Sequence[Box], probabilities: Sequence[Sequence[float]], nms_iou: float, min_score: float
) -> list[tuple[float, int, int]]:
    """(score, class, row) after greedy suppression of each class, best first; equal scores by class, then in
    the order of `numpy.argsort`, reversed.
    """
    solid = [row for row in range(len(boxes)) if has_area(boxes[row])]
    kept: list[tuple[float, int, int]] = []
    for class_ in range(1, len(probabilities[0]) if len(probabilities) else 0):
        column = np.array([probabilities[row][class_] for row in solid], np.longdouble)
        ranked = [solid[i] for i in np.argsort(column)[::-1] if column[i] >= min_score]
        winners = suppress(ranked, boxes, nms_iou)
        kept += [(float(probabilities[row][class_]), class_, row) for row in winners]
    return sorted(kept, key=lambda found: -found[0])


def _resized_vote(
    masks: list[Grid], boxes: list[Box], weights: list[float], size: tuple[int, int], threshold: float
) -> tuple[tuple[float, float, float, float], tuple[int, int, int, int], Grid, Grid] | None:
    """Box, rectangle, average and mask: votes of 0 or 1 over rounded boxes, their average cropped and resized
    to m x m and back (official code); None when no pixel reaches the threshold.
    """
    rounded = [[float(round(side)) for side in box] for box in boxes]
    whole = vote_average(masks, rounded, weights, (0, 0, size[1], size[0]), binarize=threshold)
    rows, columns = np.nonzero(whole >= threshold)
    if not len(rows):
        return None
    x1, y1, x2, y2 = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    m = masks[0].shape[0]
    small = np.clip(_resize(whole[y1:y2, x1:x2], m, m), 0, 1)
    mask = _resize(small, y2 - y1, x2 - x1) > threshold
    return (float(x1), float(y1), float(x2), float(y2)), (x1, y1, x2, y2), small, mask


def _resize(grid: Grid, height: int, width: int) -> Grid:
    """Bilinear resizing with half-pixel centres, clamped at the edges, without smoothing."""
    box = (0.0, 0.0, float(width), float(height))
    return np.array([[read(grid, box, x + 0.5, y + 0.5) for x in range(width)] for y in range(height)])
