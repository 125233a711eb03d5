"""The Triton kernels around mask voting; run by `test_kernels.py`, as `triton_cases.py` is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instancefcn.ops.suppression import with_torchvision
from instancefcn.ops.triton import suppression as suppression_cuda
from instancefcn.ops.triton import voting as voting_cuda
from instancefcn.ops.voting import portable as voting_portable
from ops.test_suppression import ranked
from ops.triton.triton_cases import DEVICE, EXAMPLES


@settings(max_examples=EXAMPLES, deadline=None, derandomize=DEVICE == "cpu", database=None)
@given(
    seed=st.integers(0, 2**20),
    lists=st.integers(0, 3),
    length=st.integers(0, 150),
    count=st.integers(1, 40),
    iou=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]),  # 0.3 and 0.8 are rounded up in single precision
    dtype=st.sampled_from([torch.float32, torch.float64]),
    whole=st.booleans(),
)
def test_suppress_is_torchvisions(
    seed: int, lists: int, length: int, count: int, iou: float, dtype: torch.dtype, whole: bool
) -> None:
    boxes = ranked(seed, lists, length, dtype, whole)
    found = suppression_cuda.suppress(boxes.to(DEVICE), iou, count).cpu()
    assert torch.equal(found, with_torchvision(boxes, iou, count))


@pytest.mark.parametrize("length", [63, 64, 65, 128])
def test_all_boxes_are_kept_where_none_overlap(length: int) -> None:
    """Bit 63 of a word is its sign."""
    x = 2.0 * torch.arange(length)
    boxes = torch.stack((x, x * 0, x + 1, x * 0 + 1), 1)[None]
    kept = suppression_cuda.suppress(boxes.to(DEVICE), 0.5, length)
    assert kept[0].tolist() == list(range(length))
    same = suppression_cuda.suppress(boxes[:, :1].expand(-1, length, -1).to(DEVICE), 0.5, 3)
    assert same[0].tolist() == [0, length, length]


@settings(max_examples=EXAMPLES, deadline=None, derandomize=DEVICE == "cpu", database=None)
@given(
    sides=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4),
    density=st.sampled_from([0.0, 0.002, 0.3]),
    seed=st.integers(0, 2**20),
)
def test_extents_are_those_of_the_plain_form(sides: list[tuple[int, int]], density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rects = torch.tensor([(3, 5, 3 + w, 5 + h) for w, h in sides]).reshape(-1, 4)
    count = sum(w * h for w, h in sides)
    pixels = (torch.rand(count, generator=generator) < density).to(torch.uint8)
    found = voting_cuda.extents(pixels.to(DEVICE), rects.to(DEVICE)).cpu()
    assert torch.equal(found, voting_portable.extents(pixels, rects))
