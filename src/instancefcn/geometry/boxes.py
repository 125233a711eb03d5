"""Half-open boxes `x1, y1, x2, y2` in pixels, and their coding as regression targets.

A box covers the points x1 <= x < x2, y1 <= y < y2; its width is x2 - x1, without the "+1" of older code.
`torchvision.ops.box_iou` and `nms` use the same convention. `iou` is `box_iou` for a batch of lists.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Bounds the growth of one regression step (a factor of 62.5), so that an untrained network cannot overflow.
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


def encode(rois: Tensor, gt: Tensor) -> Tensor:
    """Deltas `dx, dy, dw, dh` that move `rois` onto `gt` (R-CNN, appendix C; Faster R-CNN, eq. 2).

    Args:
        rois: [N, 4] boxes with positive width and height, pixels.
        gt: [N, 4] boxes with positive width and height, pixels.

    Returns:
        [N, 4]: the centre's shift in units of the RoI's sides, and the natural logarithms of the sides'
        ratios.
    """
    rx, ry, rw, rh = _centres(rois)
    gx, gy, gw, gh = _centres(gt)
    return torch.stack(((gx - rx) / rw, (gy - ry) / rh, torch.log(gw / rw), torch.log(gh / rh)), dim=-1)


def decode(rois: Tensor, deltas: Tensor, max_log_scale: float = MAX_LOG_SCALE) -> Tensor:
    """Apply `deltas` [N, 4] to `rois` [N, 4]: boxes [N, 4] in pixels; the inverse of `encode`.

    `dw` and `dh` are at most `max_log_scale`.
    """
    rx, ry, rw, rh = _centres(rois)
    dx, dy, dw, dh = deltas.unbind(-1)
    cx, cy = rx + dx * rw, ry + dy * rh
    half_w = 0.5 * rw * torch.exp(dw.clamp(max=max_log_scale))
    half_h = 0.5 * rh * torch.exp(dh.clamp(max=max_log_scale))
    return torch.stack((cx - half_w, cy - half_h, cx + half_w, cy + half_h), dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip `boxes` [..., 4] to an image of `size` (height, width): x to [0, width], y to [0, height]."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=-1
    )


def scale(boxes: Tensor, factor_x: float, factor_y: float) -> Tensor:
    """`boxes` [..., 4] in pixels of an image `factor_x` times as wide and `factor_y` times as high."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1 * factor_x, y1 * factor_y, x2 * factor_x, y2 * factor_y), dim=-1)


def sides_at_least(boxes: Tensor, minimum: float) -> Tensor:
    """bool [...]: whether both sides of a box [..., 4] are at least `minimum` pixels long."""
    return ((boxes[..., 2] - boxes[..., 0]) >= minimum) & ((boxes[..., 3] - boxes[..., 1]) >= minimum)


def have_area(boxes: Tensor) -> Tensor:
    """bool [...]: whether a box [..., 4] is finite and has a positive width and height."""
    return boxes.isfinite().all(-1) & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def iou(one: Tensor, other: Tensor) -> Tensor:
    """[..., S, R]: intersection over union of boxes [..., S, 4] and [..., R, 4], list by list; NaN where
    neither box has an area.
    """
    first, second = one[..., :, None, :], other[..., None, :, :]
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    common = sides.clamp(min=0).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1)
    return common / (areas - common)


def to_rois(boxes: Tensor, batch_index: int) -> Tensor:
    """RoIs [N, 5] (batch index, x1, y1, x2, y2) from `boxes` [N, 4] of one image of a batch."""
    return torch.nn.functional.pad(boxes, (1, 0), value=float(batch_index))
