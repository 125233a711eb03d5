"""Score maps made a block of classes at a time give what all of them at once give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instancefcn.models import head as class_maps
from instancefcn.models.head import ClassMaps

K, CLASSES, CHANNELS, STRIDE = 3, 7, 5, 16.0
ROIS = torch.tensor([[0, 3, 5, 60, 40], [1, 0, 0, 96, 64], [1, 20, 30, 31, 50], [0, -9, 2, 33, 70]]).float()
LABELS = torch.tensor([6, 2, 2, 0])
ONE = 4 * 6 * K**2 * 2 * 4
"""Bytes of one class's maps in one image of 4 x 6 cells, float32."""


def parts(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, CHANNELS, 4, 6), (2 * K**2 * CLASSES, CHANNELS, 1, 1), (2 * K**2 * CLASSES,))
    return tuple(torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_blocks_equal_the_whole(block: int, joint: bool) -> None:
    """Values and gradients; 7 classes do not divide into blocks of 2, 3 and 6."""
    results = []
    for limit in (2 * ONE * CLASSES, 2 * ONE * block):  # float64 takes twice the bytes
        given = parts()
        maps = ClassMaps(*given, K, joint, max_bytes=limit)
        assert (maps.whole is None) == (limit < 2 * ONE * CLASSES)
        logits = maps.class_logits(ROIS.double(), STRIDE)
        masks = maps.mask_logits(ROIS.double(), LABELS, STRIDE, 5)
        assert logits.shape == (4, CLASSES)
        assert masks.shape == (4, 5, 5)
        weights = torch.arange(logits.numel()).view_as(logits)
        loss = (logits * weights).sum() + (masks**2).sum()
        results.append((logits, masks, *torch.autograd.grad(loss, given)))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected)


def test_no_more_than_the_limit_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = ClassMaps.of

    def spy(self: ClassMaps, *given: Tensor) -> Tensor:
        made = original(self, *given)
        sizes.append(made[:1].numel() * made.element_size())
        return made

    monkeypatch.setattr(ClassMaps, "of", spy)
    maps = ClassMaps(*parts(torch.float32), K, True, max_bytes=2 * ONE + 5)
    with torch.no_grad():
        maps.class_logits(ROIS, STRIDE)
        assert sizes == [2 * ONE, 2 * ONE, 2 * ONE, ONE]
        sizes.clear()
        maps.mask_logits(ROIS, LABELS, STRIDE, 5)
        assert sizes == [2 * ONE, ONE], "only the three classes that are asked for"


def test_nothing_is_read() -> None:
    maps = ClassMaps(*parts(torch.float32), K, True, max_bytes=ONE)
    assert maps.class_logits(ROIS[:0], STRIDE).shape == (0, CLASSES)
    assert maps.mask_logits(ROIS[:0], LABELS[:0], STRIDE, 5).shape == (0, 5, 5)


def test_eighty_classes_are_held_at_once() -> None:
    """The usual case must not pay for the rare one: 600 x 1000 pixels, k = 7."""
    assert 38 * 63 * 49 * 2 * 4 * 81 < class_maps.MAX_BYTES < 38 * 63 * 49 * 2 * 4 * 1201
