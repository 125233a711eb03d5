"""Masks to polygons that a person can edit.

An outline runs midway between the centres of pixels inside and outside, so a diagonal is a straight line
instead of a staircase of pixel edges. The outline is then simplified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.5
"""Maximum distance of a simplified outline from the traced one, in pixels."""

Ring = NDArray[np.float64]
"""[P, 2]: x, y of the corners of a polygon in order, P >= 3, the first not repeated."""


@dataclass(frozen=True)
class Part:
    """One connected part of a mask: its outline and those of its holes."""

    outline: Ring
    holes: tuple[Ring, ...]


def trace_contours(
    crop: NDArray[Any], corner: tuple[int, int] = (0, 0), tolerance: float = TOLERANCE
) -> list[Part]:
    """Trace the outlines of a mask.

    Args:
        crop: [h, w], 0 or 1.
        corner: x, y of its upper left corner in the image.
        tolerance: how far simplifying may move an outline, in pixels; 0 keeps every point.

    Returns:
        The connected parts, largest first, in pixels of the image; none for a mask without pixels. Pixels
        that touch only at a corner are two parts. Before simplifying, an outline contains exactly the centres
        of the mask's pixels.
    """
    if not crop.any():
        return []
    generator: Any = contourpy.contour_generator(
        z=np.pad(crop.astype(np.float64), 1), fill_type=contourpy.FillType.OuterOffset
    )
    points, offsets = generator.filled(0.5, np.inf)
    # contourpy's coordinate 0 is the centre of the padding pixel before the first.
    shift = np.array(corner, dtype=np.float64) - 0.5
    parts = []
    for own, starts in zip(points, offsets, strict=True):
        rings = [
            simplify(own[first : stop - 1] + shift, tolerance)
            for first, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]
        parts.append(Part(rings[0], tuple(rings[1:])))
    return sorted(parts, key=lambda part: -area(part.outline))


def simplify(ring: Ring, tolerance: float) -> Ring:
    """The same polygon with fewer points (Douglas-Peucker): each point left out is at most `tolerance` pixels
    from the line that replaces it. A polygon that would collapse to a line is returned unchanged.
    """
    if tolerance <= 0 or len(ring) <= 3:
        return ring
    start = int(ring[:, 0].argmin())
    ring = np.roll(ring, -start, axis=0)
    far = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.concatenate((ring, ring[:1]))
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far]] = True
    todo = [(0, far), (far, len(ring))]
    while todo:
        first, last = todo.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            todo += [(first, middle), (middle, last)]
    kept = closed[:-1][keep[:-1]]
    return kept if len(kept) >= 3 and area(kept) > 0 else ring


def _distances(points: Ring, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """From points [P, 2] to the line segment between two others."""
    along = end - start
    share = np.clip((points - start) @ along / max(float(along @ along), 1e-12), 0, 1)
    distances: NDArray[np.float64] = np.hypot(*(points - start - share[:, None] * along).T)
    return distances


def area(ring: Ring) -> float:
    """Area of a polygon, in square pixels."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def join_rings(rings: list[Ring]) -> Ring:
    """Join several polygons into one, for formats with a single polygon per object.

    A line to a near point of the polygons before it, walked forth and back, connects each polygon. The
    even-odd fill rule leaves no trace of such a line.
    """
    whole = rings[0]
    for ring in rings[1:]:
        here = int(((whole - ring[0]) ** 2).sum(1).argmin())
        there = int(((ring - whole[here]) ** 2).sum(1).argmin())
        tour = np.roll(ring, -there, axis=0)
        whole = np.concatenate((whole[: here + 1], tour, tour[:1], whole[here:]))
    return whole
