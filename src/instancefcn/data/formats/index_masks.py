"""Masks stored as images: each pixel holds the number of its object. Shared by VOC, SBD and mask folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instancefcn.data.dataset import Annotation
from instancefcn.errors import ImageError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.opening import describe_error, open_image
from instancefcn.limits import MAX_MASK_PIXELS

_INDEX_MODES = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")

_SUBFILE = 254
"""The TIFF tag whose lowest bit marks a page as a smaller copy of another."""
_BLOCK = 2**22
"""Pixels of a mask that are searched at once."""

Crop = tuple[NDArray[np.uint8], tuple[int, int]]
"""The pixels of one object, 0 or 1, [h, w], and the top left corner (x, y) of that rectangle."""


def read_index(path: Path) -> NDArray[Any]:
    """The numbers in a mask file, [H, W]. Of a palette image they are indices, not colours.

    Numbers may be integers of up to 32 bits, whole floats, or colours that are all gray. EXIF data do not
    rotate a PNG mask. A TIFF's Orientation tag rotates the mask, as it does an image.

    Raises:
        ImageError: the file cannot be read, is a JPEG, has several pages, holds colours or numbers that are
            not those of objects, or has gray samples of 2 or 4 bits. Pillow stretches the latter to 8 bits: 1
            of 15 would be read as 17.
    """
    values, coloured = read_mask(path)
    if not coloured:
        return values
    red, green, blue = values >> 16, values >> 8 & 255, values & 255
    if not ((red == green) & (green == blue)).all():
        raise ImageError(
            f"{path}: holds colours, not object numbers: save it as a gray PNG of 8 or 16 bits, or as a "
            "palette PNG"
        )
    return blue.astype(np.uint8)


def read_mask(path: Path, *, palette: bool = False) -> tuple[NDArray[Any], bool]:
    """The numbers or colours in a mask file, [H, W], and whether they are colours.

    Args:
        path: the file.
        palette: read the colours of a palette image instead of its indices.

    Returns:
        Numbers as `read_index` returns them; a colour is 65536 red + 256 green + blue.

    Raises:
        ImageError: see `read_index`; colours are read, but not transparent ones.
    """
    try:
        with open_image(path) as image:
            refuse_jpeg(image)
            if _has_pages(image):
                raise ImageError("has several pages, but a mask is one image: save one page for each image")
            if _stretched(image):
                raise ImageError(
                    "has gray samples of 2 or 4 bits, which are stretched when read: "
                    "save it with 8 bits or with a palette"
                )
            if image.mode not in _INDEX_MODES or (palette and image.mode == "P"):
                return _colours(image), True
            return _whole(np.array(image)), False
    except Exception as error:
        raise ImageError(f"{path}: {describe_error(error)}") from error


def _colours(image: Image.Image) -> NDArray[Any]:
    """The colours of an image as numbers, see `read_mask`. Raises ImageError for transparent pixels."""
    values = np.array(image.convert("RGBA")).astype(np.int32)
    if (values[:, :, 3] != 255).any():
        raise ImageError("has transparent pixels: save the mask without transparency")
    return values[:, :, 0] << 16 | values[:, :, 1] << 8 | values[:, :, 2]


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    """The values as integers. Raises ImageError for values that cannot number objects."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError(
                "holds values that are not finite, not object numbers: number the objects 1, 2, .."
            )
        uneven = values[values != np.round(values)]
        if uneven.size:
            raise ImageError(
                f"holds floats such as {uneven[0]:g}, not object numbers: save whole numbers, 0 for the "
                "background and 1, 2, .. for the objects"
            )
        values = values.astype(np.int64)
    if values.dtype.kind == "i" and values.size and values.min() < 0:
        raise ImageError(
            f"holds negative numbers ({values.min()}): number the objects 1, 2, .., the background 0"
        )
    return values


def _has_pages(image: Image.Image) -> bool:
    """Whether a file that is not loaded yet has a second page or frame. Smaller copies of the first do not
    count.
    """
    try:
        image.seek(1)
    except EOFError:
        return False
    smaller = bool(getattr(image, "tag_v2", {}).get(_SUBFILE, 0) & 1)
    image.seek(0)
    return not smaller


def refuse_jpeg(image: Image.Image) -> None:
    """Raise for a mask stored as a JPEG, whatever its suffix: JPEG changes pixels, mostly near edges.

    Raises:
        ImageError: the mask is a JPEG.
    """
    if image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression")):
        raise ImageError(
            "is a JPEG, which changes a mask's pixels: save it as PNG in the program that drew it "
            "(converting the JPEG to PNG keeps the damage)"
        )


