"""Connected parts of masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instancefcn.geometry.parts import part_numbers


def test_by_hand() -> None:
    mask = [
        [1, 1, 0, 0, 1],
        [0, 0, 1, 0, 1],
        [0, 0, 0, 0, 1],
        [1, 0, 1, 1, 1],
    ]
    wanted = [
        [1, 1, 0, 0, 2],
        [0, 0, 1, 0, 2],
        [0, 0, 0, 0, 2],
        [3, 0, 2, 2, 2],
    ]
    assert part_numbers(np.array(mask, np.uint8)).tolist() == wanted
    assert part_numbers(np.zeros((3, 2))).tolist() == [[0, 0]] * 3
    assert part_numbers(np.zeros((0, 0))).shape == (0, 0)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1))
def test_like_scipy(seed: int, height: int, width: int, share: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with scipy")
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(part_numbers(mask), ndimage.label(mask, np.ones((3, 3)))[0])
