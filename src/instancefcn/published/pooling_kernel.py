"""The quantised pooling as a Numba kernel on numpy arrays."""

from __future__ import annotations

import math
from typing import Any

import torch
from numba import prange
from torch import Tensor

from instancefcn.ops.numba.kernels import compiled
from instancefcn.ops.numba.threads import threads


def pooled(maps: Tensor, windows: Tensor, size: int) -> Tensor:
    """`psroi_average_pool` of windows float64 [R, 5] in cells.

    Returns:
        [R, D, size, size], as a view of [R, size, size, D].
    """
    out = torch.empty((len(windows), size, size, maps.shape[3]), dtype=maps.dtype)
    cells = maps.permute(0, 4, 5, 1, 2, 3).contiguous()
    with threads(4 * out.numel()):
        _pool(cells.numpy(), windows.contiguous().numpy(), out.numpy())
    return out.permute(0, 3, 1, 2)


@compiled(parallel=False)
def _bin(start: float, end: float, index: int, size: int, cells: int) -> tuple[int, int]:
    """The cells that bin `index` touches: the first, and one past the last. Clipped to the map before they
    are rounded, as distant ones would overflow an integer.
    """
    step = max(end - start, 0.1) / size
    low, high = index * step + start, (index + 1) * step + start
    return math.floor(min(max(low, 0.0), float(cells))), math.ceil(min(max(high, 0.0), float(cells)))


@compiled(parallel=True)
def _pool(maps: Any, rois: Any, out: Any) -> None:
    """maps [N, H, W, k, k, D], rois [R, 5] -> out [R, m, m, D]."""
    height, width, k, channels, size = (
        maps.shape[1],
        maps.shape[2],
        maps.shape[3],
        maps.shape[5],
        out.shape[1],
    )
    for r in prange(rois.shape[0]):
        n = int(rois[r, 0])
        for a in range(size):
            i0, i1 = _bin(rois[r, 2], rois[r, 4], a, size, height)
            for b in range(size):
                j0, j1 = _bin(rois[r, 1], rois[r, 3], b, size, width)
                out[r, a, b, :] = 0
                for i in range(i0, i1):
                    for j in range(j0, j1):
                        for c in range(channels):
                            out[r, a, b, c] += maps[n, i, j, a * k // size, b * k // size, c]
                count = maps.dtype.type(max((i1 - i0) * (j1 - j0), 1))
                for c in range(channels):
                    out[r, a, b, c] /= count
