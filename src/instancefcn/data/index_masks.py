"""Masks that come as pictures: every pixel holds the number of its object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instancefcn.data.dataset import Annotation
from instancefcn.data.images import MAX_PIXELS, describe, too_large
from instancefcn.errors import ImageError
from instancefcn.masks import CroppedMasks

_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

Crop = tuple[NDArray[np.uint8], tuple[int, int]]
"""Pixels of one object, 0 or 1, [h, w], and the upper left corner (x, y) of that rectangle."""


def read_index(path: Path) -> NDArray[Any]:
    """The numbers in a mask file, [H, W], as they are stored (palette indices, not colours; no EXIF turn).

    Raises:
        ImageError: the file cannot be read, or holds colours.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(too_large())
            if image.mode not in _INDEX_MODES:
                raise ImageError(
                    f"holds colours (mode {image.mode}), not numbers of objects: "
                    "save it as an 8 or 16-bit gray or palette PNG"
                )
            values = np.array(image)
    except Exception as error:
        raise ImageError(f"{path}: {describe(error)}") from error
    return values.astype(np.uint8) if values.dtype == bool else values


def crops_of(index: NDArray[Any], without: Sequence[int] = (0,)) -> dict[int, Crop]:
    """The objects of an index mask by their numbers, ascending; `without` are numbers of no object."""
    rows, columns = np.nonzero(~np.isin(index, without))
    values = index[rows, columns]
    order = np.argsort(values, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    found: dict[int, Crop] = {}
    if not len(values):
        return found
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    for start, stop in zip(starts, np.append(starts[1:], len(values)), strict=True):
        y1, y2 = int(rows[start]), int(rows[stop - 1]) + 1  # np.nonzero goes row by row, argsort keeps that
        x1, x2 = int(columns[start:stop].min()), int(columns[start:stop].max()) + 1
        value = values[start]
        found[int(value)] = ((index[y1:y2, x1:x2] == value).astype(np.uint8), (x1, y1))
    return found


def annotations_of(crops: Sequence[Crop], labels: Sequence[int], size: tuple[int, int]) -> list[Annotation]:
    """Annotations, not numbered yet, with RLEs, tight boxes and areas of crops that have pixels.

    Args:
        crops, labels: of the objects.
        size: (height, width) of the picture.
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
    """`start` [H, W] with every mask's pixels set to its number; of masks that overlap the smaller is seen.

    Returns:
        the painted copy, and for each mask how many of its pixels are hidden.
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
