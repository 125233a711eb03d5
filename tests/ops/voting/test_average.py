"""`vote_average`: the plain and the Numba form against the obvious loops, and the operator's registration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instancefcn import ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.ops.voting import portable as voting_portable
from instancefcn.ops.voting import reference as voting_reference
from instancefcn.ops.voting.average import extents, vote_average

needs_kernels = pytest.mark.skipif(not ops.HAS_KERNELS, reason="needs Numba")
FORMS = ["portable", pytest.param("cpu", marks=needs_kernels)]
Votes = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def form(name: str) -> object:
    """One implementation of the step, called directly."""
    if name == "portable":
        return voting_portable.vote_average
    from instancefcn.ops.numba import voting as voting_cpu

    return voting_cpu.vote_average


def random_votes(seed: int, crops: int, most: int, m: int, size: tuple[int, int]) -> Votes:
    """Boxes that may miss their crop, have no area or end exactly at a pixel's centre; crops that may be
    empty.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    counts = torch.randint(0, most + 1, (crops,), generator=generator)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    grids = int(torch.randint(1, 8, (1,), generator=generator))
    index = torch.randint(grids, (int(starts[-1]),), generator=generator)
    span = torch.tensor([width, height], dtype=torch.float32)
    corners = torch.rand((grids, 2, 2), generator=generator) * 1.4 * span - 0.2 * span
    corners[::3] = (corners[::3] * 2).round() / 2
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    whole = torch.stack([torch.randint(int(side) + 1, (crops, 2), generator=generator) for side in span], 2)
    rects = torch.cat((whole.amin(1), whole.amax(1)), 1)
    masks = torch.rand((grids, m, m), generator=generator)
    weights = torch.rand(int(starts[-1]), generator=generator) / max(most, 1)
    return masks, boxes, index, weights, starts, rects


def expected_averages(votes: Votes, binarize: float | None) -> list[np.ndarray]:
    masks, boxes, index, weights, starts, rects = votes
    averages = []
    for s, (x1, y1, x2, y2) in enumerate(rects.tolist()):
        part = slice(int(starts[s]), int(starts[s + 1]))
        chosen = index[part].tolist()
        grids = [masks[p].double().numpy() for p in chosen]
        corners = [boxes[p].double().tolist() for p in chosen]
        shares = weights[part].double().tolist()
        average = voting_reference.vote_average(grids, corners, shares, (x1, y1, x2, y2), binarize)
        averages.append(average.reshape(-1))
    return averages


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    crops=st.integers(0, 4),
    most=st.integers(0, 5),
    m=st.integers(1, 7),
    size=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    binarize=st.sampled_from([None, 0.4]),
)
def test_equal_to_the_reference(
    name: str, seed: int, crops: int, most: int, m: int, size: tuple[int, int], binarize: float | None
) -> None:
    votes = random_votes(seed, crops, most, m, size)
    average = form(name)(*votes, None, binarize)  # type: ignore[operator]
    expected = np.concatenate([*expected_averages(votes, binarize), np.zeros(0)])
    assert average.dtype == torch.float32
    assert average.shape == expected.shape
    if binarize is None:
        np.testing.assert_allclose(average.numpy(), expected, atol=2e-6)
    else:  # a vote at 0.4 to the last digit may fall on either side
        assert (np.abs(average.numpy() - expected) > 2e-6).sum() <= 1
    binary = form(name)(*votes, 0.4, binarize)  # type: ignore[operator]
    assert binary.dtype == torch.uint8
    assert torch.equal(binary, (average >= 0.4).to(torch.uint8))


@needs_kernels
def test_the_kernel_equals_the_plain_form_at_full_size() -> None:
    votes = random_votes(5, 12, 10, 21, (400, 600))
    for binarize in (None, 0.4):
        plain, fast = (form(name)(*votes, None, binarize) for name in ("portable", "cpu"))  # type: ignore[operator]
        different = (plain - fast).abs() > 1e-5
        assert plain.numel() > 200_000
        assert int(different.sum()) <= (0 if binarize is None else 3)


@needs_kernels
def test_the_number_of_threads_changes_nothing() -> None:
    votes = random_votes(6, 10, 6, 9, (200, 300))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(vote_average(*votes, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_a_voter_far_away_counts_as_zero_and_the_grid_is_clamped_at_its_border() -> None:
    masks = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [1e30, -1e30, 2e30, 1e30]])
    one_crop = (torch.tensor([0, 2]), torch.tensor([[0, 0, 5, 1]]))
    arguments = (masks, boxes, torch.tensor([0, 1]), torch.ones(2), *one_crop)
    # Cell centres at x = 1 and 3; pixels' centres at 0.5, 1.5, 2.5, 3.5 and, outside, 4.5.
    assert vote_average(*arguments, None).tolist() == [0.0, 0.25, 0.75, 1.0, 0.0]
    assert vote_average(*arguments, 0.25).tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("far", [1e15, 1e20, 1e30])
