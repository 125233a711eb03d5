"""Non-maximum suppression whose result has a fixed shape, so that nobody waits for its length.

`torchvision.ops.nms` returns as many rows as are left: on a GPU the host waits for that number, and neither a
CUDA graph nor a graph without dynamic shapes can hold it. `suppress` pads instead. On a CPU it is
torchvision's loop, on a GPU the Triton kernels of `triton/suppression.py`, with equal answers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op
from torchvision.ops import nms

from instancefcn.ops.forms import is_portable


def suppress(boxes: Tensor, iou: float, count: int) -> Tensor:
    """Greedy non-maximum suppression of B lists of boxes: `torch.ops.instancefcn.suppress`.

    A box goes when its IoU with a better one that stays is above `iou`.

    Args:
        boxes: float32 or float64 [B, K, 4], half-open, best first. Those without area take no part; they
            come last.
        iou: 0 to 1.
        count: how many boxes of a list are kept at most.

    Returns:
        int64 [B, count]: places of the boxes that stay, best first, then K where no box is left.

    Raises:
        ValueError: a shape or type does not fit.
    """
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be [B, K, 4], got shape {tuple(boxes.shape)}")
    if boxes.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"boxes must be float32 or float64, got {boxes.dtype}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return _suppress(boxes, float(iou), count)


@custom_op("instancefcn::suppress", mutates_args=())
def _suppress(boxes: Tensor, iou: float, count: int) -> Tensor:
    if boxes.is_cuda and not is_portable(boxes.device):
        from instancefcn.ops.triton import suppression as suppression_cuda

        return suppression_cuda.suppress(boxes, iou, count)
    return with_torchvision(boxes, iou, count)


@_suppress.register_fake
def _(boxes: Tensor, iou: float, count: int) -> Tensor:
    return boxes.new_empty((boxes.shape[0], count), dtype=torch.int64)


def with_torchvision(boxes: Tensor, iou: float, count: int) -> Tensor:
    """List by list; on a GPU the host waits for every one.

    Who stays depends on better boxes alone, and the time on the square of their number: the best are tried
    first, and more only when `count` of those do not stay.
    """
    rows = torch.full((boxes.shape[0], count), boxes.shape[1], dtype=torch.int64, device=boxes.device)
    for own, listed in zip(rows, boxes, strict=True):
        there = int(((listed[:, 2] > listed[:, 0]) & (listed[:, 3] > listed[:, 1])).sum())
        ranks = torch.arange(there, 0, -1, dtype=boxes.dtype, device=boxes.device)
        tried = 0
        kept = rows.new_empty(0)
        while tried < there and len(kept) < count:
            tried = min(there, max(2 * tried, 4 * count))
            kept = nms(listed[:tried], ranks[:tried], iou)[:count]
        own[: len(kept)] = kept
    return rows
