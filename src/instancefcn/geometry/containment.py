"""Which polygon of an outline lies inside another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from instancefcn.geometry.contours import Ring, area

MAX_POLYGONS = 500
"""Outlines of more polygons are not tested: every one is compared with every other."""
MOSTLY = 0.9
"""Minimum share of a polygon's points inside another one: a hole may touch its rim."""


def inner_polygon(polygons: Sequence[Sequence[float]]) -> tuple[int, int] | None:
    """The index of the first polygon x, y, x, y, .. that lies inside another one, and that of the other.

    None when there is none, or when there are more than MAX_POLYGONS polygons.
    """
    if not 2 <= len(polygons) <= MAX_POLYGONS:
        return None
    rings = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons]
    low = np.stack([ring.min(0) for ring in rings])
    high = np.stack([ring.max(0) for ring in rings])
    areas = np.array([area(ring) for ring in rings])
    within = (low[:, None] >= low[None]).all(2) & (high[:, None] <= high[None]).all(2)
    within &= (areas[:, None] < areas[None]) & (areas[:, None] > 0)
    for inner, outer in np.argwhere(within).tolist():
        if _share_inside(rings[inner], rings[outer]) >= MOSTLY:
            return inner, outer
    return None


def _share_inside(points: Ring, ring: Ring) -> float:
    """The share of points inside a polygon, by the even-odd rule."""
    ends = np.roll(ring, -1, axis=0)
    inside = 0
    for x, y in points.tolist():
        spans = (ring[:, 1] > y) != (ends[:, 1] > y)
        a, b = ring[spans], ends[spans]
        at = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
        inside += int((at > x).sum()) % 2
    return inside / len(points)
