"""Mask voting as obvious loops in float64: the specification that every other form is tested against.

Slow on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Box = Sequence[float]
Grid = np.ndarray
ReadMask = Callable[[int, int], Grid]


class _Voted(NamedTuple):
    """What voting adds to a survivor: see `VotedInstance`."""

    box: tuple[float, float, float, float]
    rect: tuple[int, int, int, int]
    average: Grid
    mask: Grid


@dataclass(frozen=True)
class VotedInstance:
    """One instance.

    Attributes:
        box, score, row: see `instancefcn.ops.voting.operator.VotedMasks`.
        class_: index on the class axis, background being 0.
        rect: x1, y1, x2, y2: the image's pixels that the mask covers, half-open.
        average: of the votes, before the threshold: [h, w] on `rect`.
        mask: bool [h, w], on `rect`.
    """

    box: tuple[float, float, float, float]
    score: float
    class_: int
    row: int
    rect: tuple[int, int, int, int]
    average: Grid
    mask: Grid


def vote_masks(
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
    extent: str = "box",
) -> list[VotedInstance]:
    """`vote_masks`, with `read_mask(row, class)` returning one m x m grid; `extent` is "box" or "voters"."""
    voted = []
    for score, class_, row in survivors(boxes, probabilities, nms_iou, min_score)[:max_instances]:
        voters, weights = voters_of(row, class_, boxes, probabilities, vote_iou)
        masks = [read_mask(r, class_) for r in voters]
        box = boxes[row] if extent == "box" else None
        instance = _averaged(masks, [boxes[r] for r in voters], weights, box, image_size, threshold)
        if instance.mask.any():
            voted.append(VotedInstance(instance.box, score, class_, row, *instance[1:]))
    return voted


def survivors(
    boxes: Sequence[Box], probabilities: Sequence[Sequence[float]], nms_iou: float, min_score: float
) -> list[tuple[float, int, int]]:
    """(score, class, row) after greedy suppression per class, best first; ties by class, then row."""
    kept: list[tuple[float, int, int]] = []
    for class_ in range(1, len(probabilities[0]) if len(probabilities) else 0):
        rows = [r for r in range(len(boxes)) if probabilities[r][class_] >= min_score and has_area(boxes[r])]
        winners = suppress(sorted(rows, key=lambda r: -probabilities[r][class_]), boxes, nms_iou)
        kept += [(float(probabilities[row][class_]), class_, row) for row in winners]
    return sorted(kept, key=lambda found: -found[0])


def suppress(rows: Sequence[int], boxes: Sequence[Box], nms_iou: float) -> list[int]:
    """The rows (best first) that no better winner suppresses."""
    winners: list[int] = []
    for row in rows:
        if all(iou(boxes[row], boxes[w]) <= nms_iou for w in winners):
            winners.append(row)
    return winners


def voters_of(
    row: int, class_: int, boxes: Sequence[Box], probabilities: Sequence[Sequence[float]], vote_iou: float
) -> tuple[list[int], list[float]]:
    """The RoIs that vote for a survivor, among them itself, and their weights."""
    voters = [
        r for r, box in enumerate(boxes) if r == row or (has_area(box) and iou(boxes[row], box) >= vote_iou)
    ]
    total = sum(probabilities[r][class_] for r in voters)
    return voters, [probabilities[r][class_] / total if total else 0.0 for r in voters]


def vote_average(
    masks: Sequence[Grid],
    boxes: Sequence[Box],
    weights: Sequence[float],
    rect: tuple[int, int, int, int],
    binarize: float | None = None,
) -> Grid:
    """float64 [h, w]: the weighted sum of the votes at the centres of a crop's pixels."""
    x1, y1, x2, y2 = rect
    total = np.zeros((y2 - y1, x2 - x1))
    for y in range(y1, y2):
        for x in range(x1, x2):
            for mask, box, weight in zip(masks, boxes, weights, strict=True):
                if inside(box, x + 0.5, y + 0.5):
                    vote = read(mask, box, x + 0.5, y + 0.5)
                    total[y - y1, x - x1] += weight * (vote if binarize is None else float(vote >= binarize))
    return total


def inside(box: Box, x: float, y: float) -> bool:
    """Whether the point is in the half-open box."""
    return bool(box[0] <= x < box[2] and box[1] <= y < box[3])


def read(grid: Grid, box: Box, x: float, y: float) -> float:
    """Read a grid over a box bilinearly at a point, clamped to the centres of the outermost cells."""
    height, width = grid.shape
    column = (x - box[0]) / (box[2] - box[0]) * width - 0.5
    row = (y - box[1]) / (box[3] - box[1]) * height - 0.5
    column, row = min(max(column, 0.0), width - 1.0), min(max(row, 0.0), height - 1.0)
    left, top = math.floor(column), math.floor(row)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    fx, fy = column - left, row - top
    upper = (1 - fx) * grid[top, left] + fx * grid[top, right]
    lower = (1 - fx) * grid[bottom, left] + fx * grid[bottom, right]
    return float((1 - fy) * upper + fy * lower)


def has_area(box: Box) -> bool:
    """Whether a box is finite and has a positive width and height."""
    return all(math.isfinite(side) for side in box) and box[2] > box[0] and box[3] > box[1]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two half-open boxes with area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _clip(box: Box, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = image_size
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    return x1, y1, x2, y2


def _averaged(
    masks: list[Grid],
    boxes: list[Box],
    weights: list[float],
    box: Box | None,
    size: tuple[int, int],
    threshold: float,
) -> _Voted:
    """The average inside `box`, or in the whole image if None: the result's box is then the one around its
    mask.
    """
    clipped = (0.0, 0.0, float(size[1]), float(size[0])) if box is None else _clip(box, size)
    x1, y1, x2, y2 = (math.ceil(side - 0.5) for side in clipped)  # the pixels whose centres are inside
    average = vote_average(masks, boxes, weights, (x1, y1, x2, y2))
    mask = average >= threshold
    rows, columns = np.nonzero(mask)
    if box is None and len(rows):
        clipped = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return _Voted(clipped, (x1, y1, x2, y2), average, mask)
