"""Where a polygon crosses itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_POINTS = 2000
"""Longer polygons are not tested: every side is compared with every other."""
MIN_LOOP = 4.0
MIN_SHARE = 0.02
"""A crossing counts when the smaller loop has at least MIN_LOOP pixels and MIN_SHARE of the larger one's
area. Smaller slips of the mouse do not change a mask."""
_BLOCK = 256


def crossing(polygon: Sequence[float]) -> tuple[float, float] | None:
    """The point (x, y), in pixels, where two sides of a polygon x, y, x, y, .. cross and cut off the largest
    loop.

    None when no two sides cross, when all loops are too small to matter, or when the polygon has more than
    MAX_POINTS points. Sides that only touch do not cross.
    """
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    points = points[(points != np.roll(points, -1, axis=0)).any(1)]
    n = len(points)
    if n < 4 or n > MAX_POINTS:
        return None
    ends = np.roll(points, -1, axis=0)
    # Twice the area swept from the origin along the first i sides.
    swept = np.concatenate(([0.0], np.cumsum(_cross(points, ends))))
    best: tuple[float, float] | None = None
    largest = 0.0
    for start in range(0, n, _BLOCK):
        first, second = _crossing_sides(points, ends, start)
        if not len(first):
            continue
        along, step = ends[first] - points[first], ends[second] - points[second]
        share = _cross(points[second] - points[first], step) / _cross(along, step)
        at = points[first] + share[:, None] * along
        # The loop from the crossing along side `first` to side `second` and back to the crossing.
        loop = _cross(at, ends[first]) + swept[second] - swept[first + 1] + _cross(points[second], at)
        smaller = np.minimum(np.abs(loop), np.abs(swept[-1] - loop)) / 2
        whole = np.maximum(np.abs(loop), np.abs(swept[-1] - loop)) / 2
        smaller[(smaller < MIN_LOOP) | (smaller < MIN_SHARE * whole)] = 0
        if smaller.max() > largest:
            largest = float(smaller.max())
            x, y = at[int(smaller.argmax())].tolist()
            best = x, y
    return best


def _crossing_sides(points: np.ndarray, ends: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of sides i < j that cross, for the block of i that begins at `start`."""
    a, b = points[start : start + _BLOCK, None], ends[start : start + _BLOCK, None]
    c, d = points[None, start:], ends[None, start:]
    apart = _side(a, b, c) * _side(a, b, d) < 0
    apart &= _side(c, d, a) * _side(c, d, b) < 0
    i, j = np.nonzero(np.triu(apart, 1))
    return i + start, j + start


def _side(a: np.ndarray, b: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Sign of the side of line a-b on which a point lies."""
    return np.sign(_cross(b - a, point - a))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
