"""From a picture's own size to that of the network's input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision


def resize_scale(height: int, width: int, short: int, long: int) -> float:
    """The factor that makes the short side `short` pixels, or less: the long side is at most `long`."""
    return min(short / min(height, width), long / max(height, width))


def resized_size(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """(height, width) after resizing: rounded, at least 1, at most `long`."""
    scale = resize_scale(height, width, short, long)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Tensor, short: int, long: int) -> tuple[Tensor, tuple[float, float]]:
    """Resize uint8 [3, H, W], anti-aliased bilinear.

    Returns:
        float32 [3, h, w] from 0 to 1, contiguous, and (x, y) new pixels per old pixel: exact, that is after
        rounding.
    """
    height, width = image.shape[-2:]
    new_height, new_width = resized_size(height, width, short, long)
    if (new_height, new_width) != (height, width):
        image = vision.resize(image, [new_height, new_width], antialias=True)
    return image.contiguous().float().div_(255), (new_width / width, new_height / height)


def of_one_shape(images: Sequence[Tensor]) -> list[list[int]]:
    """Places of the images that may share a batch: those of one shape, as padding would let a picture's
    neighbours change its result.
    """
    groups: dict[torch.Size, list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        groups[image.shape].append(place)
    return list(groups.values())
