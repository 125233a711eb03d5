"""Overlays: translucent masks, smooth outlines, and labels that avoid one another."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.fonts import lettering

Colour = tuple[int, int, int]
Rect = tuple[float, float, float, float]

FILL = 0.38
"""Opacity of a mask's inside: the object remains visible."""
HALO = 0.55
"""Opacity of the dark rim around an outline, which makes it visible on a background of its own colour."""
FAINTEST = 0.4
"""The square root of the last outline's opacity when only outlines are drawn."""
BLOCK = 512
"""Side, in pixels, of the blocks that are drawn one at a time."""
FEW, CROWDED = 6, 0.15
"""Labels are left out when there are more than FEW objects and the labels would cover more than CROWDED of
the image and more than the objects themselves."""


class Drawable(Protocol):
    """What `draw` needs of its instances: see `instancefcn.instances.Instances`."""

    @property
    def masks(self) -> CroppedMasks: ...
    @property
    def scores(self) -> Tensor: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def image_size(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...


# Bright and far apart, so that neighbours in the list never look alike.
PALETTE: tuple[Colour, ...] = (
    (0, 200, 255),
    (255, 99, 71),
    (255, 214, 10),
    (191, 90, 242),
    (48, 219, 91),
    (255, 105, 180),
    (64, 130, 255),
    (255, 149, 0),
    (0, 219, 190),
    (214, 255, 64),
    (222, 60, 75),
    (172, 142, 255),
)

# Distance from a straight edge, in blur radii, at which a blurred mask has the value v / 255.
_EDGE_DISTANCE = np.array(
    [NormalDist().inv_cdf(min(max(v, 0.5), 254.5) / 255) for v in range(256)], np.float32
)


def colour_of(index: int) -> Colour:
    """The colour of instance `index`: from the palette, then hues a golden angle apart."""
    if index < len(PALETTE):
        return PALETTE[index]
    hue = (0.11 + index * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.5 + 0.3 * (index % 2), 1.0 - 0.1 * (index % 3))
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: Tensor, instances: Drawable, *, labels: bool = True, fill: bool = True) -> Image.Image:
    """Draw instances on an image.

    Args:
        image: uint8 [3, H, W], RGB, of the instances' image size; it is not modified.
        instances: what to draw; the best ones lie on top.
        labels: write class and score beside each object, unless the labels would hide many small objects.
        fill: tint the masks. False draws only finer outlines that fade down the list, so that a hundred
            proposals do not hide the image and one another.

    Returns:
        An RGB image of the same size; lines and letters scale with it.

    Raises:
        ValueError: the image has another size.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    if (height, width) != instances.image_size:
        raise ValueError(
            f"the image is {width} x {height}, the instances' image {instances.image_size[::-1]}"
        )
    canvas = np.array(image.permute(1, 2, 0).cpu().numpy(), order="C")
    line = max(1.4, (0.0032 if fill else 0.0022) * (height * width) ** 0.5)
    for index in reversed(range(len(instances))):
        x, y, *_ = instances.masks.rects[index].tolist()
        crop = instances.masks.crop(index).cpu().numpy()
        strength = 1.0 if fill else max(FAINTEST, 1 - index / len(instances)) ** 2
        _blend_mask(canvas, crop, (x, y), colour_of(index), line, FILL if fill else 0.0, strength)
    drawn = Image.fromarray(canvas)
    if labels:
        _draw_labels(drawn, instances)
    return drawn


def _blend_mask(
    canvas: NDArray[Any],
    crop: NDArray[Any],
    corner: tuple[int, int],
    colour: Colour,
    line: float,
    opacity: float,
    strength: float,
) -> None:
    """Fill and outline one mask (uint8 [h, w] at pixel `corner`) on a canvas uint8 [H, W, 3], in place.

    The outline follows the level 0.5 of the blurred mask. A blurred value gives the distance to it, so the
    line is smooth and anti-aliased without tracing a polygon. Drawing goes block by block: as floats, a large
    image would take gigabytes.
    """
    if not crop.size:
        return
    blur = 0.8 * line
    margin = int(3 * blur + 2 * line) + 2
    # A mask continues beyond the image's border, so that no outline is drawn along the border.
    padded = np.pad(crop * np.uint8(255), margin)
    x0, y0 = corner[0] - margin, corner[1] - margin
    x1, y1 = max(0, x0), max(0, y0)
    x2, y2 = min(canvas.shape[1], x0 + padded.shape[1]), min(canvas.shape[0], y0 + padded.shape[0])
    extended = np.pad(padded[y1 - y0 : y2 - y0, x1 - x0 : x2 - x0], margin, mode="edge")
    window = canvas[y1:y2, x1:x2]
    blocks = [
        (block, _blurred(mask, margin, blur))
        for block in _blocks(window.shape)
        if (mask := extended[_around(block, margin)]).any()
    ]
    # A mask thinner than the blur reaches level 0.5 nowhere; its own pixels are filled anyway.
    thin = not any((soft > 127).any() for _, soft in blocks)
    tint = np.array(colour, np.float32)
    for block, soft in blocks:
        distance = _EDGE_DISTANCE[soft] * blur
        fill = np.clip(distance + 0.5, 0, 1)
        if thin:
            fill = np.maximum(fill, extended[margin:-margin, margin:-margin][block] / np.float32(255))
        # The line lies just inside and its rim just outside, so touching objects both have their lines.
        stroke = np.clip(0.5 * line + 0.5 - np.abs(distance - 0.5 * line), 0, 1)
        rim = np.clip(0.5 * line + 0.5 - np.abs(distance + 0.35 * line), 0, 1)
        pixels = window[block].astype(np.float32)
        pixels *= 1 - (strength * HALO * rim)[:, :, None]
        pixels += (opacity * fill)[:, :, None] * (tint - pixels)
        pixels += (strength * stroke)[:, :, None] * (tint - pixels)
        window[block] = (pixels + 0.5).astype(np.uint8)


Block = tuple[slice, slice]
"""Rows and columns of a window."""


def _blocks(shape: tuple[int, ...]) -> Iterator[Block]:
    """Blocks of at most BLOCK x BLOCK pixels that cover [H, W, ...]."""
    for top in range(0, shape[0], BLOCK):
        for left in range(0, shape[1], BLOCK):
            yield slice(top, min(top + BLOCK, shape[0])), slice(left, min(left + BLOCK, shape[1]))


def _around(block: Block, margin: int) -> Block:
    """A block and `margin` pixels around it, in an array that is padded by `margin` on every side."""
    rows, columns = block
    return slice(rows.start, rows.stop + 2 * margin), slice(columns.start, columns.stop + 2 * margin)


def _blurred(mask: NDArray[np.uint8], margin: int, blur: float) -> NDArray[np.uint8]:
    """Blur a part of a mask (0 or 255) and cut off its border of `margin` pixels, the reach of the blur."""
    if mask.all():
        return mask[margin:-margin, margin:-margin]
    soft = Image.fromarray(np.ascontiguousarray(mask)).filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(soft)[margin:-margin, margin:-margin]


@dataclass(frozen=True)
class _Chip:
    """One label: its position, text, font and colour."""

    rect: Rect
    text: str
    font: ImageFont.FreeTypeFont
    colour: Colour


def _draw_labels(image: Image.Image, instances: Drawable) -> None:
    # With many objects the letters are smaller, or the labels would cover the objects.
    crowding = max(0.7, min(1.0, (12 / max(len(instances), 1)) ** 0.25))
    size = max(11, round(0.026 * crowding * (image.width * image.height) ** 0.5))
    chips: list[_Chip] = []
    around = instances.masks.tight_boxes().tolist()
    # The number of a class whose letters no font has: its place in the model's list, from 1.
    plain = [
        lettering(" ".join(name.split()), size, f"class {label + 1}")
        for name, label in zip(instances.names, instances.labels.tolist(), strict=True)
    ]
    if _would_hide(plain, around, image.size):
        return
    for index, ((font, name), score) in enumerate(zip(plain, instances.scores.tolist(), strict=True)):
        top = _top(instances.masks.crop(index)) + float(instances.masks.rects[index, 0])
        for text in (f"{name} {score:.2f}", name, f"{score:.2f}"):
            rect = _find_space(text, font, around[index], top, image.size, [chip.rect for chip in chips])
            if rect is not None:
                chips.append(_Chip(rect, text, font, colour_of(index)))
                break
    for chip in reversed(chips):
        _draw_chip(image, chip)


def _would_hide(
    names: list[tuple[ImageFont.FreeTypeFont, str]], boxes: list[list[float]], size: tuple[int, int]
) -> bool:
    """Whether the labels of many objects would cover much of the image, and more than the objects do."""
    if len(names) <= FEW:
        return False
    lengths = [_extent(f"{name} {0:.2f}", font) for font, name in names]
    labels = sum(width * height for width, height in lengths)
    objects = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes)
    return labels > max(CROWDED * size[0] * size[1], objects)


def _extent(text: str, font: Any) -> tuple[int, int]:
    """Width and height of a label's plate."""
    return round(font.getlength(text) + 2 * 0.28 * font.size + 2), round(1.45 * font.size)


