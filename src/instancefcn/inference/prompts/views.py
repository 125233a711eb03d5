"""Parts of an image at the size that a network wants to see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class View:
    """A part of an image, resized.

    Attributes:
        pixels: float32 [3, h, w], 0 to 1: the network's input.
        corner: (x, y) of its upper left corner in pixels of the image.
        scale: (x, y): pixels of the view per pixel of the image.
    """

    pixels: Tensor
    corner: tuple[int, int]
    scale: tuple[float, float]

    def from_image(self, boxes: Tensor) -> Tensor:
        """Boxes [N, 4] in pixels of the view from boxes in pixels of the image."""
        corner = boxes.new_tensor(self.corner * 2)
        return (boxes - corner) * boxes.new_tensor(self.scale * 2)

    def to_image(self, boxes: Tensor) -> Tensor:
        """The inverse of `from_image`."""
        return boxes / boxes.new_tensor(self.scale * 2) + boxes.new_tensor(self.corner * 2)


def view_around(image: Tensor, centre: tuple[float, float], scale: tuple[float, float], side: int) -> View:
    """The part of an image uint8 [3, H, W] that a square of `side` pixels of the view shows around `centre`,
    cut off at the image's edges.

    Args:
        centre: (x, y) in pixels of the image.
        scale: (x, y): wanted pixels of the view per pixel of the image; rounding changes them a little.
    """
    height, width = image.shape[1:]
    (x1, x2), (y1, y2) = (
        _part(middle, side / factor, limit)
        for middle, factor, limit in zip(centre, scale, (width, height), strict=True)
    )
    new = [max(1, round((y2 - y1) * scale[1])), max(1, round((x2 - x1) * scale[0]))]
    pixels = vision.resize(image[:, y1:y2, x1:x2], new, antialias=True)
    return View(pixels.contiguous().float().div_(255), (x1, y1), (new[1] / (x2 - x1), new[0] / (y2 - y1)))


def _part(middle: float, length: float, limit: int) -> tuple[int, int]:
    """The whole pixels that a stretch around `middle` covers, at least one."""
    first = min(max(int(middle - length / 2), 0), limit - 1)
    return first, max(min(int(middle + length / 2) + 1, limit), first + 1)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Mask logits that a network has read in windows around an object.

    Attributes:
        logits: float32 [V, m, m], on a grid over each window.
        windows: float32 [V, 4], in pixels of the image.
        weight: what a logit counts, beside what else is known.
    """

    logits: Tensor
    windows: Tensor
    weight: float

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """float32 [h, w]: the mean of the windows, read bilinearly at columns x [w] and rows y [h]; beyond a
        window its outermost cells.
        """
        low, high = self.windows[:, None, :2], self.windows[:, None, 2:]
        across = 2 * (x[None] - low[..., 0]) / (high - low)[..., 0] - 1
        down = 2 * (y[None] - low[..., 1]) / (high - low)[..., 1] - 1
        grid = torch.stack(
            (across[:, None].expand(-1, len(y), -1), down[:, :, None].expand(-1, -1, len(x))), 3
        )
        read = F.grid_sample(self.logits[:, None], grid, padding_mode="border", align_corners=False)
        return read[:, 0].mean(0)


def points_of(masks: Tensor, windows: Tensor, x: float, y: float) -> Tensor:
    """float32 [P]: grids [P, m, m] over windows [P, 4], each read bilinearly at a point (x, y), 0
    outside the window. Points and windows are in pixels of the image.
    """
    point = windows.new_tensor([x, y])
    share = (point - windows[:, :2]) / (windows[:, 2:] - windows[:, :2])
    grid = (2 * share - 1)[:, None, None]
    read = F.grid_sample(masks[:, None], grid, padding_mode="border", align_corners=False)[:, 0, 0, 0]
    return read * ((share >= 0) & (share < 1)).all(1)
