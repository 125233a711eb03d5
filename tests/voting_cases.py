"""Inputs of mask voting, and what holds for the paper's vote and the published one alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from instancefcn.ops.voting import ballots
from instancefcn.ops.voting.operator import ReadMasks

Vote = Callable[..., Any]
"""`vote_masks` or `vote_published`."""

EXAMPLES: dict[str, Any] = {
    "seed": st.integers(0, 2**20),
    "count": st.integers(1, 14),
    "axis": st.integers(1, 4),
    "m": st.integers(1, 6),
    "size": st.tuples(st.integers(1, 24), st.integers(1, 24)),
    "limit": st.sampled_from([1, 3, 100]),
}
"""For hypothesis: the arguments of `random_case`, and a maximum number of instances."""


def constant(value: float, m: int = 4) -> ReadMasks:
    """Every mask has the same probability everywhere."""
    return lambda rows, classes: torch.full((len(rows), m, m), value)


def from_table(masks: Tensor) -> ReadMasks:
    """Masks from a table [R, C, m, m]."""
    return lambda rows, classes: masks[rows, classes]


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


def reads_of_two_boxes(vote: Vote) -> tuple[Any, list[tuple[list[int], list[int]]]]:
    """The result of a vote of boxes of classes 1 and 2, and each (rows, classes) that it read masks of."""
    reads: list[tuple[list[int], list[int]]] = []

    def read(rows: Tensor, classes: Tensor) -> Tensor:
        reads.append((rows.tolist(), classes.tolist()))
        return torch.ones((len(rows), 2, 2))

    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 9.0]])
    probabilities = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])
    return vote(read, boxes, probabilities, (10, 10)), reads


def check_memory_groups(vote: Vote, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Few votes at a time give what all at once give; returns both results."""
    masks, boxes, probabilities, size = random_case(3, 40, 4, 5, (60, 90))
    calls = []

    def read(rows: Tensor, classes: Tensor) -> Tensor:
        calls.append(len(rows))
        return masks[rows, classes]

    expected = vote(read, boxes, probabilities, size)
    assert len(calls) == 1
    monkeypatch.setattr(ballots, "MAX_VOTES", 50)
    parts = vote(read, boxes, probabilities, size)
    assert torch.equal(parts.masks.pixels, expected.masks.pixels)
    assert torch.equal(parts.masks.rects, expected.masks.rects)
    assert torch.equal(parts.scores, expected.scores)
    assert len(calls) > 2
    assert max(calls[1:]) <= 50
    return parts, expected


def check_nothing_to_vote_for(vote: Vote) -> None:
    """Without a usable box no mask is read, and the result is empty."""

    def never(rows: Tensor, classes: Tensor) -> Tensor:
        raise AssertionError("there is nothing to read")

    for boxes, probabilities in (
        (torch.zeros((0, 4)), torch.zeros((0, 3))),
        (torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.9995, 0.0005, 0.0]])),  # below min_score
        (torch.tensor([[2.0, 2.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.9, 0.0]])),  # no area
        (torch.tensor([[float("nan"), 2.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.9, 0.0]])),
        (torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[1.0]])),  # background alone
    ):
        voted = vote(never, boxes, probabilities, (10, 10))
        assert len(voted) == len(voted.masks) == 0
        assert voted.masks.image_size == (10, 10)


def check_unusable_boxes(vote: Vote) -> None:
    """Boxes that are not finite or have no area do not affect others."""
    nan = float("nan")
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [nan] * 4, [0.0, 0.0, 8.0, 7.0], [3.0, 3.0, 3.0, 3.0]])
    probabilities = torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.1, 0.8], [0.1, 0.9]])
    voted = vote(constant(1.0), boxes, probabilities, (10, 10))
    assert voted.rows.tolist() == [0]
    assert int(voted.masks.areas()[0]) == 64