def _top(crop: Tensor) -> float:
    """The column at which a mask's highest pixels lie, on average; 0 for a mask without pixels."""
    rows = crop.any(1).nonzero()
    return float(crop[rows[0, 0]].nonzero().float().mean()) + 0.5 if len(rows) else 0.0


def _find_space(
    text: str, font: Any, anchor: list[float], top_x: float, size: tuple[int, int], taken: list[Rect]
) -> Rect | None:
    """Where to put the label of an object with box `anchor` and its highest point at `top_x`.

    Tried in turn: above the object, inside its upper edge, below it, inside its lower edge, across its
    middle, and one line further up or down; each at the highest point, left, centre and right. The first
    position free of other labels wins, otherwise the one that hides the smallest area of them, up to a fifth
    of its own area. None when there is no such position.
    """
    width, height = _extent(text, font)
    if width > size[0] or height > size[1]:
        return None
    x1, y1, x2, y2 = anchor
    best: Rect | None = None
    least_hidden = 0.2 * width * height
    rows = [
        y1 - height,
        y1,
        y2,
        y2 - height,
        (y1 + y2 - height) / 2,
        y1 - 2 * height,
        y1 + height,
        y2 + height,
    ]
    columns = [top_x - width / 2, x1, (x1 + x2 - width) / 2, x2 - width]
    for top in rows:
        for left in columns:
            x = min(max(0, round(left)), size[0] - width)
            y = min(max(0, round(top)), size[1] - height)
            rect = (x, y, x + width, y + height)
            hidden = sum(_overlap(rect, other) for other in taken)
            if hidden == 0:
                return rect
            if hidden < least_hidden:
                best, least_hidden = rect, hidden
    return best


def _overlap(a: Rect, b: Rect) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _draw_chip(image: Image.Image, chip: _Chip) -> None:
    """A rounded, slightly translucent plate in the instance's colour, with black or white letters."""
    x1, y1, x2, y2 = (round(value) for value in chip.rect)
    fine = 4  # Pillow's shapes are not anti-aliased: draw a larger one and shrink it
    plate = Image.new("L", ((x2 - x1) * fine, (y2 - y1) * fine))
    corner = 0.22 * plate.height
    ImageDraw.Draw(plate).rounded_rectangle((0, 0, plate.width - 1, plate.height - 1), corner, fill=235)
    image.paste(chip.colour, (x1, y1, x2, y2), plate.resize((x2 - x1, y2 - y1), Image.Resampling.BOX))
    red, green, blue = chip.colour
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 125
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    ink = (0, 0, 0) if bright else (255, 255, 255)
    ImageDraw.Draw(image).text(middle, chip.text, ink, chip.font, anchor="mm")
