from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.drawing import colour_of, draw
from instancefcn.instances import Instances


def rectangles(
    boxes: list[tuple[int, int, int, int]], height: int, width: int, name: str = "tiger"
) -> Instances:
    """Instances that are filled rectangles."""
    crops = [torch.ones(y2 - y1, x2 - x1, dtype=torch.uint8) for x1, y1, x2, y2 in boxes]
    masks = CroppedMasks.from_crops(crops, [box[:2] for box in boxes], (height, width))
    scores = torch.linspace(0.9, 0.5, len(boxes))
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(corners, scores, labels, masks, (name,), (1,))


def gray(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def test_the_inside_is_tinted_and_the_rest_unchanged() -> None:
    image = gray(200, 300)
    drawn = np.asarray(draw(image, rectangles([(100, 50, 200, 150)], 200, 300), labels=False)).astype(int)
    expected = 128 + 0.38 * (np.array(colour_of(0)) - 128)
    np.testing.assert_allclose(drawn[100, 150], expected, atol=1)
    assert (drawn[100, :80] == 128).all()
    assert (drawn[:35] == 128).all()
    assert (image == 128).all()


def test_the_outline_has_the_full_colour_and_a_dark_rim() -> None:
    drawn = np.asarray(draw(gray(400, 400), rectangles([(100, 100, 300, 300)], 400, 400), labels=False))
    row = drawn[200, 90:110].astype(int)
    assert np.abs(row - colour_of(0)).sum(1).min() < 12
    assert row.sum(1).min() < 3 * 100  # darker than the background and the colour
    # Anti-aliased: there are steps between background and rim.
    assert len({tuple(pixel) for pixel in row}) >= 4


def test_outlines_alone_leave_the_inside_and_fade_with_the_rank() -> None:
    boxes = [(20, 20, 80, 80), (120, 20, 180, 80), (220, 20, 280, 80)]
    drawn = np.asarray(draw(gray(100, 300), rectangles(boxes, 100, 300), labels=False, fill=False)).astype(
        int
    )
    contrasts = []
    for x1, _, x2, _ in boxes:
        assert (drawn[40:60, x1 + 20 : x2 - 20] == 128).all()
        contrasts.append(int(np.abs(drawn[50, x1 - 8 : x1 + 8] - 128).sum(1).max()))
    assert contrasts[0] > 2 * contrasts[1] > 2 * contrasts[2] > 0


def test_lines_grow_with_the_image() -> None:
    def line(size: int) -> int:
        box = (size // 4, size // 4, 3 * size // 4, 3 * size // 4)
        drawn = np.asarray(draw(gray(size, size), rectangles([box], size, size), labels=False)).astype(int)
        return int((np.abs(drawn[size // 2] - np.array(colour_of(0))).sum(1) < 100).sum())

    assert line(1500) >= 2 * line(300)


def test_no_outline_along_the_border_of_the_image() -> None:
    """What the border cuts is not the object's edge."""
    drawn = np.asarray(draw(gray(200, 200), rectangles([(0, 50, 100, 200)], 200, 200), labels=False)).astype(
        int
    )
    assert np.abs(drawn[100, 0] - drawn[100, 50]).max() <= 1
    assert np.abs(drawn[199, 50] - drawn[100, 50]).max() <= 1


def test_masks_of_one_pixel_and_of_none_are_drawn() -> None:
    instances = rectangles([(5, 5, 6, 6), (0, 0, 0, 0)], 40, 40)
    drawn = np.asarray(draw(gray(40, 40), instances, labels=False)).astype(int)
    assert np.abs(drawn[5, 5] - 128).max() > 20
    draw(gray(40, 40), instances)


@pytest.mark.parametrize("fill", [True, False])
def test_the_size_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch, fill: bool) -> None:
    image = torch.randint(0, 256, (3, 300, 420), dtype=torch.uint8)
    boxes = [(0, 40, 230, 300), (150, 10, 400, 200), (300, 250, 302, 290), (395, 240, 420, 300)]
    drawn = []
    for block in (17, 64, 10_000):
        monkeypatch.setattr("instancefcn.images.drawing.BLOCK", block)
        drawn.append(np.asarray(draw(image, rectangles(boxes, 300, 420), fill=fill)))
    assert (drawn[0] == drawn[2]).all()
    assert (drawn[1] == drawn[2]).all()


def test_no_instances_leave_the_image_unchanged() -> None:
    image = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8)
    drawn = np.asarray(draw(image, rectangles([], 30, 50)))
    assert np.array_equal(drawn, image.permute(1, 2, 0).numpy())


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="30 x 20"):
        draw(gray(20, 30), rectangles([], 30, 20))


def test_labels_do_not_hide_many_small_objects() -> None:
    def labelled(boxes: list[tuple[int, int, int, int]], side: int) -> bool:
        instances = rectangles(boxes, side, side)
        without = np.asarray(draw(gray(side, side), instances, labels=False))
        return bool((np.asarray(draw(gray(side, side), instances)) != without).any())

    small = [(x, y, x + 9, y + 8) for x in range(4, 240, 30) for y in range(6, 240, 60)]
    assert not labelled(small, 256)
    assert labelled(small[:6], 256)
    assert labelled([(x, y, x + 300, y + 290) for x in range(0, 900, 300) for y in range(0, 900, 300)], 900)


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=12),
)
@settings(deadline=None, max_examples=40)
def test_any_rectangles_on_any_image(height: int, width: int, shares: list[tuple[float, ...]]) -> None:
    boxes = []
    for a, b, c, d in shares:
        x1, x2 = sorted((round(a * width), round(c * width)))
        y1, y2 = sorted((round(b * height), round(d * height)))
        boxes.append((x1, y1, x2, y2))
    assert draw(gray(height, width), rectangles(boxes, height, width)).size == (width, height)


def test_colours_differ() -> None:
    colours = [colour_of(index) for index in range(40)]
    assert len(set(colours)) == 40
    for index in range(39):
        assert sum(abs(a - b) for a, b in zip(colours[index], colours[index + 1], strict=True)) > 90
