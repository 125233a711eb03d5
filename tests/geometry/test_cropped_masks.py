"""Cropped masks against full-size ones."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycoco_mask
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks

DENSE = torch.tensor(
    [
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]],
    ],
    dtype=torch.bool,
)
BOXES = [[1, 1, 3, 3], [0, 0, 0, 0], [0, 0, 4, 4]]


@pytest.fixture
def masks() -> CroppedMasks:
    return CroppedMasks.from_dense(DENSE)


@st.composite
def images(draw: st.DrawFn) -> Tensor:
    count, height, width = draw(st.integers(0, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    seed, share = draw(st.integers(0, 2**31 - 1)), draw(st.sampled_from((0.05, 0.5, 1.0)))
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, height, width, generator=random) < share


def test_masks_are_stored_inside_their_tight_boxes(masks: CroppedMasks) -> None:
    assert masks.rects.tolist() == BOXES
    assert masks.pixels.tolist() == [1, 1, 1, 0, *DENSE[2].flatten().tolist()]
    assert masks.offsets.tolist() == [0, 4, 4, 20]
    assert masks.image_size == (4, 4)


def test_areas_and_boxes(masks: CroppedMasks) -> None:
    assert masks.areas().tolist() == [3, 0, 4]
    assert masks.areas().dtype == torch.int64
    assert masks.tight_boxes().tolist() == BOXES
    assert masks.tight_boxes().dtype == torch.float32


def test_tight_boxes_may_be_smaller_than_the_rectangles() -> None:
    loose = CroppedMasks(
        torch.tensor([0, 0, 0, 1, 0, 0], dtype=torch.uint8), torch.tensor([[2, 1, 4, 4]]), (5, 5)
    )
    assert loose.tight_boxes().tolist() == [[3, 2, 4, 3]]


@settings(deadline=None)
@given(dense=images())
def test_nothing_is_lost(dense: Tensor) -> None:
    masks = CroppedMasks.from_dense(dense)
    assert torch.equal(masks.dense(), dense)
    assert masks.areas().tolist() == dense.sum((1, 2)).tolist()
    assert torch.equal(masks.flip_horizontal().dense(), dense.flip(2))
    assert torch.equal(CroppedMasks.from_rles(masks.rles(), masks.image_size).dense(), dense)
    for i in range(len(masks)):
        assert torch.equal(masks.paste(i), dense[i])
        x1, y1, x2, y2 = masks.rects[i].tolist()
        assert torch.equal(masks.crop(i).bool(), dense[i, y1:y2, x1:x2])


@settings(deadline=None)
@given(dense=images(), corners=st.tuples(*[st.integers(0, 9)] * 4))
def test_cropping_is_that_of_the_dense_masks(dense: Tensor, corners: tuple[int, int, int, int]) -> None:
    height, width = dense.shape[1:]
    x1, x2 = sorted((min(corners[0], width), min(corners[1], width)))
    y1, y2 = sorted((min(corners[2], height), min(corners[3], height)))
    window = CroppedMasks.from_dense(dense).crop_to(x1, y1, x2, y2)
    assert window.image_size == (y2 - y1, x2 - x1)
    assert torch.equal(window.dense(), dense[:, y1:y2, x1:x2])


@settings(deadline=None)
@given(dense=images())
def test_transposing_is_that_of_the_dense_masks(dense: Tensor) -> None:
    turned = CroppedMasks.from_dense(dense).transpose()
    assert turned.image_size == (dense.shape[2], dense.shape[1])
    assert torch.equal(turned.dense(), dense.transpose(1, 2))


@settings(deadline=None)
@given(dense=images())
def test_run_lengths_are_those_of_pycocotools(dense: Tensor) -> None:
    for mask, rle in zip(dense, CroppedMasks.from_dense(dense).rles(), strict=True):
        expected = pycoco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert rle == {"size": list(mask.shape), "counts": expected["counts"].decode()}


@pytest.mark.parametrize(
    "index",
    [
        [2, 0],
        [0, 0, 1],
        [-1, -3],
        [-2],
        [],
        [True, False, True],
        slice(1, None),
        slice(None, None, 2),
        torch.tensor([1, 2]),
        torch.tensor([-1]),
        torch.tensor([False, True, True]),
        torch.tensor([], dtype=torch.int64),
    ],
    ids=str,
)
def test_indexing_is_that_of_a_tensor(masks: CroppedMasks, index: list[int] | slice | Tensor) -> None:
    expected = DENSE[torch.tensor(index, dtype=torch.int64)] if index == [] else DENSE[index]  # type: ignore[index]
    assert torch.equal(masks[index].dense(), expected)


def test_an_index_out_of_range_is_refused(masks: CroppedMasks) -> None:
    with pytest.raises(IndexError):
        masks[[3]]
    with pytest.raises(IndexError):
        masks[torch.tensor([True, False])]


def test_reading_is_bilinear_between_pixel_centres() -> None:
    mask = CroppedMasks.from_dense(torch.tensor([[[1, 0], [1, 1]]], dtype=torch.bool))
    x, y = torch.tensor([0.5, 1.0, 1.0, 1.5, 1.25]), torch.tensor([0.5, 0.5, 1.0, 1.0, 0.75])
    # In order: a centre; half way along a row; among four; half way down a column; weights 1/16 x (3, 9, 1,
    # 3).
    expected = torch.tensor([1.0, 0.5, 0.75, 0.5, (3 * 1 + 9 * 0 + 1 * 1 + 3 * 1) / 16])
    torch.testing.assert_close(mask.sample(x, y, torch.tensor(0)), expected)


def test_reading_fades_to_zero_beyond_the_rectangle() -> None:
    mask = CroppedMasks(torch.ones(1, dtype=torch.uint8), torch.tensor([[1, 1, 2, 2]]), (3, 3))
    x = torch.tensor([0.4, 0.5, 1.0, 1.5, 2.25, 2.5, -7.0, 90.0])
    read = mask.sample(x, torch.full_like(x, 1.5), torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(read, torch.tensor([0.0, 0.0, 0.5, 1.0, 0.25, 0.0, 0.0, 0.0]))


@settings(deadline=None)
@given(dense=images(), seed=st.integers(0, 2**31 - 1))
def test_reading_equals_grid_sample(dense: Tensor, seed: int) -> None:
    if len(dense) == 0:
        return
    height, width = dense.shape[1:]
    random = torch.Generator().manual_seed(seed)
    points = torch.rand(len(dense), 5, 3, 2, generator=random) * 14 - 3
    grid = points / torch.tensor([width, height]) * 2 - 1
    expected = torch.nn.functional.grid_sample(
        dense[:, None].float(), grid, padding_mode="zeros", align_corners=False
    )
    which = torch.arange(len(dense))[:, None, None]
    read = CroppedMasks.from_dense(dense).sample(points[..., 0], points[..., 1], which)
    torch.testing.assert_close(read, expected[:, 0], rtol=0, atol=1e-5)


def test_no_masks() -> None:
    none = CroppedMasks.empty((3, 5))
    assert len(none) == 0
    assert none.dense().shape == (0, 3, 5)
    assert none.areas().shape == (0,)
    assert none.tight_boxes().shape == (0, 4)
    assert none.rles() == []
    assert none.flip_horizontal().image_size == none[[]].image_size == (3, 5)
    assert none.crop_to(1, 1, 3, 2).image_size == (1, 2)
    no_points = torch.zeros(0)
    assert none.sample(no_points, no_points, torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert CroppedMasks.from_crops([], [], (3, 5)).dense().shape == (0, 3, 5)
    assert CroppedMasks.from_rles([], (3, 5)).dense().shape == (0, 3, 5)


def test_crops_are_placed_by_their_corners() -> None:
    masks = CroppedMasks.from_crops([torch.ones(1, 2), torch.ones(2, 1)], [(0, 0), (3, 1)], (3, 4))
    assert masks.dense().int().tolist() == [
        [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
    ]


def test_rectangles_are_on_the_device_of_what_they_come_from(masks: CroppedMasks) -> None:
    with torch.device("meta"):  # the default device of new tensors
        made = [CroppedMasks.from_crops([masks.crop(0)], [(1, 1)], (4, 4)), masks.crop_to(1, 1, 4, 4)]
    assert [(one.pixels.device.type, one.rects.device.type) for one in made] == [("cpu", "cpu")] * 2


@pytest.mark.parametrize(
    ("pixels", "rects", "message"),
    [
        (torch.ones(4), torch.tensor([[0, 0, 2, 2]]), "uint8"),
        (torch.ones(4, dtype=torch.uint8), torch.tensor([[0.0, 0, 2, 2]]), "int64"),
        (torch.ones(3, dtype=torch.uint8), torch.tensor([[0, 0, 2, 2]]), "4 pixels"),
        (torch.full((4,), 255, dtype=torch.uint8), torch.tensor([[0, 0, 2, 2]]), "255"),
        (torch.ones(8, dtype=torch.uint8), torch.tensor([[0, 0, 2, 2], [3, 0, 5, 2]]), "rectangle 1"),
        (torch.ones(4, dtype=torch.uint8), torch.tensor([[2, 2, 0, 0]]), "rectangle 0"),
    ],
)
def test_what_does_not_fit_is_refused(pixels: Tensor, rects: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CroppedMasks(pixels, rects, (4, 4))


def test_an_encoding_of_another_size_is_refused(masks: CroppedMasks) -> None:
    with pytest.raises(ValueError, match=r"\[4, 4\].*\[4, 5\]"):
        CroppedMasks.from_rles(masks.rles(), (4, 5))


def test_memory_follows_the_objects_not_the_image() -> None:
    masks = CroppedMasks.from_crops(
        [torch.ones(2, 2)] * 1000, [(i, i) for i in range(1000)], (20_000, 20_000)
    )
    assert masks.pixels.numel() == 4000
    assert masks.areas().sum() == 4000
    assert masks.flip_horizontal().tight_boxes()[999].tolist() == [18999, 999, 19001, 1001]


def test_pickles_hold_the_pixels_once(masks: CroppedMasks) -> None:
    before = len(pickle.dumps(masks))
    masks.areas()
    assert len(pickle.dumps(masks)) == before
    assert torch.equal(pickle.loads(pickle.dumps(masks)).dense(), masks.dense())
