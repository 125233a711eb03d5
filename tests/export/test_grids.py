from __future__ import annotations

import numpy as np
import pytest
import torch

from instancefcn.export import grids
from instancefcn.ops.voting.average import vote_average


def test_suppression_is_padded() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
    rows, there = grids.suppress(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.5, 4)
    assert rows.tolist() == [1, 2, 0, 0]
    assert there.tolist() == [True, True, False, False]
    rows, there = grids.suppress(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.5, 1)
    assert (rows.tolist(), there.tolist()) == ([1], [True])


def test_a_threshold_in_single_precision_decides_as_in_double() -> None:
    for threshold in (0.3, 0.5, 0.7, 0.8):
        below = grids.single(threshold)
        assert float(np.float32(below)) == below <= threshold
        assert float(np.nextafter(np.float32(below), np.float32(1))) > threshold
    # 4 of 5 cells: an overlap of 0.8, which is above the threshold once both are written in binary.
    boxes = torch.tensor([[0.0, 0, 40, 8], [0, 0, 32, 8]])
    scores = torch.tensor([0.9, 0.8])
    assert grids.suppress(boxes, scores, 0.8, 2)[1].tolist() == [True, False]
    assert len(torch.ops.torchvision.nms(boxes, scores, 0.8)) == 1


def test_boxes_of_different_classes_never_overlap() -> None:
    classes = torch.arange(7)
    whole = torch.tensor([[0.0, 0.0, 50.0, 30.0]]).repeat(7, 1)
    moved = grids.apart(whole, classes, 7, (30, 50))
    overlap = torch.ops.torchvision.nms(moved, torch.ones(7), 0.0)
    assert len(overlap) == 7
    assert torch.equal(moved[:, 2:] - moved[:, :2], whole[:, 2:] - whole[:, :2])
    assert float(moved.max()) <= 3 * 51  # seven classes lie on a square of three by three


def test_those_that_are_there_come_first_in_their_order() -> None:
    there = torch.tensor([False, True, False, True, True])
    assert grids.front(there).tolist() == [1, 3, 4, 0, 2]


def test_the_average_is_the_one_of_the_voting_operator() -> None:
    """Grid points that are pixels' centres must read what `vote_average` reads there."""
    torch.manual_seed(0)
    masks = torch.rand(5, 7, 7)
    boxes = torch.tensor(
        [[2.2, 1.1, 17.3, 14.9], [3, 3, 12, 12], [5.5, 0, 20, 19], [0, 0, 9, 9], [8, 8, 30.5, 31]]
    )
    which, weights = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0.5, 0.3, 0.2, 0.6, 0.4])
    areas = torch.tensor([[2, 1, 18, 17], [4, 3, 20, 19]])
    wanted = vote_average(
        masks, boxes, torch.arange(5), weights, torch.tensor([0, 3, 5]), areas, None
    ).reshape(2, 16, 16)
    found = grids.average(masks, boxes, which, weights, areas.float(), 16)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def test_tightening_by_hand() -> None:
    fine = torch.zeros(3, 8, 8)
    fine[0, 2:5, 6:] = 1.0  # rows 2 to 4, columns 6 and 7 of 8
    fine[1, 1, 1], fine[1, 2, 2] = 0.3, 0.6
    areas = torch.tensor([[0.0, 0, 16, 16], [8, 8, 16, 16], [0, 0, 4, 4]])
    boxes, filled = grids.tighten(fine, areas, 0.5)
    assert boxes[0].tolist() == pytest.approx([12, 4, 16, 10])
    # Between 0.3 (at 1.5) and 0.6 (at 2.5) the half is reached at 1.5 + 2/3; between 0.6 and 0 at 2.5 + 1/6.
    low, high = 8 + 1.5 + 2 / 3, 8 + 2.5 + 1 / 6
    assert boxes[1].tolist() == pytest.approx([low, low, high, high], abs=1e-4)
    assert filled.tolist() == [True, True, False]
