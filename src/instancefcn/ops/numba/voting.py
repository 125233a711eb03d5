"""`vote_average` and `extents` on a CPU: Numba kernels that touch only the pixels of each voter's box.

Crops are cut into bands of rows, which are distributed over the threads by cost. In a band each voter's grid
is first stretched to the crop's columns, giving a small table. Every row then adds two rows of the table, in
a vector loop without branches.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from instancefcn.ops.numba.kernels import compiled
from instancefcn.ops.numba.threads import threads

_BAND_ROWS = 64


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
    _check_values(masks, index, starts, rects)
    areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    offsets = torch.nn.functional.pad(areas.cumsum(0), (1, 0))
    out = torch.empty(int(offsets[-1]), dtype=torch.float32 if threshold is None else torch.uint8)
    work = int((areas * (starts[1:] - starts[:-1])).sum())
    with threads(work):
        _vote(
            masks.detach().contiguous().numpy(),
            boxes.detach().double().contiguous().numpy(),
            index.contiguous().numpy(),
            weights.detach().contiguous().numpy(),
            _bands(rects, starts),
            rects.contiguous().numpy(),
            starts.contiguous().numpy(),
            offsets.numpy(),
            np.float32(0.0 if threshold is None else threshold),
            np.float32(0.0 if binarize is None else binarize),
            binarize is not None,
            numba.get_num_threads(),
            out.numpy(),
        )
    return out


def extents(pixels: Tensor, rects: Tensor) -> Tensor:
    """See `instancefcn.ops.voting.average.extents`."""
    areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    if int(areas.sum()) != len(pixels):
        raise ValueError(f"the rectangles hold {int(areas.sum())} pixels, pixels has {len(pixels)}")
    found = torch.empty((len(rects), 4), dtype=torch.int64)
    with threads(len(pixels)):
        _extents(pixels.contiguous().numpy(), rects.contiguous().numpy(), found.numpy())
    return found


def _check_values(masks: Tensor, index: Tensor, starts: Tensor, rects: Tensor) -> None:
    """Refuse indices that would make the kernels read foreign memory."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < masks.shape[0]:
        raise ValueError(f"index must lie between 0 and {masks.shape[0] - 1}")
    if int(starts[0]) < 0 or bool((starts[1:] < starts[:-1]).any()) or int(starts[-1]) > len(index):
        raise ValueError(f"starts must rise from 0 to at most {len(index)}")
    if bool((rects[:, 2:] < rects[:, :2]).any()):
        raise ValueError("rects must have x1 <= x2 and y1 <= y2")


