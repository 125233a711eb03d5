from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instancefcn.errors import DataError
from instancefcn.geometry.outlines import to_rle
from instancefcn.geometry.rle import decode_crop
from instancefcn.studio.labelling import shapes

HEIGHT, WIDTH = 30, 40
SQUARE = [5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]
HOLE = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]


def pixels(segmentation: Any) -> np.ndarray[Any, Any]:
    """The whole image's pixels."""
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    crop, (x, y) = decode_crop(to_rle(segmentation, HEIGHT, WIDTH)["counts"], HEIGHT)
    whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop.numpy()
    return whole


def test_a_polygon_stays_as_it_was_drawn() -> None:
    shape = shapes.shape_of_rings([SQUARE], HEIGHT, WIDTH)
    assert shape.segmentation == [SQUARE]
    assert (shape.box, shape.area) == ((5.0, 5.0, 25.0, 25.0), 400.0)
    assert shapes.rings_of(shape.segmentation, HEIGHT, WIDTH) == [SQUARE]


def test_a_ring_inside_another_is_a_hole() -> None:
    shape = shapes.shape_of_rings([SQUARE, HOLE], HEIGHT, WIDTH)
    assert shape.area == 300.0
    assert pixels(shape.segmentation)[15, 15] == 0
    rings = shapes.rings_of(shape.segmentation, HEIGHT, WIDTH)
    assert len(rings) == 2
    again = shapes.shape_of_rings(rings, HEIGHT, WIDTH)
    assert (pixels(again.segmentation) == pixels(shape.segmentation)).mean() > 0.99


def test_what_a_pointer_draws_outside_is_clipped() -> None:
    shape = shapes.shape_of_rings([[-9.0, -9.0, 60.0, -9.0, 60.0, 10.0, -9.0, 10.0]], HEIGHT, WIDTH)
    assert shape.box == (0.0, 0.0, 40.0, 10.0)
    assert shape.area == 400.0


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1.0, 1.0, 2.0, 2.0]],
        [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]],
        {"size": [HEIGHT, WIDTH], "counts": [5]},
        {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]},
        {"size": [HEIGHT, WIDTH], "counts": "not an RLE"},
        [],
        None,
    ],
    ids=["points", "empty", "short", "turned", "nothing", "text", "none", "null"],
)
def test_what_is_no_object(segmentation: Any) -> None:
    with pytest.raises(DataError):
        shapes.shape_of(segmentation, HEIGHT, WIDTH)


coordinates = st.tuples(st.floats(-20, WIDTH + 20), st.floats(-20, HEIGHT + 20))


def brute(points: list[tuple[float, float]], radius: float) -> np.ndarray[Any, Any]:
    """Pixels whose centre is within the radius of one of the line's segments, one by one."""
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i in range(HEIGHT):
        for j in range(WIDTH):
            for a, b in zip(points, points[1:] or points, strict=False):
                along = (b[0] - a[0], b[1] - a[1])
                length = along[0] ** 2 + along[1] ** 2 or 1.0
                t = ((j + 0.5 - a[0]) * along[0] + (i + 0.5 - a[1]) * along[1]) / length
                t = min(1.0, max(0.0, t))
                x, y = a[0] + t * along[0] - j - 0.5, a[1] + t * along[1] - i - 0.5
                whole[i, j] |= x * x + y * y <= radius * radius
    return whole


@given(
    points=st.lists(st.tuples(st.integers(0, WIDTH), st.integers(0, HEIGHT)), min_size=1, max_size=4),
    radius=st.integers(1, 9),
)
def test_a_stroke_covers_what_is_near_its_line(points: list[tuple[float, float]], radius: int) -> None:
    expected = brute(points, radius + 0.25)
    stroke = {"points": points, "radius": radius + 0.25}
    if expected.any():
        found = pixels(shapes.shape_of_stroke(stroke, HEIGHT, WIDTH).segmentation)
        assert (found == expected).all()
    square = pixels([SQUARE])
    added = shapes.painted_shape([SQUARE], stroke, False, HEIGHT, WIDTH)
    assert added is not None
    assert (pixels(added.segmentation) == (square | expected)).all()
    left = shapes.painted_shape([SQUARE], stroke, True, HEIGHT, WIDTH)
    wanted = square & ~expected & 1
    assert (left is None) == (not wanted.any())
    if left is not None:
        assert (pixels(left.segmentation) == wanted).all()
        assert left.area == wanted.sum()


@given(points=st.lists(coordinates, min_size=1, max_size=3), radius=st.floats(0.01, 100))
def test_a_stroke_anywhere_is_taken_or_refused(points: list[tuple[float, float]], radius: float) -> None:
    try:
        shape = shapes.shape_of_stroke({"points": points, "radius": radius}, HEIGHT, WIDTH)
    except DataError:
        return
    assert 0 < shape.area <= HEIGHT * WIDTH
