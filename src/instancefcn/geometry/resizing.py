"""Resizing an image to the network's input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision


def resize_scale(height: int, width: int, short: int, long: int) -> float:
    """The factor that makes the short side `short` pixels, or less to keep the long side at most `long`."""
    return min(short / min(height, width), long / max(height, width))


def resized_size(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """(height, width) after resizing: rounded, at least 1, at most `long`."""
    scale = resize_scale(height, width, short, long)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Tensor, short: int, long: int) -> tuple[Tensor, tuple[float, float]]:
    """Resize uint8 [3, H, W], bilinear with antialiasing.

    Returns:
        float32 [3, h, w] from 0 to 1, contiguous; and the factors (x, y), new pixels per old pixel, of the
        rounded size.
    """
    height, width = image.shape[-2:]
    new_height, new_width = resized_size(height, width, short, long)
    if (new_height, new_width) != (height, width):
        image = vision.resize(image, [new_height, new_width], antialias=True)
    return image.contiguous().float().div_(255), (new_width / width, new_height / height)


def group_by_shape(images: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the images that may share a batch. Only images of one shape may: with padding, an image's
    result would depend on its neighbours.
    """
    groups: dict[torch.Size, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[image.shape].append(index)
    return list(groups.values())