@pytest.mark.parametrize("form", ["portable", "fastest"])
def test_a_voter_of_any_size_counts_where_it_lies(form: str, far: float) -> None:
    """Its sides would overflow an integer of 64 bits."""
    boxes = torch.tensor([[-far, -far, far, far]])
    one_crop = (torch.tensor([0, 1]), torch.tensor([[0, 0, 3, 2]]))
    with ops.using(form):  # type: ignore[arg-type]
        average = vote_average(torch.ones(1, 2, 2), boxes, torch.tensor([0]), torch.ones(1), *one_crop, None)
    assert average.tolist() == [1.0] * 6


def test_any_strides() -> None:
    masks, boxes, index, weights, starts, rects = random_votes(9, 4, 5, 6, (30, 40))
    plain = vote_average(masks, boxes, index, weights, starts, rects, None)
    strange = vote_average(
        masks.transpose(1, 2).contiguous().transpose(1, 2),
        boxes.t().contiguous().t(),
        index.repeat_interleave(2)[::2],
        weights.repeat_interleave(3)[::3],
        starts.repeat_interleave(2)[::2],
        rects.t().contiguous().t(),
        None,
    )
    assert torch.equal(plain, strange)


def test_autocast_does_not_reach_the_average() -> None:
    votes = random_votes(2, 4, 5, 6, (30, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16), ops.using("portable"):
        cast = vote_average(*votes, None)
    assert torch.equal(cast, voting_portable.vote_average(*votes, None, None))


def test_portable_form_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    original = voting_portable.vote_average
    monkeypatch.setattr(voting_portable, "vote_average", lambda *args: called.append(1) or original(*args))
    with ops.using("portable"):
        vote_average(*random_votes(2, 4, 5, 6, (30, 40)), 0.4)
    assert called == [1]


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_registration(threshold: float | None) -> None:
    votes = random_votes(4, 3, 4, 5, (20, 20))
    torch.library.opcheck(torch.ops.instancefcn.vote_average.default, (*votes, threshold, None))


def test_traced_without_a_break() -> None:
    votes = random_votes(4, 3, 4, 5, (20, 20))

    def function(*arguments: Tensor) -> Tensor:
        return vote_average(*arguments, 0.4) + 1  # type: ignore[call-arg]

    traced = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(traced(*votes), function(*votes))


@pytest.mark.parametrize("position", range(6))
def test_types_and_shapes_that_do_not_fit_are_refused(position: int) -> None:
    votes = list(random_votes(4, 3, 4, 5, (20, 20)))
    votes[position] = votes[position].to(torch.int32)
    with pytest.raises(ValueError, match="must be"):
        vote_average(*votes, 0.4)  # type: ignore[arg-type, call-arg]
    votes = list(random_votes(4, 3, 4, 5, (20, 20)))
    votes[position] = votes[position][None]
    with pytest.raises(ValueError, match="must be"):
        vote_average(*votes, 0.4)  # type: ignore[arg-type, call-arg]


@needs_kernels
def test_places_that_do_not_exist_are_refused() -> None:
    masks, boxes, index, weights, starts, rects = random_votes(4, 3, 4, 5, (20, 20))
    for wrong in (
        (masks, boxes, index + len(masks), weights, starts, rects),
        (masks, boxes, index, weights, starts + 1, rects),
        (masks, boxes, index, weights, starts.flip(0), rects),
        (masks, boxes, index, weights, starts, rects - torch.tensor([0, 0, 100, 0])),
    ):
        with pytest.raises(ValueError, match="must"):
            vote_average(*wrong, 0.4)
    assert vote_average(masks, boxes, index, weights, starts, rects, 0.4).dtype == torch.uint8


@pytest.mark.parametrize("way", FORMS)
@settings(max_examples=40, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
    density=st.sampled_from([0.0, 0.05, 0.5]),
    seed=st.integers(0, 2**20),
)
def test_extents_are_the_boxes_around_masks(
    way: str, sides: list[tuple[int, int]], density: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rects = torch.tensor([(3, 5, 3 + w, 5 + h) for w, h in sides], dtype=torch.int64).reshape(-1, 4)
    count = sum(w * h for w, h in sides)
    pixels = (torch.rand(count, generator=generator) < density).to(torch.uint8)
    with ops.using("portable" if way == "portable" else "fastest"):
        found = extents(pixels, rects)
    assert found.dtype == torch.int64
    assert torch.equal(found.float(), CroppedMasks(pixels, rects, (20, 20)).tight_boxes())


@needs_kernels
def test_pixels_that_do_not_fit_their_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="4 pixels"):
        extents(torch.zeros(3, dtype=torch.uint8), torch.tensor([[0, 0, 2, 2]]))
