"""Mask voting: who survives, who votes, hand-computed masks, and the published order's golden data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instancefcn.ops.voting import ballots as voting_ballots
from instancefcn.ops.voting import operator as voting
from instancefcn.ops.voting import reference as voting_reference
from instancefcn.ops.voting import survivors as voting_survivors
from instancefcn.ops.voting.operator import vote_masks

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "voting.npz"


def constant(value: float, m: int = 4) -> voting.ReadMasks:
    """Every mask has the same probability everywhere."""
    return lambda rows, classes: torch.full((len(rows), m, m), value)


def from_table(masks: Tensor) -> voting.ReadMasks:
    """Masks from a table [R, C, m, m]."""
    return lambda rows, classes: masks[rows, classes]


def test_one_box_covers_the_pixels_whose_centres_are_inside() -> None:
    # Columns 1 (its centre 1.5 on the left edge is inside) to 3, rows 1 and 2.
    boxes = torch.tensor([[1.5, 0.6, 4.4, 2.6]])
    voted = vote_masks(constant(1.0), boxes, torch.tensor([[0.1, 0.9]]), (5, 6))
    expected = torch.zeros((1, 5, 6), dtype=torch.bool)
    expected[0, 1:3, 1:4] = True
    assert torch.equal(voted.masks.dense(), expected)
    assert torch.equal(voted.boxes, boxes)
    assert voted.scores.tolist() == pytest.approx([0.9])
    assert (voted.classes.tolist(), voted.rows.tolist(), voted.probabilities) == ([1], [0], None)


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


def test_published_order_thresholds_before_it_averages() -> None:
    # Two equal boxes, masks 0.3 and 0.9, weights 2/3 and 1/3: the mean is 0.5; of the thresholded votes it is
    # 1/3.
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
    masks = torch.tensor([0.3, 0.9])[:, None, None, None].expand(2, 2, 4, 4)
    probabilities = torch.tensor([[0.4, 0.6], [0.7, 0.3]])
    assert len(vote_masks(from_table(masks), boxes, probabilities, (4, 4))) == 1
    assert len(vote_masks(from_table(masks), boxes, probabilities, (4, 4), order="published")) == 0


def test_published_order_asks_for_the_best_foreground_class_and_the_paper_for_the_survivors() -> None:
    asked: list[tuple[list[int], list[int]]] = []

    def read(rows: Tensor, classes: Tensor) -> Tensor:
        asked.append((rows.tolist(), classes.tolist()))
        return torch.ones((len(rows), 2, 2))

    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 9.0]])
    probabilities = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])
    paper = vote_masks(read, boxes, probabilities, (10, 10))
    assert (paper.classes.tolist(), paper.rows.tolist()) == ([1, 2], [0, 1])
    vote_masks(read, boxes, probabilities, (10, 10), order="published")
    assert asked == [([0, 1, 0, 1], [1, 1, 2, 2]), ([0, 1], [1, 2])]


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
    # The published rule keeps whatever ties with the last score.
    tied = vote_masks(constant(1.0), boxes, probabilities, (5, 25), max_instances=4, order="published")
    assert len(tied) == 6


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
    masks, boxes, probabilities, size = random_case(3, 40, 4, 5, (60, 90))
    calls = []

    def read(rows: Tensor, classes: Tensor) -> Tensor:
        calls.append(len(rows))
        return masks[rows, classes]

    orders: tuple[voting.Order, ...] = ("paper", "published")
    whole = {order: vote_masks(read, boxes, probabilities, size, order=order) for order in orders}
    assert len(calls) == 2
    monkeypatch.setattr(voting_ballots, "MAX_VOTES", 50)
    for order, expected in whole.items():
        parts = vote_masks(read, boxes, probabilities, size, order=order)
        assert torch.equal(parts.masks.pixels, expected.masks.pixels)
        assert torch.equal(parts.masks.rects, expected.masks.rects)
        assert torch.equal(parts.scores, expected.scores)
        if expected.probabilities is not None:
            assert torch.equal(parts.probabilities, expected.probabilities)
    assert len(calls) == 6
    assert max(calls[2:]) <= 50


@pytest.mark.parametrize("order", ["paper", "published"])
def test_nothing_to_vote_for(order: voting.Order) -> None:
    def never(rows: Tensor, classes: Tensor) -> Tensor:
        raise AssertionError("there is nothing to read")

    for boxes, probabilities in (
        (torch.zeros((0, 4)), torch.zeros((0, 3))),
        (torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.9995, 0.0005, 0.0]])),  # below min_score
        (torch.tensor([[2.0, 2.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.9, 0.0]])),  # no area
        (torch.tensor([[float("nan"), 2.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.9, 0.0]])),
        (torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[1.0]])),  # background alone
    ):
        voted = vote_masks(never, boxes, probabilities, (10, 10), order=order)
        assert len(voted) == len(voted.masks) == 0
        assert voted.masks.image_size == (10, 10)


@pytest.mark.parametrize("order", ["paper", "published"])
def test_a_box_without_numbers_or_area_disturbs_nobody(order: voting.Order) -> None:
    nan = float("nan")
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [nan] * 4, [0.0, 0.0, 8.0, 7.0], [3.0, 3.0, 3.0, 3.0]])
    probabilities = torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.1, 0.8], [0.1, 0.9]])
    voted = vote_masks(constant(1.0), boxes, probabilities, (10, 10), order=order)
    assert voted.rows.tolist() == [0]
    assert int(voted.masks.areas()[0]) == 64


def test_equals_stand_where_numpys_sort_puts_them_in_the_published_order() -> None:
    """A short column is sorted stably and reversed; a long one as numpy 1 did it for all floats, which these
    figures are of (1.23.5).
    """
    assert voting_survivors.numpy_ranks(torch.tensor([[0.5, 0.9, 0.5, 0.9]])).tolist() == [[3, 1, 2, 0]]
    long = (torch.arange(40) * 7 % 5).float()
    expected = [37, 2, 7, 32, 12, 17, 22, 27, 39, 24, 4, 9, 14, 19, 29, 34, 31, 11, 26, 16]
    expected += [36, 1, 21, 6, 18, 38, 3, 13, 28, 33, 8, 23, 5, 35, 25, 10, 30, 15, 20, 0]
    assert voting_survivors.numpy_ranks(long[None]).tolist() == [expected]
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 7.0]])
    tied = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    assert vote_masks(constant(1.0), boxes, tied, (10, 10), order="paper").rows.tolist() == [0]
    assert vote_masks(constant(1.0), boxes, tied, (10, 10), order="published").rows.tolist() == [1]


def test_inputs_that_do_not_fit_are_refused() -> None:
    boxes, probabilities = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.1, 0.9]])
    for wrong in (
        {"boxes": boxes[0]},
        {"probabilities": torch.ones((2, 2))},
        {"max_instances": 0},
        {"threshold": 0.0},
        {"order": "alphabetical"},
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


def random_case(
    seed: int, count: int, axis: int, m: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Clusters of RoIs, some over the border, with smooth masks: (masks [R, C, m, m], boxes, probabilities,
    size).
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    centres = torch.rand((max(count // 4, 1), 4), generator=generator)
    centre = centres[torch.randint(len(centres), (count,), generator=generator)]
    xy = centre[:, :2] * torch.tensor([width, height]) + torch.randn((count, 2), generator=generator)
    wh = (0.15 + 0.5 * centre[:, 2:]) * torch.tensor([width, height])
    wh += torch.randn((count, 2), generator=generator)
    boxes = torch.cat((xy - wh / 2, xy + wh / 2), 1)
    grid = (torch.arange(m) + 0.5) / m - 0.5
    bump = torch.exp(-4 * (grid[:, None] ** 2 + grid**2))
    # Not clamped: grids of exact 0 and 1 read exactly 0.4 at some pixels, where rounding decides.
    masks = torch.sigmoid(6 * bump - 3 + torch.randn((count, axis, m, m), generator=generator))
    probabilities = (2 * torch.randn((count, axis), generator=generator)).softmax(1)
    return masks, boxes, probabilities, size


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    count=st.integers(1, 14),
    axis=st.integers(1, 4),
    m=st.integers(1, 6),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    order=st.sampled_from(["paper", "published"]),
    limit=st.sampled_from([1, 3, 100]),
    extent=st.sampled_from(["box", "voters"]),
)
def test_equal_to_the_reference(
    seed: int,
    count: int,
    axis: int,
    m: int,
    size: tuple[int, int],
    order: voting.Order,
    limit: int,
    extent: voting.Extent,
) -> None:
    masks, boxes, probabilities, _ = random_case(seed, count, axis, m, size)
    if order == "published":  # as everywhere before this order, boxes are inside the picture
        boxes = torch.stack((*(boxes[:, i].clamp(0, size[1 - i % 2]) for i in range(4)),), 1)
    wanted = voting_reference.vote_masks(
        lambda row, class_: masks[row, class_].double().numpy(),
        boxes.double().tolist(),
        probabilities.double().tolist(),
        size,
        max_instances=limit,
        order=order,
        extent=extent,
    )
    voted = vote_masks(
        from_table(masks), boxes, probabilities, size, max_instances=limit, order=order, extent=extent
    )
    assert voted.rows.tolist() == [instance.row for instance in wanted]
    assert voted.classes.tolist() == [instance.class_ for instance in wanted]
    for i, instance in enumerate(wanted):
        assert voted.scores[i].item() == pytest.approx(instance.score)
        if extent == "voters" and order == "paper":
            sure = np.abs(instance.average - 0.4) > 1e-5
            assert (voted.masks.paste(i).numpy() == instance.mask)[sure].all()
            if sure.all():
                assert voted.boxes[i].tolist() == list(instance.box)
            continue
        assert voted.boxes[i].tolist() == pytest.approx(instance.box, abs=1e-4)
        assert voted.masks.rects[i].tolist() == list(instance.rect)
        if voted.probabilities is not None:
            np.testing.assert_allclose(voted.probabilities[i].numpy(), instance.average, atol=1e-5)
        else:
            sure = np.abs(instance.average - 0.4) > 1e-5
            assert (voted.masks.crop(i).bool().numpy() == instance.mask)[sure].all()


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
    voted = vote_masks(
        lambda rows, classes: masks[rows],
        torch.from_numpy(inputs["bbox"])[:, [1, 0, 3, 2]],
        torch.from_numpy(inputs["cls_prob"]),
        (int(inputs["size"][0]), int(inputs["size"][1])),
        order="published",
        **PRESETS[preset],  # type: ignore[arg-type]
    )
    by_class = torch.from_numpy(np.lexsort((-voted.scores.numpy(), voted.classes.numpy())))
    np.testing.assert_array_equal(voted.classes[by_class].numpy() - 1, expected["label"])
    np.testing.assert_array_equal(voted.scores[by_class].numpy(), expected["score"])
    np.testing.assert_array_equal(voted.boxes[by_class].numpy()[:, [1, 0, 3, 2]], expected["bbox"])
    if "seg_prob" in expected:
        assert voted.probabilities is not None
        np.testing.assert_allclose(voted.probabilities[by_class].numpy(), expected["seg_prob"], atol=atol)


@pytest.mark.parametrize("preset", PRESETS)
def test_published_order_equals_the_golden_excerpt(preset: str) -> None:
    golden = np.load(GOLDEN)
    expected = {key: golden[f"{preset}_v_{key}"] for key in ("bbox", "label", "score")}
    if preset == "eval":
        expected["seg_prob"] = golden["eval_v_seg_prob"].astype(np.float32)  # kept in float16
    assert_published(dict(golden), expected, preset, atol=5e-4)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("case", ["a", "b"])
def test_published_order_equals_the_golden_data(shared: Path, case: str, preset: str) -> None:
    golden = np.load(shared / "parity" / "golden_ops.npz")
    inputs = {key: golden[f"vote_{case}_{key}"] for key in ("seg_prob", "bbox", "cls_prob", "size")}
    results = ("seg_prob", "bbox", "label", "score")
    expected = {key: golden[f"vote_{case}_{preset}_v_{key}"] for key in results}
    assert_published(inputs, expected, preset, atol=2e-5)
