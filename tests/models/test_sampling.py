"""Which RoIs train, and towards which masks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.models.sampling import SamplingSpec, assign_rois, hardest, mask_targets
from instancefcn.models.targets import Target
from tiny import target

# A 10 px object of class 2 at the origin; IoU with it: 1, 0.5, 0.4, 0.05, 0.
PROPOSALS = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],
        [0.0, 0.0, 10.0, 5.0],
        [0.0, 0.0, 10.0, 4.0],
        [0.0, 0.0, 5.0, 1.0],
        [50.0, 50.0, 60.0, 60.0],
    ]
)
OBJECT = target([(0, 0, 10, 10)], [2], (64, 64))
OHEM = SamplingSpec(method="ohem")


def drawn(spec: SamplingSpec, described: Target = OBJECT) -> Counter[tuple[float, ...]]:
    """How often every (label, x1, y1, x2, y2) was drawn."""
    sample = assign_rois(PROPOSALS, described, spec)
    assert sample.labels.dtype == sample.matched.dtype == torch.int64
    return Counter(
        (label, *roi) for label, roi in zip(sample.labels.tolist(), sample.rois.tolist(), strict=True)
    )


def test_the_objects_own_boxes_join_the_proposals() -> None:
    sample = assign_rois(PROPOSALS, OBJECT, OHEM)
    assert sample.rois.tolist() == [*PROPOSALS.tolist(), [0, 0, 10, 10]]
    assert sample.labels.tolist() == [3, 3, 0, 0, 0, 3]
    assert sample.matched.tolist() == [0] * 6


def test_a_roi_stands_for_the_object_it_overlaps_most() -> None:
    two = target([(0, 0, 10, 6), (0, 0, 10, 10)], [0, 1], (64, 64))
    sample = assign_rois(PROPOSALS, two, OHEM)
    assert sample.labels.tolist() == [2, 1, 1, 0, 0, 1, 2]
    assert sample.matched.tolist() == [1, 0, 0, 0, 0, 0, 1]


def test_random_sampling_holds_its_quota() -> None:
    spec = SamplingSpec(method="random", rois=4, foreground_fraction=0.25, background_iou=0.1, fill=False)
    for _ in range(5):
        sample = assign_rois(PROPOSALS, OBJECT, spec)
        # One of three foreground RoIs, then the only RoI whose IoU lies in [0.1, 0.5).
        assert sample.labels.tolist() == [3, 0]
        assert sample.rois[1].tolist() == PROPOSALS[2].tolist()


def test_filling_labels_left_over_foreground_as_background() -> None:
    spec = SamplingSpec(method="random", rois=4, foreground_fraction=0.25, background_iou=0.1, fill=True)
    sample = assign_rois(PROPOSALS, OBJECT, spec)
    assert sample.labels.tolist() == [3, 0, 0, 0]
    whole = drawn(SamplingSpec(method="random", rois=100, foreground_fraction=0.01, fill=True))
    assert sum(count for (label, *_), count in whole.items() if label == 3) == 1
    assert sum(whole.values()) == 6


@pytest.mark.parametrize("method", ["random", "ohem"])
def test_without_objects_all_is_background(method: str) -> None:
    nothing = target([], [], (64, 64))
    found = drawn(SamplingSpec(method=method, background_iou=0.0), nothing)  # type: ignore[arg-type]
    assert found == Counter({(0, *row): 1 for row in PROPOSALS.tolist()})


def test_without_proposals_and_objects_nothing_is_drawn() -> None:
    sample = assign_rois(torch.zeros(0, 4), target([], [], (64, 64)), SamplingSpec(method="random"))
    assert sample.rois.shape == (0, 4)
    assert sample.labels.shape == (0,)


def test_crowds_are_left_out() -> None:
    crowd = target([(0, 0, 10, 10)], [2], (64, 64), crowd=[(45, 45, 64, 64), (0, 0, 10, 2)])
    sample = assign_rois(PROPOSALS, crowd, OHEM)
    assert sample.labels.tolist() == [3, 3, -1, -1, -1, 3]  # half of the third lies in the second crowd
    for fill in (False, True):
        labels = assign_rois(PROPOSALS, crowd, SamplingSpec(method="random", fill=fill)).labels
        assert labels.tolist() == [3, 3, 3]


def test_mask_targets_of_a_table() -> None:
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, 1:3, 1:5] = True
    mask[0, 3, 1] = True
    described = Target(
        torch.tensor([[1.0, 1.0, 5.0, 4.0]]),
        torch.tensor([0]),
        CroppedMasks.from_dense(mask),
        (1.0, 1.0),
        1,
        torch.zeros(0, 4),
    )
    rois, matched = torch.tensor([[1.0, 1.0, 5.0, 5.0], [3.0, 0.0, 7.0, 4.0]]), torch.tensor([0, 0])
    found = mask_targets(rois, matched, described, 4)  # cells are pixels
    assert found.int().tolist() == [
        [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]],
    ]


@pytest.mark.parametrize(("shift", "expected"), [(0.49, 1), (0.51, 0)])
def test_a_cell_belongs_to_the_object_from_one_half_on(shift: float, expected: int) -> None:
    described = target([(0, 0, 8, 8)], [0], (16, 16))
    # The last column's centre lies `shift` beyond the centre of the object's last pixel.
    roi = torch.tensor([[shift, 0.0, 8 + shift, 8.0]])
    found = mask_targets(roi, torch.tensor([0]), described, 8)
    assert found[0, :, -1].tolist() == [expected] * 8
    assert found[0, :, :-1].min() == 1


def test_masks_are_read_through_the_scale() -> None:
    """The network sees the image twice as wide and half as high; the mask stays in its own pixels."""
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 1:5] = True
    boxes = torch.tensor([[2.0, 1.0, 10.0, 3.0]])
    described = Target(
        boxes, torch.tensor([0]), CroppedMasks.from_dense(mask), (2.0, 0.5), 1, torch.zeros(0, 4)
    )
    assert float(mask_targets(boxes, torch.tensor([0]), described, 4).min()) == 1
    beside = boxes + torch.tensor([8.0, 0.0, 8.0, 0.0])
    assert float(mask_targets(beside, torch.tensor([0]), described, 4).max()) == 0


def test_no_foreground_no_masks() -> None:
    none = mask_targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), target([], [], (8, 8)), 21)
    assert none.shape == (0, 21, 21)


def test_the_hardest_are_those_of_highest_loss() -> None:
    losses = torch.tensor([0.1, 3.0, 0.2, 2.0, -1.0])
    assert hardest(losses, 2).tolist() == [False, True, False, True, False]
    assert hardest(losses, 9).tolist() == [True] * 5
