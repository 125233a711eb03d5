"""Outlines along pixels, and several outlines as one, have the same pixels as before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as oracle

from instancefcn.geometry.tracing import join_to_one, one_outline, trace_pixel_edges

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
H, W = 20, 24
pixels = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1)
)
points = st.tuples(st.floats(-4, W + 4), st.floats(-4, H + 4))
polygons = st.lists(points, min_size=3, max_size=6).map(lambda ps: [v for p in ps for v in p])


def drawn(*rings: list[float]) -> np.ndarray:
    return oracle.decode(oracle.merge(oracle.frPyObjects(list(rings), H, W)))


def test_a_square_with_a_hole_and_a_pixel_at_its_corner() -> None:
    mask = np.zeros((5, 5), dtype=np.uint8)
    mask[:4, :4] = 1
    mask[1, 2] = 0
    mask[4, 4] = 1
    parts, holes = trace_pixel_edges(mask, (10, 3))
    assert [sorted(zip(p[0::2], p[1::2], strict=True)) for p in parts] == [
        [(10, 3), (10, 7), (14, 3), (14, 7)],
        [(14, 7), (14, 8), (15, 7), (15, 8)],
    ]
    assert [sorted(zip(h[0::2], h[1::2], strict=True)) for h in holes] == [
        [(12, 4), (12, 5), (13, 4), (13, 5)]
    ]


@given(pixels)
@settings(deadline=None, max_examples=60)
def test_traced_and_joined_outlines_have_the_same_pixels(mask: np.ndarray) -> None:
    parts, holes = trace_pixel_edges(mask, (3, 2))
    full = np.zeros((H, W), dtype=np.uint8)
    full[2 : 2 + mask.shape[0], 3 : 3 + mask.shape[1]] = mask
    if not parts:
        assert not mask.any()
        return
    np.testing.assert_array_equal(drawn(join_to_one([*parts, *holes])), full)
    if not holes:
        np.testing.assert_array_equal(drawn(*parts), full)


@given(st.lists(polygons, min_size=1, max_size=3))
@settings(deadline=None, max_examples=60)
def test_one_outline_of_any_polygons_has_the_same_pixels_inside_the_image(parts: list[list[float]]) -> None:
    outline = one_outline(parts, H, W)
    wanted = drawn(*parts)
    if outline is None:
        assert not wanted.any()
        return
    np.testing.assert_array_equal(drawn(outline.ring), wanted)
    assert all(0 <= v <= (H if i & 1 else W) for i, v in enumerate(outline.ring))
    assert outline.redrawn or outline.parts == len(parts)


def test_a_single_polygon_stays_and_parts_that_overlap_are_redrawn() -> None:
    square, other = [2.5, 2, 6, 2, 6, 6, 2, 6], [4, 4, 9, 4, 9, 9, 4, 9]
    alone = one_outline([square], H, W)
    assert alone is not None
    assert alone.ring is square
    apart = one_outline([square, [12, 12, 15, 12, 15, 15]], H, W)
    assert apart is not None
    assert (apart.parts, apart.holes, apart.redrawn) == (2, 0, False)
    together = one_outline([square, other], H, W)
    assert together is not None
    assert (together.parts, together.redrawn) == (1, True)