def _bands(rects: Tensor, starts: Tensor) -> Any:
    """int64 [B, 3]: crop, first row, one past the last row; the most expensive band first."""
    crops, votes = rects.numpy(), np.diff(starts.numpy())
    widths, heights = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
    counts = np.where(widths > 0, -(-heights // _BAND_ROWS), 0)
    crop = np.repeat(np.arange(len(crops)), counts)
    number = np.arange(len(crop)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = number * _BAND_ROWS
    last = np.minimum(first + _BAND_ROWS, heights[crop])
    cost = (last - first) * widths[crop] * votes[crop]
    return np.stack((crop, first, last), axis=1)[np.argsort(-cost, kind="stable")]


@compiled(parallel=False)
def _read_axis(
    low: float, high: float, start: int, stop: int, m: int, cells: Any, shares: Any
) -> tuple[int, int]:
    """Where the pixels of [start, stop) read m cells over [low, high): the lower cell and the next one's
    share.

    Returns the range of pixels, relative to start, whose centres are inside; nothing is written for the
    others.
    """
    # Clamped to the crop before rounding, as far ones overflow an integer.
    first = math.ceil(min(max(low - 0.5, float(start)), float(stop)))
    last = math.ceil(min(max(high - 0.5, float(start)), float(stop)))
    for pixel in range(first, last):
        position = (pixel + 0.5 - low) / (high - low) * m - 0.5
        position = min(max(position, 0.0), m - 1.0)
        cell = max(min(int(position), m - 2), 0)
        cells[pixel - start] = cell
        shares[pixel - start] = position - cell
    return first - start, last - start


@compiled(parallel=False)
def _stretch(
    mask: Any, rows: tuple[int, int], columns: tuple[int, int], cells: Any, shares: Any, table: Any
) -> None:
    """Read rows of a grid at the crop's columns, into the table."""
    right = min(1, mask.shape[1] - 1)
    for row in range(rows[0], rows[1]):
        line, values = table[row], mask[row]
        for column in range(columns[0], columns[1]):
            cell, share = cells[column], shares[column]
            line[column] = (np.float32(1) - share) * values[cell] + share * values[cell + right]


@compiled(parallel=False)
def _add_row(total: Any, upper: Any, lower: Any, share: Any, weight: Any) -> None:
    first, second = (np.float32(1) - share) * weight, share * weight
    for column in range(total.shape[0]):
        total[column] += first * upper[column] + second * lower[column]


@compiled(parallel=False)
def _add_row_binary(total: Any, upper: Any, lower: Any, share: Any, weight: Any, binarize: Any) -> None:
    rest = np.float32(1) - share
    for column in range(total.shape[0]):
        if rest * upper[column] + share * lower[column] >= binarize:
            total[column] += weight


@compiled(parallel=False)
def _add_vote(
    total: Any,
    mask: Any,
    box: Any,
    weight: Any,
    corner: tuple[int, int],
    binarize: Any,
    binary: bool,
    scratch: Any,
) -> None:
    """Add one vote to a band [rows, w] whose first pixel is `corner` (x, y)."""
    table, column_cells, column_shares, row_cells, row_shares = scratch
    m, (height, width) = mask.shape[0], total.shape
    x1, x2 = _read_axis(box[0], box[2], corner[0], corner[0] + width, m, column_cells, column_shares)
    y1, y2 = _read_axis(box[1], box[3], corner[1], corner[1] + height, m, row_cells, row_shares)
    if x1 >= x2 or y1 >= y2:
        return
    _stretch(
        mask, (row_cells[y1], min(row_cells[y2 - 1] + 2, m)), (x1, x2), column_cells, column_shares, table
    )
    for y in range(y1, y2):
        cell = row_cells[y]
        upper, lower = table[cell, x1:x2], table[min(cell + 1, m - 1), x1:x2]
        if binary:
            _add_row_binary(total[y, x1:x2], upper, lower, row_shares[y], weight, binarize)
        else:
            _add_row(total[y, x1:x2], upper, lower, row_shares[y], weight)


@compiled(parallel=False)
def _store(total: Any, threshold: Any, out: Any) -> None:
    """Store a band: its averages in a float buffer, or whether they reach the threshold in a byte buffer."""
    width = total.shape[1]
    for y in range(total.shape[0]):
        line, target = total[y], out[y * width : (y + 1) * width]
        if out.itemsize == 4:
            for x in range(width):
                target[x] = line[x]
        else:
            for x in range(width):
                target[x] = line[x] >= threshold


@compiled(parallel=True)
def _vote(
    masks: Any,
    boxes: Any,
    index: Any,
    weights: Any,
    bands: Any,
    rects: Any,
    starts: Any,
    offsets: Any,
    threshold: Any,
    binarize: Any,
    binary: bool,
    workers: int,
    out: Any,
) -> None:
    m = masks.shape[1]
    for worker in prange(workers):
        for b in range(worker, bands.shape[0], workers):  # sorted by cost and dealt like cards
            s, first, last = bands[b, 0], bands[b, 1], bands[b, 2]
            x, y, width = rects[s, 0], rects[s, 1] + first, rects[s, 2] - rects[s, 0]
            total = np.zeros((last - first, width), np.float32)
            scratch = (
                np.empty((m, width), np.float32),
                np.empty(width, np.int64),
                np.empty(width, np.float32),
                np.empty(last - first, np.int64),
                np.empty(last - first, np.float32),
            )
            for v in range(starts[s], starts[s + 1]):
                mask = index[v]
                _add_vote(total, masks[mask], boxes[mask], weights[v], (x, y), binarize, binary, scratch)
            begin = offsets[s] + first * width
            _store(total, threshold, out[begin : begin + total.size])


@compiled(parallel=False)
def _extent(crop: Any) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right, half-open) around the ones of a crop [h, w]. Pixels inside
    the extent found so far are skipped.
    """
    height, width = crop.shape
    top, bottom = 0, height
    while top < height and not crop[top].any():
        top += 1
    while bottom > top and not crop[bottom - 1].any():
        bottom -= 1
    left, right = width, 0
    for y in range(top, bottom):
        x = 0
        while x < left and crop[y, x] == 0:
            x += 1
        left = x
        x = width
        while x > right and crop[y, x - 1] == 0:
            x -= 1
        right = x
    return top, bottom, left, right


@compiled(parallel=True)
def _extents(pixels: Any, rects: Any, out: Any) -> None:
    areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    ends = np.cumsum(areas)
    for s in prange(rects.shape[0]):
        out[s] = 0
        if areas[s] > 0:
            crop = pixels[ends[s] - areas[s] : ends[s]].reshape(-1, rects[s, 2] - rects[s, 0])
            top, bottom, left, right = _extent(crop)
            if bottom > top:
                out[s, 0], out[s, 1] = rects[s, 0] + left, rects[s, 1] + top
                out[s, 2], out[s, 3] = rects[s, 0] + right, rects[s, 1] + bottom
