"""Non-maximum suppression with a result of fixed shape.

`torchvision.ops.nms` returns one row per remaining box: on a GPU the host waits for their number, and no CUDA
graph or graph of static shapes can contain it. `suppress` pads instead. It runs torchvision's loop on a CPU
and the Triton kernels of `triton/suppression.py` on a GPU, with equal results.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op
from torchvision.ops import nms

from instancefcn.ops.forms import is_portable


def suppress(boxes: Tensor, iou: float, count: int) -> Tensor:
    """Greedy non-maximum suppression of B lists of boxes: `torch.ops.instancefcn.suppress`.

    A box is removed if its IoU with a better box that is kept is above `iou`.

    Args:
        boxes: float32 or float64 [B, K, 4], half-open, best first. Boxes without area are ignored; they must
            come last.
        iou: 0 to 1.
        count: the maximum number of boxes kept of a list.

    Returns:
        int64 [B, count]: indices of the boxes that are kept, best first, padded with K.

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
    """`suppress` list by list with `torchvision.ops.nms`; on a GPU the host waits for every list.

    Whether a box is kept depends only on better boxes, and time grows with the square of their number. So the
    best boxes are tried first, and more of them only if fewer than `count` are kept.
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
