"""Mask voting as published: what differs from the paper's, and golden data of ChainerCV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from instancefcn.ops.voting.operator import vote_masks
from instancefcn.published import reference
from instancefcn.published.voting import numpy_ranks, vote_published
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

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "voting.npz"


def test_votes_are_thresholded_before_they_are_averaged() -> None:
    # Two equal boxes, masks 0.3 and 0.9, weights 2/3 and 1/3: the mean is 0.5; of the thresholded votes it is
    # 1/3.
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    masks = torch.tensor([0.3, 0.9])[:, None, None, None].expand(2, 2, 4, 4)
    probabilities = torch.tensor([[0.4, 0.6], [0.7, 0.3]])
    assert len(vote_masks(from_table(masks), boxes, probabilities, (4, 4))) == 1
    assert len(vote_published(from_table(masks), boxes, probabilities, (4, 4))) == 0


def test_masks_are_read_once_of_every_voters_best_foreground_class() -> None:
    assert reads_of_two_boxes(vote_published)[1] == [([0, 1], [1, 2])]


def test_whatever_ties_with_the_last_score_stays() -> None:
    boxes = torch.tensor([[x, 0.0, x + 5.0, 5.0] for x in (20.0, 10.0, 0.0)])
    probabilities = torch.tensor([[0.2, 0.4, 0.4]] * 3)
    assert len(vote_published(constant(1.0), boxes, probabilities, (5, 25), max_instances=4)) == 6


def test_equals_stand_where_numpys_sort_puts_them() -> None:
    """A short column is sorted stably and reversed; a long one as numpy 1 did it for all floats, which these
    figures are of (1.23.5).
    """
    assert numpy_ranks(torch.tensor([[0.5, 0.9, 0.5, 0.9]])).tolist() == [[3, 1, 2, 0]]
    long = (torch.arange(40) * 7 % 5).float()
    expected = [37, 2, 7, 32, 12, 17, 22, 27, 39, 24, 4, 9, 14, 19, 29, 34, 31, 11, 26, 16]
    expected += [36, 1, 21, 6, 18, 38, 3, 13, 28, 33, 8, 23, 5, 35, 25, 10, 30, 15, 20, 0]
    assert numpy_ranks(long[None]).tolist() == [expected]
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 7.0]])
    tied = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    assert vote_masks(constant(1.0), boxes, tied, (10, 10)).rows.tolist() == [0]
    assert vote_published(constant(1.0), boxes, tied, (10, 10)).rows.tolist() == [1]


def test_memory_groups_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, expected = check_memory_groups(vote_published, monkeypatch)
    assert torch.equal(parts.probabilities, expected.probabilities)


def test_nothing_to_vote_for() -> None:
    check_nothing_to_vote_for(vote_published)


def test_a_box_without_numbers_or_area_does_not_affect_others() -> None:
    check_unusable_boxes(vote_published)


@settings(max_examples=25, deadline=None)
@given(**EXAMPLES)
def test_equal_to_the_reference(
    seed: int, count: int, axis: int, m: int, size: tuple[int, int], limit: int
) -> None:
    masks, boxes, probabilities, _ = random_case(seed, count, axis, m, size)
    # Boxes are inside the image, as before this order everywhere.
    boxes = torch.stack((*(boxes[:, i].clamp(0, size[1 - i % 2]) for i in range(4)),), 1)
    wanted = reference.vote_published(
        lambda row, class_: masks[row, class_].double().numpy(),
        boxes.double().tolist(),
        probabilities.double().tolist(),
        size,
        max_instances=limit,
    )
    voted = vote_published(from_table(masks), boxes, probabilities, size, max_instances=limit)
    assert voted.rows.tolist() == [instance.row for instance in wanted]
    assert voted.classes.tolist() == [instance.class_ for instance in wanted]
    for i, instance in enumerate(wanted):
        assert voted.scores[i].item() == pytest.approx(instance.score)
        assert voted.boxes[i].tolist() == pytest.approx(instance.box, abs=1e-4)
        assert voted.masks.rects[i].tolist() == list(instance.rect)
        np.testing.assert_allclose(voted.probabilities[i].numpy(), instance.average, atol=1e-5)


PRESETS = {
    "eval": {"min_score": 1e-3},
    "vis": {"min_score": 0.7},
    "lim10": {"min_score": 1e-3, "max_instances": 10},
}


def assert_published(
    inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], preset: str, atol: float
) -> None:
    """The golden data's conventions: boxes y1, x1, y2, x2; results class by class; one mask per RoI."""
    masks = torch.from_numpy(inputs["seg_prob"])
    voted = vote_published(
        lambda rows, classes: masks[rows],
        torch.from_numpy(inputs["bbox"])[:, [1, 0, 3, 2]],
        torch.from_numpy(inputs["cls_prob"]),
        (int(inputs["size"][0]), int(inputs["size"][1])),
        **PRESETS[preset],  # type: ignore[arg-type]
    )
    by_class = torch.from_numpy(np.lexsort((-voted.scores.numpy(), voted.classes.numpy())))
    np.testing.assert_array_equal(voted.classes[by_class].numpy() - 1, expected["label"])
    np.testing.assert_array_equal(voted.scores[by_class].numpy(), expected["score"])
    np.testing.assert_array_equal(voted.boxes[by_class].numpy()[:, [1, 0, 3, 2]], expected["bbox"])
    if "seg_prob" in expected:
        np.testing.assert_allclose(voted.probabilities[by_class].numpy(), expected["seg_prob"], atol=atol)


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_to_the_golden_excerpt(preset: str) -> None:
    golden = np.load(GOLDEN)
    expected = {key: golden[f"{preset}_v_{key}"] for key in ("bbox", "label", "score")}
    if preset == "eval":
        expected["seg_prob"] = golden["eval_v_seg_prob"].astype(np.float32)  # kept in float16
    assert_published(dict(golden), expected, preset, atol=5e-4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("case", ["a", "b"])
def test_equal_to_the_golden_data(shared: Path, case: str, preset: str) -> None:
    golden = np.load(shared / "parity" / "golden_ops.npz")
    inputs = {key: golden[f"vote_{case}_{key}"] for key in ("seg_prob", "bbox", "cls_prob", "size")}
    results = ("seg_prob", "bbox", "label", "score")
    expected = {key: golden[f"vote_{case}_{preset}_v_{key}"] for key in results}
    assert_published(inputs, expected, preset, atol=2e-5)
