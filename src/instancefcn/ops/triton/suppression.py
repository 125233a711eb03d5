"""`suppress` on a GPU: Triton kernels, without waiting for the GPU.

First all pairs of boxes of a list are compared in parallel, 64 x 64 per program: bit j of word (i, block)
says that box i suppresses box 64 * block + j. A second kernel, one program per list, goes through the boxes
in order, 64 at a time, and stops when enough are kept.
"""

# Kernel arguments have no Python types: Triton infers them at launch.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from instancefcn.ops.triton.operators import device_of


def suppress(boxes: Tensor, iou: float, count: int) -> Tensor:
    """See `instancefcn.ops.suppression.suppress`."""
    lists, length = boxes.shape[:2]
    rows = torch.full((lists, count), length, dtype=torch.int64, device=boxes.device)
    if lists == 0 or length == 0:
        return rows
    boxes = boxes.detach().contiguous()
    blocks = triton.cdiv(length, 64)
    # Words of boxes without area are neither written nor read.
    words = torch.empty((lists, length, blocks), dtype=torch.int64, device=boxes.device)
    # torchvision compares in double precision on a CPU, this kernel in the boxes' type.
    limit = iou if boxes.dtype == torch.float64 else _single(iou)
    # A tensor, because Triton rounds Python floats to single precision.
    limits = torch.full((1,), limit, dtype=boxes.dtype, device=boxes.device)
    with device_of(boxes):
        # Without fused multiply-add the IoUs are bit-identical to those of a CPU.
        _compare[(lists, blocks, blocks)](
            boxes, words, limits, length, blocks, num_warps=4, enable_fp_fusion=False
        )
        _choose[(lists,)](
            boxes, words, rows, length, blocks, count,
            WORDS=triton.next_power_of_2(blocks), num_warps=8 if blocks > 32 else 2,
        )  # fmt: skip
    return rows


def _single(threshold: float) -> float:
    """The largest float32 that is at most `threshold`."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1)))


@triton.jit
def _corners(pointers, there):
    return (
        tl.load(pointers, mask=there, other=0.0),
        tl.load(pointers + 1, mask=there, other=0.0),
        tl.load(pointers + 2, mask=there, other=0.0),
        tl.load(pointers + 3, mask=there, other=0.0),
    )


@triton.jit
def _compare(boxes, words, limits, length, blocks):
    """boxes [B, K, 4] -> words [B, K, blocks]; blocks before the diagonal are not written."""
    which = tl.program_id(0).to(tl.int64)
    block = tl.program_id(2)
    row, column = tl.program_id(1) * 64 + tl.arange(0, 64), block * 64 + tl.arange(0, 64)
    first = boxes + (which * length + block * 64) * 4
    # Boxes without area come last: if the first of a block has none, no other has.
    there = (tl.load(first + 2) > tl.load(first)) & (tl.load(first + 3) > tl.load(first + 1))
    if there & (block >= tl.program_id(1)):
        x1, y1, x2, y2 = _corners(boxes + (which * length + row) * 4, row < length)
        a1, b1, a2, b2 = _corners(boxes + (which * length + column) * 4, column < length)
        wide = tl.minimum(x2[:, None], a2[None, :]) - tl.maximum(x1[:, None], a1[None, :])
        high = tl.minimum(y2[:, None], b2[None, :]) - tl.maximum(y1[:, None], b1[None, :])
        common = tl.maximum(wide, 0.0) * tl.maximum(high, 0.0)
        union = ((x2 - x1) * (y2 - y1))[:, None] + ((a2 - a1) * (b2 - b1))[None, :] - common
        union = tl.where(union > 0.0, union, 1.0)
        # Plain float32 division is approximate.
        share = common / union if boxes.dtype.element_ty == tl.float64 else tl.div_rn(common, union)
        covers = (share > tl.load(limits)) & (column[None, :] > row[:, None])
        bits = covers.to(tl.int64) << tl.arange(0, 64).to(tl.int64)[None, :]
        tl.store(words + (which * length + row) * blocks + block, tl.sum(bits, 1), mask=row < length)


@triton.jit
def _either(one, other):
    return one | other


@triton.jit
def _choose(boxes, words, rows, length, blocks, count, WORDS: tl.constexpr):
    """words [B, K, blocks] -> rows [B, count]: the boxes that are kept, best first; the rest is unchanged."""
    which = tl.program_id(0).to(tl.int64)
    boxes, words = boxes + which * length * 4, words + which * length * blocks
    word, lane = tl.arange(0, WORDS), tl.arange(0, 64)
    gone = tl.zeros([WORDS], tl.int64)  # bits of the suppressed boxes
    kept, block = 0, 0
    while (block < blocks) & (kept < count):
        own = block * 64 + lane
        x1, y1, x2, y2 = _corners(boxes + own * 4, own < length)
        there = ((x2 > x1) & (y2 > y1)).to(tl.int64)
        alive = tl.sum(there << lane.to(tl.int64), 0)
        alive = alive & ~tl.sum(tl.where(word == block, gone, 0), 0)
        for j in tl.static_range(64):  # unrolled: no address depends on a load, so the loads overlap
            row = tl.minimum(block * 64 + j, length - 1).to(tl.int64)
            covered = tl.load(words + row * blocks + block)
            alive = tl.where(((alive >> j) & 1) == 1, alive & ~covered, alive)
        stays = (alive >> lane.to(tl.int64)) & 1
        position = kept + tl.cumsum(stays, 0).to(tl.int32) - 1
        tl.store(rows + which * count + position, own.to(tl.int64), mask=(stays == 1) & (position < count))
        kept += tl.sum(stays, 0).to(tl.int32)
        later = (stays == 1)[:, None] & ((word > block) & (word < blocks))[None, :]
        covered = tl.load(words + own.to(tl.int64)[:, None] * blocks + word[None, :], mask=later, other=0)
        gone = gone | tl.reduce(covered, 0, _either)
        block += 1
