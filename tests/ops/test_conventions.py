"""Hand-computed tables on 4 x 4 maps: each pins one convention, in every form."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from instancefcn import ops
from instancefcn.ops import portable, reference

RAMP = torch.arange(16.0).reshape(1, 1, 1, 1, 4, 4)  # cell (i, j) holds 4 i + j; one part, one channel
PARTS = (
    torch.tensor([[0.0, 1.0], [10.0, 11.0]]).reshape(1, 2, 2, 1, 1, 1).expand(1, 2, 2, 1, 4, 4)
)  # 10 p + q


@pytest.fixture(params=[reference, portable, ops], ids=["reference", "portable", "fastest"])
def form(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def window(*corners: float) -> Tensor:
    return torch.tensor([[0.0, *corners]])


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((0, 0, 1, 1), 0.0),  # one cell: half-open, cell 1 is not touched
        ((0.5, 0, 2.5, 1), 1.0),  # (0.5 * 0 + 1 + 0.5 * 2) / 2: cells by their overlap
        ((1.25, 2.25, 1.75, 2.5), 9.0),  # inside one cell, its value
        ((0, 0, 4, 4), 7.5),
        ((-2, 1, 1, 2), 4.0),  # what lies off the map does not count, nor in the divisor
        ((3, 3, 400, 400), 15.0),
        ((4, 0, 8, 4), 0.0),  # beside the map
        ((-9, -9, 0, 0), 0.0),
        ((2, 2, 2, 3), 0.0),  # no area
        ((3, 0, 1, 4), 0.0),  # inverted
        ((3, 3, 1, 1), 0.0),  # inverted in both
    ],
)
def test_average_weights_cells_by_overlap(
    form: ModuleType, corners: tuple[float, ...], expected: float
) -> None:
    torch.testing.assert_close(float(form.ps_average(RAMP, window(*corners), 1.0)), expected)


def test_stride_is_pixels_per_cell(form: ModuleType) -> None:
    torch.testing.assert_close(float(form.ps_average(RAMP, window(5, 0, 25, 10), 10.0)), 1.0)
    torch.testing.assert_close(float(form.ps_average(RAMP, window(1, 0, 5, 2), 2.0)), 1.0)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((0, 0, 4, 4), 5.5),  # (0 + 1 + 10 + 11) / 4
        ((1, 1, 2, 2), 5.5),  # four parts in one cell
        ((-2, 0, 2, 4), 6.0),  # the left parts are off the map: (1 + 11) / 2
        ((0, -1, 4, 1.5), (0.25 * 0.5 + 1.25 * 10.5) / 1.5),  # upper parts: 0.25 rows on the map, lower 1.25
    ],
)
def test_parts_read_their_own_map_rows_first(
    form: ModuleType, corners: tuple[float, ...], expected: float
) -> None:
    torch.testing.assert_close(float(form.ps_average(PARTS, window(*corners), 1.0)), expected)


def test_batch_index_chooses_the_image(form: ModuleType) -> None:
    maps = torch.cat([RAMP, RAMP + 100])
    rois = torch.tensor([[1.0, 0, 0, 1, 1], [0.0, 1, 0, 2, 1], [1.0, 0, 1, 1, 2]])
    assert form.ps_average(maps, rois, 1.0).flatten().tolist() == [100, 1, 104]


def test_class_scores_average_the_larger_of_inside_and_outside(form: ModuleType) -> None:
    outside = torch.tensor([[5.0, 0.0], [1.0, -2.0]])
    inside = torch.tensor([[3.0, 7.0], [1.0, -6.0]])
    maps = torch.stack([outside, inside]).reshape(1, 1, 1, 2, 1, 2, 2)
    assert float(form.class_scores(maps, window(0, 0, 2, 2), 1.0)) == (5 + 7 + 1 - 2) / 4
    assert float(form.class_scores(maps, window(1, 0, 2, 2), 1.0)) == (7 - 2) / 2


def test_gradient_goes_to_the_larger_map_and_to_outside_on_a_tie(form: ModuleType) -> None:
    outside = torch.tensor([[5.0, 0.0], [1.0, -2.0]])
    inside = torch.tensor([[3.0, 7.0], [1.0, -6.0]])
    maps = torch.stack([outside, inside]).reshape(1, 1, 1, 2, 1, 2, 2).requires_grad_()
    form.class_scores(maps, window(0, 0, 2, 2), 1.0).sum().backward()
    assert maps.grad is not None
    assert maps.grad[0, 0, 0, 0, 0].tolist() == [[0.25, 0], [0.25, 0.25]]
    assert maps.grad[0, 0, 0, 1, 0].tolist() == [[0, 0.25], [0, 0]]


def test_scores_of_classes_are_independent(form: ModuleType) -> None:
    maps = torch.zeros(1, 1, 1, 2, 3, 4, 4)
    maps[0, 0, 0, 0, 1], maps[0, 0, 0, 1, 2] = 2.0, 3.0
    assert form.class_scores(maps, window(0, 0, 2, 2), 1.0).flatten().tolist() == [0, 2, 3]


def pair(difference: Tensor) -> Tensor:
    """Maps [.., 2, 1, H, W] with inside - outside = difference."""
    return torch.stack([torch.full_like(difference, -1.0), difference - 1], 3)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (
            (0, 0, 4, 4),
            [[2.5, 4.5], [10.5, 12.5]],
        ),  # points 1 and 3 lie between the centres 0.5 and 1.5, 2.5 and 3.5
        (
            (0, 0, 1, 1),
            [[0, 0.25], [1, 1.25]],
        ),  # points 0.25 and 0.75: the first is clamped to the centre 0.5
        ((3, 3, 9, 9), [[15, 15], [15, 15]]),  # points 4.5 and 7.5, clamped
        ((1.5, 0.5, 1.5, 0.5), [[1, 1], [1, 1]]),  # no area: one point
        ((-90, 1, -80, 3), [[4, 4], [8, 8]]),  # far to the left: the first column
    ],
)
def test_mask_points_are_centres_of_a_grid(
    form: ModuleType, corners: tuple[float, ...], expected: list[list[float]]
) -> None:
    logits = form.mask_logits(pair(RAMP), window(*corners), torch.tensor([0]), 1.0, 2)
    torch.testing.assert_close(logits[0].float(), torch.tensor(expected, dtype=torch.float32))


def test_mask_points_read_the_part_they_lie_in(form: ModuleType) -> None:
    logits = form.mask_logits(pair(PARTS), window(0, 0, 4, 4), torch.tensor([0]), 1.0, 3)
    # floor((a + 0.5) * 2 / 3) = 0, 1, 1: a point on the border belongs to the later part
    assert logits[0].tolist() == [[0, 1, 1], [10, 11, 11], [10, 11, 11]]


def test_mask_logits_read_the_labelled_class(form: ModuleType) -> None:
    maps = torch.cat([pair(RAMP), pair(-RAMP)], 4)
    rois = window(0, 0, 1, 1).expand(2, 5) + torch.tensor([0, 2, 2, 2, 2.0])
    assert form.mask_logits(maps, rois, torch.tensor([0, 1]), 1.0, 1).flatten().tolist() == [10, -10]
