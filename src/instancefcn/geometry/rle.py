"""COCO's run-length encodings, checked before anything of their size is allocated.

Counts are alternating runs of 0 and 1 down the columns, starting with 0. Compressed counts are a string: each
number (from the fourth on, its difference to the number two before it) is written in groups of five bits,
lowest first, one character per group.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

_LONGEST = 2**31
"""No run of any image is this long; sums of fewer than 2**32 of them fit 64 bits."""


def run_lengths(counts: object) -> NDArray[np.int64]:
    """The runs of an RLE's "counts": a list of integers or the compressed string.

    Raises:
        ValueError: not a valid RLE; the message says why.
    """
    if isinstance(counts, list):
        if not all(isinstance(c, int) and not isinstance(c, bool) and abs(c) < _LONGEST for c in counts):
            raise ValueError("counts are not all integers of a possible size")
        runs = np.array(counts, dtype=np.int64)
    elif isinstance(counts, str | bytes):
        runs = _decompress(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts)
    else:
        raise ValueError("counts are neither a list nor a string")
    if (runs < 0).any():
        raise ValueError("counts hold a negative run")
    if (runs >= _LONGEST).any():
        raise ValueError("counts hold a number beyond any image's size")
    return runs


def _decompress(text: bytes) -> NDArray[np.int64]:
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(groups) == 0:
        return groups
    if (groups < 0).any() or (groups > 63).any() or groups[-1] & 32:
        raise ValueError("counts are not a compressed RLE string")
    last = (groups & 32) == 0
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    digit = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    if digit.max() > 7:  # 8 groups hold 40 bits, more than any image needs
        raise ValueError("counts hold a number beyond any image's size")
    values = np.add.reduceat((groups & 31) << (5 * digit), starts)
    negative = (groups[last] & 16) != 0
    values = np.where(negative, values - (np.int64(1) << (5 * (digit[last] + 1))), values)
    # Before a sum overflows 64 bits it takes a value that no run has: the steps are too small to skip them.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_crop(counts: object, height: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """The pixels of a valid RLE inside its tight box: uint8 [h, w], and the box's upper left corner (x, y).

    Only the object's columns are expanded, so the cost depends on the object and not on the image's width.
    """
    x1, y1, x2, y2 = box(counts, height)
    if x1 == x2:
        return torch.zeros((0, 0), dtype=torch.uint8), (0, 0)
    edges = np.clip(np.cumsum(run_lengths(counts)) - x1 * height, 0, (x2 - x1) * height)
    lengths = np.diff(edges, prepend=0, append=(x2 - x1) * height)
    flat = np.repeat((np.arange(len(lengths)) & 1).astype(np.uint8), lengths)
    pixels = flat.reshape(x2 - x1, height)[:, y1:y2]
    return torch.from_numpy(np.ascontiguousarray(pixels.T)), (x1, y1)


def box(counts: object, height: int) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 around the pixels of a valid RLE, without decoding it; zeros when there are none."""
    ends = np.cumsum(run_lengths(counts))
    starts, stops = ends[0::2][: len(ends) // 2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if len(starts) == 0:
        return 0, 0, 0, 0
    x1, x2 = int(starts[0]) // height, int(stops[-1] - 1) // height + 1
    if (starts // height < (stops - 1) // height).any():  # from the bottom of a column to the top of the next
        return x1, 0, x2, height
    return x1, int((starts % height).min()), x2, int(((stops - 1) % height).max()) + 1
