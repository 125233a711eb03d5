"""Mask voting: who survives, who votes, and hand-computed masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instancefcn.ops.voting import operator as voting
from instancefcn.ops.voting import reference as voting_reference
from instancefcn.ops.voting.operator import vote_masks
from voting_cases import (
    EXAMPLES,
    check_memory_groups,
    check_nothing_to_vote_for,
    check_unusable_boxes,
    constant,
    from_table,
    random_case,
    reads_of_two_boxes,
)


def test_one_box_covers_the_pixels_whose_centres_are_inside() -> None:
    # Columns 1 (its centre 1.5 on the left edge is inside) to 3, rows 1 and 2.
    boxes = torch.tensor([[1.5, 0.6, 4.4, 2.6]])
    voted = vote_masks(constant(1.0), boxes, torch.tensor([[0.1, 0.9]]), (5, 6))
    expected = torch.zeros((1, 5, 6), dtype=torch.bool)
    expected[0, 1:3, 1:4] = True
    assert torch.equal(voted.masks.dense(), expected)
    assert torch.equal(voted.boxes, boxes)
    assert voted.scores.tolist() == pytest.approx([0.9])
    assert (voted.classes.tolist(), voted.rows.tolist()) == ([1], [0])


def test_votes_are_weighted_by_the_class_probability() -> None:
    # Two boxes of IoU 2/3. The first's mask is 0, the second's 1 with weight 0.3 / 0.9 = 1/3 < 0.4 ...
    boxes = torch.tensor([[0.0, 0.0, 5.0, 4.0], [1.0, 0.0, 6.0, 4.0]])
    masks = torch.zeros((2, 2, 3, 3))
    masks[1] = 1.0
    probabilities = torch.tensor([[0.4, 0.6], [0.7, 0.3]])
    voted = vote_masks(from_table(masks), boxes, probabilities, (4, 8))
    assert len(voted) == 0
    # ... and with weight 0.45 / 1.05 = 0.43 its pixels are 1, inside the survivor's box alone.
    probabilities = torch.tensor([[0.4, 0.6], [0.55, 0.45]])
    voted = vote_masks(from_table(masks), boxes, probabilities, (4, 8))
    assert voted.rows.tolist() == [0]
    expected = torch.zeros((4, 8), dtype=torch.bool)
    expected[:, 1:5] = True
    assert torch.equal(voted.masks.paste(0), expected)


def test_voters_may_reach_beyond_the_box_of_the_survivor() -> None:
    """The survivor covers columns 0 to 4, a voter of nearly its weight columns 0 to 6; both masks are
    full.
    """
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 6.0, 2.0]])
    probabilities = torch.tensor([[0.4, 0.6], [0.5, 0.5]])
    masks = torch.ones((2, 2, 3, 3))
    inside = vote_masks(from_table(masks), boxes, probabilities, (4, 8))
    assert inside.boxes.tolist() == [[0, 0, 4, 2]]
    assert inside.masks.areas().tolist() == [8]
    # Columns 4 and 5 have the second's share alone: 0.5 / 1.1 = 0.45 reaches 0.4.
    reaching = vote_masks(from_table(masks), boxes, probabilities, (4, 8), extent="voters")
    assert reaching.boxes.tolist() == [[0, 0, 6, 2]]
    assert reaching.masks.areas().tolist() == [12]


def test_masks_are_read_once_of_the_survivors_classes() -> None:
    voted, reads = reads_of_two_boxes(vote_masks)
    assert (voted.classes.tolist(), voted.rows.tolist()) == ([1, 2], [0, 1])
    assert reads == [([0, 1, 0, 1], [1, 1, 2, 2])]


def test_suppression_is_per_class_and_leaves_out_the_background() -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 7.0], [20.0, 0.0, 28.0, 8.0]])
    probabilities = torch.tensor([[0.0, 0.9, 0.1], [0.0, 0.8, 0.2], [0.9, 0.0, 0.1]])
    voted = vote_masks(constant(1.0), boxes, probabilities, (10, 30))
    assert voted.rows.tolist() == [0, 1, 2]
    assert voted.classes.tolist() == [1, 2, 2]


def test_equal_scores_come_by_class_then_row() -> None:
    boxes = torch.tensor([[x, 0.0, x + 5.0, 5.0] for x in (20.0, 10.0, 0.0)])
    probabilities = torch.tensor([[0.2, 0.4, 0.4]] * 3)
    voted = vote_masks(constant(1.0), boxes, probabilities, (5, 25))
    assert list(zip(voted.classes.tolist(), voted.rows.tolist(), strict=True)) == [
        (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip
    assert len(vote_masks(constant(1.0), boxes, probabilities, (5, 25), max_instances=4)) == 4


def test_survivors_are_those_of_the_whole_list_when_thousands_overlap() -> None:
    """The best boxes suppress so many that the first candidates looked at are not enough."""
    generator = torch.Generator().manual_seed(0)
    near = torch.rand((900, 4), generator=generator) + torch.tensor([0.0, 0.0, 50.0, 50.0])
    apart = torch.tensor([[100.0 * i, 100.0, 100.0 * i + 9, 109.0] for i in range(20)])
    boxes = torch.cat((apart, near))
    scores = torch.cat((torch.linspace(0.1, 0.2, 20), 0.5 + 0.4 * torch.rand(900, generator=generator)))
    probabilities = torch.stack((1 - scores, scores), 1)
    voted = vote_masks(constant(1.0, 1), boxes, probabilities, (200, 2000), max_instances=10)
    assert voted.rows.tolist() == [20 + int(scores[20:].argmax()), *range(19, 10, -1)]


def test_memory_groups_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory_groups(vote_masks, monkeypatch)


def test_nothing_to_vote_for() -> None:
    check_nothing_to_vote_for(vote_masks)


def test_boxes_that_are_not_finite_or_have_no_area_are_ignored() -> None:
    check_unusable_boxes(vote_masks)


def test_inputs_that_do_not_fit_are_refused() -> None:
    boxes, probabilities = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.1, 0.9]])
    for wrong in (
        {"boxes": boxes[0]},
        {"probabilities": torch.ones((2, 2))},
        {"max_instances": 0},
        {"threshold": 0.0},
        {"extent": "wide"},
        {"read_masks": lambda rows, classes: torch.ones((len(rows), 3, 4))},
    ):
        arguments = {"read_masks": constant(1.0), "boxes": boxes, "probabilities": probabilities}
        with pytest.raises(ValueError, match="must"):
            vote_masks(**(arguments | wrong), image_size=(5, 5))  # type: ignore[arg-type]


def test_half_precision_and_gradients_go_in() -> None:
    masks, boxes, probabilities, size = random_case(1, 12, 3, 5, (30, 40))
    half = probabilities.bfloat16().requires_grad_()
    voted = vote_masks(lambda r, c: masks[r, c].half().requires_grad_(), boxes, half, size)
    assert len(voted) > 0
    assert not voted.scores.requires_grad
    assert voted.scores.dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(extent=st.sampled_from(["box", "voters"]), **EXAMPLES)
def test_equal_to_the_reference(
    seed: int,
    count: int,
    axis: int,
    m: int,
    size: tuple[int, int],
    limit: int,
    extent: voting.Extent,
) -> None:
    masks, boxes, probabilities, _ = random_case(seed, count, axis, m, size)
    wanted = voting_reference.vote_masks(
        lambda row, class_: masks[row, class_].double().numpy(),
        boxes.double().tolist(),
        probabilities.double().tolist(),
        size,
        max_instances=limit,
        extent=extent,
    )
    voted = vote_masks(from_table(masks), boxes, probabilities, size, max_instances=limit, extent=extent)
    assert voted.rows.tolist() == [instance.row for instance in wanted]
    assert voted.classes.tolist() == [instance.class_ for instance in wanted]
    for i, instance in enumerate(wanted):
        assert voted.scores[i].item() == pytest.approx(instance.score)
        if extent == "voters":
            sure = np.abs(instance.average - 0.4) > 1e-5
            assert (voted.masks.paste(i).numpy() == instance.mask)[sure].all()
            if sure.all():
                assert voted.boxes[i].tolist() == list(instance.box)
            continue
        assert voted.boxes[i].tolist() == pytest.approx(instance.box, abs=1e-4)
        assert voted.masks.rects[i].tolist() == list(instance.rect)
        sure = np.abs(instance.average - 0.4) > 1e-5
        assert (voted.masks.crop(i).bool().numpy() == instance.mask)[sure].all()
