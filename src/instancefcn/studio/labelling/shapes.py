"""Objects between the page and the data set: the page draws rings, COCO stores polygons or run lengths.

A ring is x, y, x, y, .. in pixels of the image, closed without repeating its first point. Several rings are
filled by the even-odd rule: a ring inside another is a hole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.errors import DataError
from instancefcn.geometry.contours import trace_contours
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.outlines import Segmentation, extent, normalised, outline_problem, to_rle
from instancefcn.geometry.rle import decode_crop, run_lengths

Ring = list[float]

MAX_RINGS = 2000
"""Rings of one object that the page may send."""


@dataclass(frozen=True)
class Shape:
    """An object's outline as it is stored.

    Attributes:
        segmentation: as `data.dataset.Annotation` stores it.
        box: x1, y1, x2, y2 around it, half-open, in pixels.
        area: its number of pixels.
    """

    segmentation: Segmentation
    box: tuple[float, float, float, float]
    area: float


def shape_of(segmentation: object, height: int, width: int) -> Shape:
    """Check an outline that came from outside.

    Args:
        segmentation: polygons or a COCO RLE (compressed or not).
        height, width: of the image.

    Raises:
        DataError: it is not a valid outline, or covers no pixel.
    """
    if problem := outline_problem(segmentation, height, width):
        raise DataError(f"the object {problem}")
    assert isinstance(segmentation, list | dict)
    outline = normalised(segmentation, height, width)
    area = int(run_lengths(to_rle(outline, height, width)["counts"])[1::2].sum())
    if not area:
        raise DataError("the object covers no pixel of the image: draw it larger")
    return Shape(outline, extent(outline, height, width), float(area))


def shape_of_rings(rings: list[Ring], height: int, width: int) -> Shape:
    """Check rings that a person drew or changed. A single ring stays a polygon, several become run lengths.

    Raises:
        DataError: see `shape_of`.
    """
    if len(rings) > MAX_RINGS:
        raise DataError(f"the object has {len(rings):,} rings, at most {MAX_RINGS:,} are allowed")
    inside = [_clipped(ring, height, width) for ring in rings]
    if len(inside) == 1:
        return shape_of(inside, height, width)
    if problem := outline_problem(inside, height, width):
        raise DataError(f"the object {problem}")
    left_most, top_most, right_most, lowest = extent(inside, height, width)
    # A polygon's pixels may lie half a pixel outside the box of its points.
    x1, y1 = max(math.floor(left_most) - 1, 0), max(math.floor(top_most) - 1, 0)
    x2, y2 = min(math.ceil(right_most) + 1, width), min(math.ceil(lowest) + 1, height)
    filled = np.zeros((y2 - y1, x2 - x1), np.uint8)
    for ring in inside:
        crop, (left, top) = decode_crop(to_rle([ring], height, width)["counts"], height)
        rows, columns = crop.shape
        filled[top - y1 : top - y1 + rows, left - x1 : left - x1 + columns] ^= crop.numpy()
    return shape_of(rle_of(filled, (x1, y1), height, width), height, width)


def shape_of_stroke(stroke: dict[str, Any], height: int, width: int) -> Shape:
    """What a brush covers that is drawn along points.

    Args:
        stroke: "points" [(x, y), ..] and "radius", in pixels of the image.

    Raises:
        DataError: it covers no pixel.
    """
    crop, corner = _stroke(stroke, height, width)
    return shape_of(rle_of(crop, corner, height, width), height, width)


def painted_shape(
    segmentation: Segmentation, stroke: dict[str, Any], erase: bool, height: int, width: int
) -> Shape | None:
    """An object with a stroke added to its pixels, or taken away; None when nothing is left."""
    old, (left, top) = decode_crop(to_rle(segmentation, height, width)["counts"], height)
    crop, (x, y) = _stroke(stroke, height, width)
    x1, y1 = min(left, x), min(top, y)
    x2, y2 = max(left + old.shape[1], x + crop.shape[1]), max(top + old.shape[0], y + crop.shape[0])
    whole = np.zeros((y2 - y1, x2 - x1), np.uint8)
    whole[top - y1 : top - y1 + old.shape[0], left - x1 : left - x1 + old.shape[1]] = old.numpy()
    part = whole[y - y1 : y - y1 + crop.shape[0], x - x1 : x - x1 + crop.shape[1]]
    if erase:
        part &= 1 - crop
    else:
        part |= crop
    return shape_of(rle_of(whole, (x1, y1), height, width), height, width) if whole.any() else None


def _stroke(stroke: dict[str, Any], height: int, width: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The pixels whose centres lie within the radius of the line, and the corner (x, y) of their crop."""
    radius, points = float(stroke["radius"]), np.array(stroke["points"], np.float64)
    # A brush that touches a pixel paints it, however thin it is.
    radius = max(radius, 0.75)
    points = np.clip(points, (-radius, -radius), (width + radius, height + radius))
    x1, y1 = np.maximum(np.floor(points.min(0) - radius), 0).astype(int).tolist()
    x2, y2 = np.minimum(np.ceil(points.max(0) + radius), (width, height)).astype(int).tolist()
    crop = np.zeros((max(y2 - y1, 0), max(x2 - x1, 0)), np.uint8)
    ends = points[1:] if len(points) > 1 else points
    for start, end in zip(points[: len(ends)], ends, strict=True):
        a1, b1 = np.maximum(np.floor(np.minimum(start, end) - radius), (x1, y1)).astype(int).tolist()
        a2, b2 = np.minimum(np.ceil(np.maximum(start, end) + radius), (x2, y2)).astype(int).tolist()
        if a1 >= a2 or b1 >= b2:
            continue
        x, y = np.arange(a1, a2) + 0.5 - start[0], np.arange(b1, b2)[:, None] + 0.5 - start[1]
        along = end - start
        share = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-12), 0, 1)
        near = (x - share * along[0]) ** 2 + (y - share * along[1]) ** 2 <= radius**2
        crop[b1 - y1 : b2 - y1, a1 - x1 : a2 - x1] |= near
    return crop, (x1, y1)


def rle_of(crop: NDArray[np.uint8], corner: tuple[int, int], height: int, width: int) -> dict[str, Any]:
    """COCO's RLE of a mask [h, w], 0 or 1, whose upper left corner is at (x, y) of the image."""
    import torch

    masks = CroppedMasks.from_crops([torch.from_numpy(crop)], [corner], (height, width))
    return masks.rles()[0]


def rings_of(segmentation: Segmentation, height: int, width: int) -> list[Ring]:
    """The rings that the page draws: a single polygon as it is, everything else traced from its pixels."""
    if isinstance(segmentation, list) and len(segmentation) == 1:
        return [[round(float(v), 2) for v in segmentation[0]]]
    crop, corner = decode_crop(to_rle(segmentation, height, width)["counts"], height)
    return rings_of_mask(crop.numpy(), corner)


def rings_of_mask(crop: NDArray[np.uint8], corner: tuple[int, int]) -> list[Ring]:
    """The rings of a mask [h, w], 0 or 1, whose upper left corner is at (x, y) of the image."""
    parts = trace_contours(crop, corner)
    rings = [ring for part in parts for ring in (part.outline, *part.holes)]
    return [[round(v, 2) for v in ring.reshape(-1).tolist()] for ring in rings]


def _clipped(ring: Ring, height: int, width: int) -> Ring:
    """A drawn ring inside the image: a pointer may leave it."""
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in ring):
        raise DataError("the object has a coordinate that is not a finite number")
    return [min(max(v, 0.0), float(height if i & 1 else width)) for i, v in enumerate(ring)]
