"""Boxes against hand-computed tables."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from instancefcn.geometry import boxes as box_ops

ROIS = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0], [0.0, 1.0, 4.0, 2.0], [2.0, 0.0, 4.0, 4.0]])
TRUTH = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 2.0, 5.0, 4.0], [0.0, 0.0, 2.0, 4.0], [1.0, 1.0, 2.0, 2.0]])
# Centre shifts in units of the RoI's sides; logarithms of the ratios of the sides.
DELTAS = torch.tensor(
    [
        [0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, math.log(2), 0.0],
        [-0.25, 0.5, -math.log(2), math.log(4)],
        [-0.75, -0.125, -math.log(2), -math.log(4)],
    ]
)


def boxes(count: int = 1) -> st.SearchStrategy[Tensor]:
    corner, side = st.floats(-500, 1500, width=32), st.floats(0.5, 800, width=32)
    one = st.tuples(corner, corner, side, side).map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))
    return st.lists(one, min_size=count, max_size=count).map(
        lambda rows: torch.tensor(rows, dtype=torch.float64)
    )


def test_encode_gives_the_hand_computed_deltas() -> None:
    torch.testing.assert_close(box_ops.encode(ROIS, TRUTH), DELTAS)


def test_decode_gives_the_hand_computed_boxes() -> None:
    torch.testing.assert_close(box_ops.decode(ROIS, DELTAS), TRUTH)


@settings(deadline=None)
@given(rois=boxes(3), truth=boxes(3))
def test_decode_undoes_encode(rois: Tensor, truth: Tensor) -> None:
    growth = (truth[:, 2:] - truth[:, :2]) / (rois[:, 2:] - rois[:, :2])
    found = box_ops.decode(rois, box_ops.encode(rois, truth))
    kept = (growth < 62.5).all(1)
    torch.testing.assert_close(found[kept], truth[kept], rtol=0, atol=1e-6)


def test_growth_of_one_step_is_limited() -> None:
    grown = box_ops.decode(ROIS[:1], torch.tensor([[0.0, 0.0, 100.0, 2.0]]))
    assert torch.isfinite(grown).all()
    assert float(grown[0, 2] - grown[0, 0]) == pytest.approx(4 * 62.5)
    assert float(grown[0, 3] - grown[0, 1]) == pytest.approx(4 * math.exp(2))


def test_clip_knows_height_from_width() -> None:
    wild = torch.tensor([[-3.0, -1.0, 9.0, 9.0], [1.0, 1.0, 2.0, 2.0], [7.0, 5.0, 8.0, 6.0]])
    clipped = box_ops.clip(wild, (4, 6))
    assert clipped.tolist() == [[0, 0, 6, 4], [1, 1, 2, 2], [6, 4, 6, 4]]


def test_scale_multiplies_x_and_y_apart() -> None:
    assert box_ops.scale(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2.0, 10.0).tolist() == [2, 20, 6, 40]


def test_sides_at_least_counts_without_one_pixel_more() -> None:
    sides = torch.tensor(
        [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 3.9, 8.0], [0.0, 0.0, 8.0, 3.9], [4.0, 4.0, 0.0, 0.0]]
    )
    assert box_ops.sides_at_least(sides, 4.0).tolist() == [True, False, False, False]


def test_rois_begin_with_the_batch_index() -> None:
    assert box_ops.to_rois(ROIS[1:2], 3).tolist() == [[3, 1, 1, 3, 3]]
    assert box_ops.to_rois(ROIS[:0], 3).shape == (0, 5)


def test_iou_is_that_of_half_open_boxes() -> None:
    # Over 4 x 4 pixels: the left half and the middle share one column of four: 4 / 12.
    iou = box_iou(
        torch.tensor([[0.0, 0.0, 2.0, 4.0]]), torch.tensor([[1.0, 0.0, 3.0, 4.0], [2.0, 0.0, 4.0, 4.0]])
    )
    torch.testing.assert_close(iou, torch.tensor([[1 / 3, 0.0]]))
