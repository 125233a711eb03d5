"""`vote_average` and `extents` in plain PyTorch: on any device, without kernels.

Reading a grid bilinearly is a product with a sparse matrix on either side. The second product also sums the
votes, so each crop needs two matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Voters per product: limits its memory for crops with hundreds of voters.
_AT_ONCE = 64


def vote_average(
    masks: Tensor,
    boxes: Tensor,
    index: Tensor,
    weights: Tensor,
    starts: Tensor,
    rects: Tensor,
    threshold: float | None,
    binarize: float | None,
) -> Tensor:
    """See `instancefcn.ops.voting.average.vote_average`."""
    limits = starts.tolist()
    flat = []
    with torch.autocast(masks.device.type, enabled=False):  # half precision would shift the outlines
        for s, rect in enumerate(rects.tolist()):
            chosen = index[limits[s] : limits[s + 1]]
            average = _average(masks, boxes, chosen, weights[limits[s] : limits[s + 1]], rect, binarize)
            flat.append(
                (average if threshold is None else (average >= threshold).to(torch.uint8)).reshape(-1)
            )
    if not flat:
        return masks.new_zeros(0, dtype=torch.float32 if threshold is None else torch.uint8)
    return torch.cat(flat)


def extents(pixels: Tensor, rects: Tensor) -> Tensor:
    """See `instancefcn.ops.voting.average.extents`."""
    areas = ((rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])).tolist()
    found = torch.zeros_like(rects)
    for own, crop, rect in zip(found, pixels.split(areas), rects, strict=True):
        if len(crop):
            crop = crop.view(-1, int(rect[2] - rect[0]))
            y, x = crop.any(1).nonzero()[:, 0], crop.any(0).nonzero()[:, 0]
            if len(y):
                own[:] = rect[:2].repeat(2) + torch.stack((x[0], y[0], x[-1] + 1, y[-1] + 1))
    return found


def _average(
    masks: Tensor, boxes: Tensor, index: Tensor, weights: Tensor, rect: list[int], binarize: float | None
) -> Tensor:
    """float32 [h, w]: the weighted sum of the votes `index` in one crop."""
    x1, y1, x2, y2 = rect
    m = masks.shape[-1]
    total = masks.new_zeros((y2 - y1, x2 - x1))
    at_once = _AT_ONCE if binarize is None else 1
    for begin in range(0, len(index), at_once):
        part = index[begin : begin + at_once]
        box, weight = boxes[part], weights[begin : begin + at_once, None, None]
        across = _readings(box[:, 0], box[:, 2], x1, x2, m)
        down = _readings(box[:, 1], box[:, 3], y1, y2, m)
        wide = masks[part] @ across.transpose(1, 2)  # [V, m, w]
        if binarize is None:
            total += down.transpose(0, 1).flatten(1) @ (wide * weight).flatten(0, 1)
        else:
            total += ((down @ wide >= binarize) * weight).sum(0)
    return total


def _readings(low: Tensor, high: Tensor, start: int, stop: int, m: int) -> Tensor:
    """float32 [V, stop - start, m]: the weight of each of m cells over [low, high) at the centres of pixels
    start to stop.

    Positions are float64: outlines must not depend on an object's distance from the image's corner.
    """
    centres = torch.arange(start, stop, dtype=torch.float64, device=low.device) + 0.5
    low, high = low.double()[:, None], high.double()[:, None]
    position = ((centres - low) / (high - low) * m - 0.5).clamp(0, m - 1)
    cells = torch.arange(m, dtype=torch.float64, device=low.device)
    shares = (1 - (position[..., None] - cells).abs()).clamp(min=0)
    inside = (centres >= low) & (centres < high)
    return torch.where(inside[..., None], shares, 0.0).float()
