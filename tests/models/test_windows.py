"""Sliding windows: where they lie, and which of them an object fills."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from instancefcn.models.windows import WindowSpec, label_windows, sample_windows, window_boxes
from tiny import target

SPEC = WindowSpec()
SIZE = (240, 320)
CELLS = (30, 40)


def test_a_window_is_centred_on_its_cell() -> None:
    """21 cells of 8 pixels around the centre of the cell in row 2, column 3: (28, 20)."""
    (box,) = window_boxes(torch.tensor([2 * 40 + 3]), 40, SPEC).tolist()
    assert box == [28 - 84, 20 - 84, 28 + 84, 20 + 84]


def positives(labels: torch.Tensor, value: int = 1) -> set[tuple[int, int]]:
    return {(int(i) // 40, int(i) % 40) for i in (labels == value).nonzero()[:, 0]}


def test_the_rule_by_hand() -> None:
    """An object of 96 x 60 pixels centred at (164, 124), the centre of the cell in row 15, column 20."""
    labels, matched = label_windows(*CELLS, target([(116, 94, 212, 154)], [0], SIZE), SPEC)
    # 12 pixels are a cell and a half, 24 are three.
    assert positives(labels) == {(y, x) for y in (14, 15, 16) for x in (19, 20, 21)}
    assert positives(labels, -1) == {(y, x) for y in range(12, 19) for x in range(17, 24)} - positives(labels)
    assert not matched.any()


@pytest.mark.parametrize(
    ("side", "found"),
    [(96, "positive"), (79, "positive"), (117, "positive"), (77, "unused"), (119, "unused"), (46, "no")],
)
def test_sizes(side: int, found: str) -> None:
    """96 / 1.5^0.5 = 78.4 and 96 x 1.5^0.5 = 117.6 pixels are the limits; below 48 it is another size."""
    box = (164 - side // 2, 116, 164 - side // 2 + side, 132)
    labels, _ = label_windows(*CELLS, target([box], [0], SIZE), SPEC)
    assert ("positive" if (labels == 1).any() else "unused" if (labels == -1).any() else "no") == found


def test_every_size_fits_exactly_one_level_of_the_pyramid() -> None:
    for side in range(60, 400, 7):
        fitting = 0
        for level in range(6):
            larger = side * 1.5 ** (level - 4)
            octaves = torch.tensor(larger / 96).log2().abs()
            fitting += int(octaves <= SPEC.size_tolerance)
        assert fitting == 1, side


def test_the_nearest_of_two_objects_is_meant() -> None:
    labels, matched = label_windows(
        *CELLS, target([(116, 76, 212, 172), (124, 76, 220, 172)], [0, 0], SIZE), SPEC
    )
    row = labels.reshape(CELLS)[15], matched.reshape(CELLS)[15]
    assert row[0].tolist()[17:25] == [-1, -1, 1, 1, 1, 1, -1, -1]
    assert row[1].tolist()[19:23] == [0, 0, 1, 1]


def test_crowds_are_no_background() -> None:
    labels, _ = label_windows(*CELLS, target([], [], SIZE, crowd=[(0, 0, 80, 8)]), SPEC)
    assert positives(labels, -1) == {(0, x) for x in range(10)}
    assert (labels == 0).sum() == 1200 - 10


def test_half_positive_at_most() -> None:
    labels = torch.tensor([1] * 300 + [0] * 900 + [-1] * 50)
    positive, negative = sample_windows(labels, SPEC)
    assert (len(positive), len(negative)) == (128, 128)
    assert bool((labels[positive] == 1).all())
    assert bool((labels[negative] == 0).all())
    few = torch.tensor([1] * 5 + [0] * 900)
    assert [len(part) for part in sample_windows(few, SPEC)] == [5, 251]
    assert [len(part) for part in sample_windows(few[:0], replace(SPEC, samples=4))] == [0, 0]
