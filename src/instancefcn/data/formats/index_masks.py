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

_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

_BLOCK = 2**22
"""Pixels of a mask that are searched at once."""

Crop = tuple[NDArray[np.uint8], tuple[int, int]]
"""The pixels of one object, 0 or 1, [h, w], and the top left corner (x, y) of that rectangle."""


def read_index(path: Path) -> NDArray[Any]:
    """The numbers in a mask file, [H, W]. Of a palette image they are indices, not colours.

    EXIF data do not rotate a PNG mask. A TIFF's Orientation tag rotates the mask, as it does an image.

    Raises:
        ImageError: the file cannot be read, is a JPEG, holds colours, or has gray samples of 2 or 4 bits.
            Pillow stretches the latter to 8 bits: 1 of 15 would be read as 17.
    """
    try:
        with open_image(path) as image:
            refuse_jpeg(image)
            if image.mode not in _INDEX_MODES:
                raise ImageError(
                    f"holds colours (mode {image.mode}), not object numbers: "
                    "save it as an 8-bit or 16-bit gray PNG, or as a palette PNG"
                )
            if _stretched(image):
                raise ImageError(
                    "has gray samples of 2 or 4 bits, which are stretched when read: "
                    "save it with 8 bits or with a palette"
                )
            values = np.array(image)
    except Exception as error:
        raise ImageError(f"{path}: {describe_error(error)}") from error
    return values.astype(np.uint8) if values.dtype == bool else values


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
