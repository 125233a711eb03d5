"""`suppress` against obvious loops, and the survivors of mask voting: both forms are equal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from instancefcn.geometry import boxes as box_ops
from instancefcn.ops.suppression import suppress
from instancefcn.ops.voting.survivors import one_by_one, side_by_side


def ranked(seed: int, lists: int, length: int, dtype: torch.dtype, whole: bool = False) -> Tensor:
    """Boxes [B, K, 4] that overlap much, with empty ones at the end of every list; `whole` numbers snap, so
    that many overlaps are exactly a threshold.
    """
    generator = torch.Generator().manual_seed(seed)
    side = 6 if whole else 60
    corner = torch.rand((lists, length, 2), generator=generator) * side
    sides = torch.rand((lists, length, 2), generator=generator) * side + 1
    boxes = torch.cat((corner, corner + sides), 2)
    there = torch.randint(length + 1, (lists, 1), generator=generator) > torch.arange(length)
    return ((boxes.round() if whole else boxes) * there[..., None]).to(dtype)


def expected(boxes: Tensor, iou: float, count: int) -> list[int]:
    kept: list[int] = []
    for i, box in enumerate(boxes):
        has_area = bool(box[2] > box[0]) and bool(box[3] > box[1])
        if has_area and all(box_iou(box[None], boxes[j][None]).item() <= iou for j in kept):
            kept.append(i)
    return (kept + count * [len(boxes)])[:count]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    lists=st.integers(0, 3),
    length=st.integers(0, 30),
    count=st.integers(1, 15),
    iou=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    whole=st.booleans(),
)
def test_equal_to_the_loops(
    seed: int, lists: int, length: int, count: int, iou: float, dtype: torch.dtype, whole: bool
) -> None:
    boxes = ranked(seed, lists, length, dtype, whole)
    assert suppress(boxes, iou, count).tolist() == [expected(own, iou, count) for own in boxes]


def test_the_operator_is_registered_with_a_fixed_shape() -> None:
    boxes = ranked(0, 2, 5, torch.float32)
    torch.library.opcheck(torch.ops.instancefcn.suppress.default, (boxes, 0.5, 3))
    compiled = torch.compile(lambda given: suppress(given, 0.5, 3) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(boxes), suppress(boxes, 0.5, 3) + 1)


def test_what_does_not_fit_is_refused() -> None:
    for wrong in (torch.zeros(2, 4), torch.zeros(1, 2, 5), torch.zeros((1, 2, 4), dtype=torch.float16)):
        with pytest.raises(ValueError, match="boxes must"):
            suppress(wrong, 0.5, 3)
    with pytest.raises(ValueError, match="count"):
        suppress(torch.zeros(1, 2, 4), 0.5, 0)


def test_overlaps_of_lists_side_by_side_are_those_of_each() -> None:
    one, other = ranked(1, 3, 5, torch.float64), ranked(2, 3, 7, torch.float64)
    wanted = torch.stack([box_iou(a, b) for a, b in zip(one, other, strict=True)])
    assert torch.equal(box_ops.iou(one, other).nan_to_num(), wanted.nan_to_num())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    images=st.integers(1, 3),
    count=st.integers(0, 30),
    axis=st.integers(1, 4),
    limit=st.sampled_from([1, 3, 100]),
    ties=st.booleans(),
)
def test_both_forms_choose_the_same_survivors(
    seed: int, images: int, count: int, axis: int, limit: int, ties: bool
) -> None:
    boxes = ranked(seed, images, count, torch.float32)[:, torch.randperm(count)]
    if count:
        boxes[0, 0, 0] = float("nan")
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand((images, count, axis), generator=generator)
    if ties:
        probabilities = (4 * probabilities).round() / 4
    together = side_by_side(boxes, probabilities, 0.3, 0.2, limit)
    for n in range(images):
        alive = together[0][n] >= 0
        assert not alive[int(alive.sum()) :].any()
        for got, wanted in zip(
            together, one_by_one(boxes[n], probabilities[n], 0.3, 0.2, limit), strict=True
        ):
            assert torch.equal(got[n][alive], wanted)
