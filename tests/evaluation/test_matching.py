"""TP / (TP + FP + FN) of label maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from instancefcn.evaluation.matching import THRESHOLDS, Matches, match, mean_score

TRUTH = np.array(
    [
        [1, 1, 0, 2, 2],
        [1, 1, 0, 2, 2],
        [0, 0, 0, 0, 0],
        [3, 3, 3, 3, 0],
    ]
)
FOUND = np.array(
    [
        [7, 7, 0, 5, 5],  # object 1 whole; object 2 by three pixels of four
        [7, 7, 0, 5, 0],
        [0, 0, 0, 0, 9],  # made up
        [4, 4, 0, 0, 0],  # half of object 3: an IoU of exactly 0.5 is no match
    ]
)


def test_a_table_by_hand() -> None:
    found = match(TRUTH, FOUND, (0.5, 0.7, 0.75, 0.9))
    assert found.found.tolist() == [2, 2, 1, 1]
    assert found.made_up.tolist() == [2, 2, 3, 3]
    assert found.missed.tolist() == [1, 1, 2, 2]
    assert found.score.tolist() == [2 / 5, 2 / 5, 1 / 6, 1 / 6]


def test_nothing_to_find() -> None:
    empty, one = np.zeros((2, 3), dtype=int), np.ones((2, 3), dtype=int)
    assert match(empty, empty).score.tolist() == [1.0] * len(THRESHOLDS)
    assert match(empty, one).score.tolist() == match(one, empty).score.tolist() == [0.0] * len(THRESHOLDS)
    assert match(one, one).score.tolist() == [1.0] * len(THRESHOLDS)


def test_images_together_and_their_mean() -> None:
    perfect, half = match(TRUTH, TRUTH, (0.5,)), match(TRUTH, FOUND, (0.5,))
    assert (perfect + half).score.tolist() == [5 / 8]
    assert mean_score([perfect, half]).tolist() == [pytest.approx((1 + 2 / 5) / 2)]


maps = arrays(np.int64, (6, 7), elements=st.integers(0, 4))


@given(maps, maps)
def test_counts_add_up_and_numbers_do_not_matter(truth: np.ndarray, found: np.ndarray) -> None:
    result = match(truth, found)
    objects, detections = (len(np.unique(m[m > 0])) for m in (truth, found))
    assert (result.found + result.missed == objects).all()
    assert (result.found + result.made_up == detections).all()
    assert (np.diff(result.found) <= 0).all()
    assert (result.found >= 0).all()
    assert (result.missed >= 0).all()
    renamed = match(np.where(truth > 0, 91 - truth, 0), found)
    assert renamed.found.tolist() == result.found.tolist()
    mirrored = match(found, truth)
    assert mirrored.found.tolist() == result.found.tolist()
    assert mirrored.missed.tolist() == result.made_up.tolist()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        match(TRUTH, TRUTH.T)
    with pytest.raises(ValueError, match=r"at least 0\.5"):
        match(TRUTH, TRUTH, (0.4,))
    assert isinstance(match(TRUTH, TRUTH), Matches)
