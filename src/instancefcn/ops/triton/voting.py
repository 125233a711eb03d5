"""`vote_average` and `extents` on a GPU: one Triton program per tile of a crop, or per crop.

A program adds up the crop's votes in order. `vote_average` waits for the GPU once, for the number of pixels
and tiles, which give the result's shape.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from instancefcn.ops.triton.operators import device_of

_TILE = (16, 32)  # rows, columns


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
    widths, heights = rects[:, 2] - rects[:, 0], rects[:, 3] - rects[:, 1]
    areas = widths * heights
    tiles = ((heights + _TILE[0] - 1) // _TILE[0]) * ((widths + _TILE[1] - 1) // _TILE[1])
    pixels, count = torch.stack((areas, tiles)).sum(1).tolist()
    out = masks.new_empty(pixels, dtype=torch.float32 if threshold is None else torch.uint8)
    if count:
        crops = torch.repeat_interleave(tiles, output_size=count)
        with device_of(masks):
            _vote[(count,)](
                masks.detach().contiguous(), boxes.detach().contiguous(), index.contiguous(),
                weights.detach().contiguous(), starts.contiguous(), rects.contiguous(),
                crops, tiles.cumsum(0) - tiles, areas.cumsum(0) - areas, out, masks.shape[1],
                0.0 if threshold is None else threshold, 0.0 if binarize is None else binarize,
                CUT=threshold is not None, BINARY=binarize is not None,
                BLOCK_Y=_TILE[0], BLOCK_X=_TILE[1],
            )  # fmt: skip
    return out


def extents(pixels: Tensor, rects: Tensor) -> Tensor:
    """See `instancefcn.ops.voting.average.extents`."""
    areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    found = torch.empty((len(rects), 4), dtype=torch.int64, device=pixels.device)
    if len(rects):
        with device_of(pixels):
            _extents[(len(rects),)](
                pixels.contiguous(), rects.contiguous(), areas.cumsum(0) - areas, found, BLOCK=2048,
                num_warps=8,
            )  # fmt: skip
    return found


# Kernel arguments have no Python types: Triton infers them at launch.
@triton.jit
def _read_axis(pixels, low, high, m):  # type: ignore[no-untyped-def]
    """Where pixels read m cells over [low, high): the lower cell, the next one's share, and whether the
    pixel's centre is inside.

    Positions are float64: outlines must not depend on an object's distance from the image's corner.
    """
    centres = pixels.to(tl.float64) + 0.5
    inside = (centres >= low) & (centres < high)
    position = (centres - low) / tl.where(high > low, high - low, 1.0) * m - 0.5
    position = tl.minimum(tl.maximum(tl.where(inside, position, 0.0), 0.0), m - 1.0)
    cell = tl.maximum(tl.minimum(tl.floor(position).to(tl.int32), m - 2), 0)
    return cell, (position - cell).to(tl.float32), inside


@triton.jit
def _vote(  # type: ignore[no-untyped-def]
    masks, boxes, index, weights, starts, rects, crops, first_tiles, offsets, out, m, threshold, binarize,
    CUT: tl.constexpr, BINARY: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """masks [P, m, m], boxes [P, 4], ... -> out: the pixels of one tile of crop crops[program]."""
    crop = tl.load(crops + tl.program_id(0))
    number = tl.program_id(0) - tl.load(first_tiles + crop)
    left, top = tl.load(rects + crop * 4), tl.load(rects + crop * 4 + 1)
    right, bottom = tl.load(rects + crop * 4 + 2), tl.load(rects + crop * 4 + 3)
    across = tl.cdiv(right - left, BLOCK_X)
    y = top + number // across * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = left + number % across * BLOCK_X + tl.arange(0, BLOCK_X)
    beside, below = tl.minimum(m - 1, 1), tl.minimum(m - 1, 1) * m
    total = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
    for v in range(tl.load(starts + crop), tl.load(starts + crop + 1)):
        mask, weight = tl.load(index + v), tl.load(weights + v)
        x1, x2 = tl.load(boxes + mask * 4).to(tl.float64), tl.load(boxes + mask * 4 + 2).to(tl.float64)
        y1, y2 = tl.load(boxes + mask * 4 + 1).to(tl.float64), tl.load(boxes + mask * 4 + 3).to(tl.float64)
        row, share_y, in_y = _read_axis(y, y1, y2, m)
        column, share_x, in_x = _read_axis(x, x1, x2, m)
        corner = masks + mask * m * m + row[:, None] * m + column[None, :]
        inside = in_y[:, None] & in_x[None, :]
        share_y, share_x = share_y[:, None], share_x[None, :]
        upper = (1.0 - share_x) * tl.load(corner, mask=inside, other=0.0)
        upper += share_x * tl.load(corner + beside, mask=inside, other=0.0)
        lower = (1.0 - share_x) * tl.load(corner + below, mask=inside, other=0.0)
        lower += share_x * tl.load(corner + below + beside, mask=inside, other=0.0)
        vote = (1.0 - share_y) * upper + share_y * lower
        if BINARY:
            vote = tl.where(vote >= binarize, 1.0, 0.0)
        total += tl.where(inside, weight * vote, 0.0)
    pixel = tl.load(offsets + crop) + (y - top)[:, None] * (right - left) + (x - left)[None, :]
    wanted = (y < bottom)[:, None] & (x < right)[None, :]
    if CUT:
        tl.store(out + pixel, (total >= threshold).to(tl.uint8), mask=wanted)
    else:
        tl.store(out + pixel, total, mask=wanted)


@triton.jit
def _extents(pixels, rects, offsets, out, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """pixels, rects [S, 4] -> out [S, 4]: the box around the pixels of crop s that are 1, or zeros."""
    crop = tl.program_id(0).to(tl.int64)
    left, top = tl.load(rects + crop * 4), tl.load(rects + crop * 4 + 1)
    width = (tl.load(rects + crop * 4 + 2) - left).to(tl.int32)  # a crop has fewer than 2^31 pixels
    area = width * (tl.load(rects + crop * 4 + 3) - top).to(tl.int32)
    first = pixels + tl.load(offsets + crop)
    number = tl.arange(0, BLOCK)
    far = area + width  # beyond every row and column
    x1, y1 = tl.zeros_like(number) + far, tl.zeros_like(number) + far
    x2, y2 = tl.zeros_like(number), tl.zeros_like(number)
    for begin in range(0, area, BLOCK):
        position = begin + number
        there = tl.load(first + position, mask=position < area, other=0) != 0
        x, y = position % width, position // width
        x1, y1 = tl.minimum(x1, tl.where(there, x, far)), tl.minimum(y1, tl.where(there, y, far))
        x2, y2 = tl.maximum(x2, tl.where(there, x + 1, 0)), tl.maximum(y2, tl.where(there, y + 1, 0))
    right, below = tl.max(x2, 0), tl.max(y2, 0)
    tl.store(out + crop * 4, tl.where(right > 0, left + tl.min(x1, 0), 0))
    tl.store(out + crop * 4 + 1, tl.where(right > 0, top + tl.min(y1, 0), 0))
    tl.store(out + crop * 4 + 2, tl.where(right > 0, left + right, 0))
    tl.store(out + crop * 4 + 3, tl.where(right > 0, top + below, 0))
