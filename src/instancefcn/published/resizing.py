"""How the published codes resize an image for the network: the size, and OpenCV's bilinear interpolation.

Results depend on it: another interpolation changes scores by more than all rounding in the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from instancefcn.models.preprocessing import Preprocessing


class PublishedPreprocessing(Preprocessing):
    """Scaling of the published codes: to "truncated" sides (ChainerCV) or "rounded" sides (official)."""

    RULES = ("truncated", "rounded")

    def __call__(self, image: Tensor) -> Tensor:
        """The network's input, float32 [3, h, w], 0 to 1, of an image uint8 [3, H, W]."""
        return resize_published(image, self.short_side, self.long_side, self.rule == "rounded")


def published_scale(height: int, width: int, short: int, long: int, rounded: bool) -> float:
    """Pixels of the input per pixel of the image, before the sides become whole numbers."""
    scale, larger = short / min(height, width), max(height, width)
    too_long = round(scale * larger) > long if rounded else scale * larger > long
    return long / larger if too_long else scale


def published_size(height: int, width: int, short: int, long: int, rounded: bool) -> tuple[int, int]:
    """(height, width) of the input: rounded, or truncated (for a height of 281 pixels this may give 599).

    At least 1, where both codes would fail.
    """
    scale = published_scale(height, width, short, long, rounded)
    whole = round if rounded else int
    return max(1, whole(height * scale)), max(1, whole(width * scale))


def resize_published(image: Tensor, short: int, long: int, rounded: bool) -> Tensor:
    """The network's input, float32 [3, h, w], 0 to 1, of an image uint8 [3, H, W]; bilinear as in OpenCV,
    that is without smoothing.

    Args:
        short, long: pixels of the short side, and the limit of the long side.
        rounded: round the sides, and the colours to whole levels (official), or neither (ChainerCV).
    """
    height, width = image.shape[1:]
    new_height, new_width = published_size(height, width, short, long, rounded)
    if not rounded:
        stretched = _along(image.float(), 2, new_width, width / new_width)
        return _along(stretched, 1, new_height, height / new_height) / 255
    # The official code gives OpenCV the scale, not the sides, so the right and lower edges are slightly off.
    step = 1 / published_scale(height, width, short, long, rounded)
    return _in_integers(image.int(), new_height, new_width, step) / 255


def _neighbours(image: Tensor, axis: int, length: int, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after each of `length` positions, `step` pixels apart, along one axis of `image`,
    and the share of the latter, float32.
    """
    last = image.shape[axis] - 1
    positions = ((torch.arange(length, dtype=torch.float64) + 0.5) * step - 0.5).clamp(0, last)
    low = positions.floor().clamp(max=max(0, last - 1))
    share = (positions - low).float()
    first, second = (image.index_select(axis, at.long().clamp(max=last)) for at in (low, low + 1))
    return first, second, share.view(-1, 1) if axis == 1 else share


def _along(image: Tensor, axis: int, length: int, step: float) -> Tensor:
    """`image` read bilinearly along one axis, rounded once as by a fused multiply-add."""
    first, second, share = _neighbours(image, axis, length, step)
    return (first.double() + (second - first).double() * share.double()).float()


def _in_integers(image: Tensor, height: int, width: int, step: float) -> Tensor:
    """`image` int32 [3, H, W] read bilinearly with shares in units of 1/2048, truncated and rounded where
    OpenCV does it for colours of one byte. Plain rounding differs in a tenth of the colours.
    """
    first, second, share = _neighbours(image, 2, width, step)
    share = (share * 2048).round().int()
    rows = first * (2048 - share) + second * share
    first, second, share = _neighbours(rows, 1, height, step)
    share = (share * 2048).round().int()
    return (((2048 - share) * (first >> 4) >> 16) + (share * (second >> 4) >> 16) + 2) >> 2
