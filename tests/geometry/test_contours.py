"""From masks to polygons and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from instancefcn.geometry.contours import Part, Ring, area, join_rings, simplify, trace_contours

MASKS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))


def centres(height: int, width: int) -> NDArray[np.float64]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack((columns.ravel() + 0.5, rows.ravel() + 0.5), 1)


def filled(parts: list[Part], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centres lie in the parts."""
    points, mask = centres(height, width), np.zeros(height * width, bool)
    for part in parts:
        inside = Polygon(part.outline).contains_points(points)
        for hole in part.holes:
            inside &= ~Polygon(hole).contains_points(points)
        mask |= inside
    return mask.reshape(height, width)


def crossings(ring: Ring, points: NDArray[np.float64]) -> NDArray[np.int64]:
    """How often a ray to the right from each point crosses the polygon: odd is inside."""
    count = np.zeros(len(points), np.int64)
    for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y1 == y2:
            continue
        crosses = (points[:, 1] >= min(y1, y2)) & (points[:, 1] < max(y1, y2))
        count += crosses & (x1 + (points[:, 1] - y1) * (x2 - x1) / (y2 - y1) > points[:, 0])
    return count


@given(MASKS)
@settings(deadline=None)
def test_without_tolerance_the_outlines_hold_exactly_the_pixels(mask: NDArray[np.uint8]) -> None:
    parts = trace_contours(mask, tolerance=0)
    assert (filled(parts, *mask.shape) == mask.astype(bool)).all()
    areas = [area(part.outline) for part in parts]
    assert areas == sorted(areas, reverse=True)


def test_a_known_square() -> None:
    (part,) = trace_contours(np.ones((2, 2), np.uint8), corner=(10, 20), tolerance=0)
    assert part.holes == ()
    assert sorted(map(tuple, part.outline.tolist())) == [
        (10.0, 20.5),
        (10.0, 21.5),
        (10.5, 20.0),
        (10.5, 22.0),
        (11.5, 20.0),
        (11.5, 22.0),
        (12.0, 20.5),
        (12.0, 21.5),
    ]
    assert trace_contours(np.zeros((3, 3), np.uint8)) == []
    assert len(trace_contours(np.eye(3, dtype=np.uint8))) == 3


@pytest.mark.parametrize("radius", [4, 12, 60])
def test_a_ring_keeps_its_shape_in_few_points(radius: int) -> None:
    rows, columns = np.mgrid[: 2 * radius + 8, : 2 * radius + 8]
    distance = np.hypot(rows - radius - 3.3, columns - radius - 3.7)
    mask = (distance < radius) & (distance > radius / 2)
    (part,) = trace_contours(mask)
    assert len(part.holes) == 1
    assert len(part.outline) <= len(trace_contours(mask, tolerance=0)[0].outline) / 4
    back = filled([part], *mask.shape)
    iou = (back & mask).sum() / (back | mask).sum()
    assert iou > {4: 0.85, 12: 0.95, 60: 0.99}[radius]


@given(MASKS, st.floats(0.1, 2))
@settings(deadline=None)
def test_no_point_that_is_left_out_is_farther_than_the_tolerance(
    mask: NDArray[np.uint8], tolerance: float
) -> None:
    for whole in trace_contours(mask, tolerance=0):
        ring = simplify(whole.outline, tolerance)
        assert len(ring) >= 3
        assert {tuple(p) for p in ring.tolist()} <= {tuple(p) for p in whole.outline.tolist()}
        for point in whole.outline:
            assert min(_distance(point, a, b) for a, b in zip(ring, np.roll(ring, -1, 0), strict=True)) <= (
                tolerance + 1e-9
            )


def _distance(point: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    share = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return float(np.hypot(*(point - a - share * (b - a))))


@given(MASKS)
@settings(deadline=None)
def test_joined_outlines_hold_the_same_pixels(mask: NDArray[np.uint8]) -> None:
    rings = [ring for part in trace_contours(mask, tolerance=0) for ring in (part.outline, *part.holes)]
    if rings:
        points = centres(*mask.shape) + np.array([0.013, 0.017])  # not on the line between two corners
        inside = crossings(join_rings(rings), points) % 2 == 1
        assert (inside.reshape(mask.shape) == mask.astype(bool)).all()
