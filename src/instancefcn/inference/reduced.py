"""Overlays of images too large for memory: a smaller copy of the image, and of what was found in it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.large import LargeImage
from instancefcn.instances import Instances

OVERLAY_PIXELS = 25_000_000
"""Maximum pixels of the copy."""
BAND_BYTES = 2**24
"""Bytes of the image that are read at once."""


def reduced(image: LargeImage, instances: Instances) -> tuple[Tensor, Instances]:
    """A copy of at most about OVERLAY_PIXELS, each the mean of f x f pixels (fewer at the edges), and the
    instances in its pixels: a pixel belongs to a mask that covers half of it.

    Returns:
        uint8 [3, h, w] and instances of that size.
    """
    factor = math.ceil((image.height * image.width / OVERLAY_PIXELS) ** 0.5)
    rows = max(1, BAND_BYTES // (3 * image.width * factor)) * factor
    bands = []
    for top in range(0, image.height, rows):
        band = image.crop(0, top, image.width, min(top + rows, image.height)).permute(1, 2, 0).numpy()
        bands.append(np.round(_means(band, factor)).astype(np.uint8))
    small = torch.from_numpy(np.concatenate(bands)).permute(2, 0, 1)
    size = int(small.shape[1]), int(small.shape[2])
    crops, corners = [], []
    for index, (x1, y1, _, _) in enumerate(instances.masks.rects.tolist()):
        crop = instances.masks.crop(index).numpy()
        aligned = np.pad(crop, ((y1 % factor, 0), (x1 % factor, 0)))
        crops.append(torch.from_numpy((_means(aligned[:, :, None], factor)[:, :, 0] >= 0.5).astype(np.uint8)))
        corners.append((x1 // factor, y1 // factor))
    masks = CroppedMasks.from_crops(crops, corners, size)
    return small, replace(instances, boxes=instances.boxes / factor, masks=masks)


def _means(values: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """Means over blocks of factor x factor in [H, W, C]; blocks at the edges may be smaller."""
    rows, columns = np.arange(0, values.shape[0], factor), np.arange(0, values.shape[1], factor)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.uint32), columns, axis=1)
    heights = np.minimum(rows + factor, values.shape[0]) - rows
    widths = np.minimum(columns + factor, values.shape[1]) - columns
    return (sums / (heights[:, None] * widths[None, :])[:, :, None]).astype(np.float32)