def _stretched(image: Image.Image) -> bool:
    """Whether decoding will multiply the samples of an image that is not loaded yet.

    Samples of 1 bit become booleans and are not stretched.
    """
    for *_, raw in getattr(image, "tile", ()):
        kind = raw[0] if isinstance(raw, tuple) else raw  # a string for PNG, a tuple for TIFF
        if str(kind).startswith(("L;2", "L;4")):
            return True
    return False


def crops_of(
    index: NDArray[Any], without: Sequence[int] = (0,), where: Path | str = "the mask"
) -> dict[int, Crop]:
    """The objects of an index mask by number, ascending.

    Args:
        index: [H, W].
        without: numbers that are not objects.
        where: the mask's name in errors.

    Raises:
        ImageError: the rectangles around the objects hold more than MAX_MASK_PIXELS, as in an image of noise.
    """
    boxes: dict[int, tuple[int, int, int, int]] = {}
    step = max(1, _BLOCK // index.shape[1])
    for top in range(0, len(index), step):
        for value, (x1, y1, x2, y2) in _boxes_of(index[top : top + step], without):
            a1, b1, a2, b2 = boxes.get(value, (x1, y1 + top, x2, y2 + top))
            boxes[value] = (min(a1, x1), min(b1, y1 + top), max(a2, x2), max(b2, y2 + top))
    if sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes.values()) > MAX_MASK_PIXELS:
        raise ImageError(
            f"{where}: the rectangles around its {len(boxes)} objects hold more than "
            f"{MAX_MASK_PIXELS:,} pixels together: check that it is a mask, or cut it and its image up"
        )
    return {
        value: ((index[y1:y2, x1:x2] == value).astype(np.uint8), (x1, y1))
        for value, (x1, y1, x2, y2) in sorted(boxes.items())
    }


def _boxes_of(index: NDArray[Any], without: Sequence[int]) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Each number in a part of a mask, with the box x1, y1, x2, y2 around its pixels in that part."""
    rows, columns = np.nonzero(~np.isin(index, without))
    if not len(rows):
        return
    values = index[rows, columns]
    order = np.argsort(values, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    x1, x2 = np.minimum.reduceat(columns, starts), np.maximum.reduceat(columns, starts) + 1
    y1, y2 = np.minimum.reduceat(rows, starts), np.maximum.reduceat(rows, starts) + 1
    boxes = np.stack((x1, y1, x2, y2), 1).tolist()
    yield from ((value, tuple(box)) for value, box in zip(values[starts].tolist(), boxes, strict=True))


def annotations_of(crops: Sequence[Crop], labels: Sequence[int], size: tuple[int, int]) -> list[Annotation]:
    """Annotations without ids, with the RLEs, tight boxes and areas of non-empty crops.

    Args:
        crops: the objects' pixels.
        labels: their classes.
        size: (height, width) of the image.
    """
    import torch

    masks = CroppedMasks.from_crops(
        [torch.from_numpy(crop) for crop, _ in crops], [corner for _, corner in crops], size
    )
    rows = zip(labels, masks.tight_boxes().tolist(), masks.rles(), masks.areas().tolist(), strict=True)
    return [Annotation(0, label, tuple(box), rle, float(area)) for label, box, rle, area in rows]


def painted(
    masks: CroppedMasks, numbers: Sequence[int], start: NDArray[Any]
) -> tuple[NDArray[Any], list[int]]:
    """Set each mask's pixels to its number. Where masks overlap, the smaller one is on top.

    Args:
        masks: N masks.
        numbers: N numbers.
        start: [H, W], the values below the masks. It is not changed.

    Returns:
        The painted copy, and how many pixels of each mask are hidden.
    """
    canvas = start.copy()
    areas = masks.areas().tolist()
    for i in sorted(range(len(masks)), key=lambda i: -areas[i]):
        x1, y1, x2, y2 = masks.rects[i].tolist()
        canvas[y1:y2, x1:x2][masks.crop(i).numpy().astype(bool)] = numbers[i]
    hidden = []
    for i, number in enumerate(numbers):
        x1, y1, x2, y2 = masks.rects[i].tolist()
        seen = (canvas[y1:y2, x1:x2] == number) & masks.crop(i).numpy().astype(bool)
        hidden.append(areas[i] - int(seen.sum()))
    return canvas, hidden
