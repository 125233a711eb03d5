"""Numba kernels of the position-sensitive operators, on NumPy arrays.

Maps are `[N, H, W, k, k, (2,) C]`, C-contiguous: the classes of a cell are neighbours, so the inner loop over
them is a vector loop. Windows are float64 rows `batch, x1, y1, x2, y2` in map cells. Nothing is checked here:
`operators.py` prepares the arrays and checks the values.

Results do not depend on the number of threads. Forward kernels are parallel over windows. Backward kernels
are parallel over outputs that no two threads share (rows of the map, or parts), and each output adds its
windows in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import prange


def compiled(parallel: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` with a cache on disk, or without one where no cache folder is writable."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(function, cache=True, parallel=parallel, nogil=True, error_model="numpy")
        except RuntimeError:  # "no locator available": the package and the user's cache folder are read-only
            return numba.njit(function, parallel=parallel, nogil=True, error_model="numpy")

    return decorate


@compiled(parallel=False)
def _on_map(start: float, end: float, cells: int) -> float:
    """Length of [start, end) that lies on a map of `cells` cells."""
    return max(0.0, min(end, float(cells)) - max(start, 0.0))


@compiled(parallel=False)
def _overlap(start: float, end: float, cell: int) -> float:
    """Length of [start, end) inside [cell, cell + 1)."""
    return max(0.0, min(end, cell + 1.0) - max(start, float(cell)))


@compiled(parallel=False)
def _first(start: float, cells: int) -> int:
    """First cell that [start, ...) touches; clamped to the map before rounding, as a far one overflows an
    integer.
    """
    return math.floor(min(max(start, 0.0), float(cells)))


@compiled(parallel=False)
def _last(end: float, cells: int) -> int:
    """One past the last cell that [..., end) touches, clamped to the map."""
    return math.ceil(min(max(end, 0.0), float(cells)))


@compiled(parallel=True)
def class_scores(maps: Any, rois: Any, out: Any) -> None:
    """maps [N, H, W, k, k, 2, C], rois [R, 5] -> out [R, C]."""
    height, width, k, channels = maps.shape[1], maps.shape[2], maps.shape[3], maps.shape[6]
    for r in prange(rois.shape[0]):
        out[r, :] = 0
        n = int(rois[r, 0])
        x1, y1, x2, y2 = rois[r, 1], rois[r, 2], rois[r, 3], rois[r, 4]
        across, down = _on_map(x1, x2, width), _on_map(y1, y2, height)
        if across > 0.0 and down > 0.0:
            for p in range(k):
                top, bottom = y1 + (y2 - y1) * p / k, y1 + (y2 - y1) * (p + 1) / k
                for i in range(_first(top, height), _last(bottom, height)):
                    weight_y = _overlap(top, bottom, i) / down
                    for q in range(k):
                        left, right = x1 + (x2 - x1) * q / k, x1 + (x2 - x1) * (q + 1) / k
                        for j in range(_first(left, width), _last(right, width)):
                            weight = maps.dtype.type(weight_y * _overlap(left, right, j) / across)
                            for c in range(channels):
                                outside, inside = maps[n, i, j, p, q, 0, c], maps[n, i, j, p, q, 1, c]
                                # "inside != inside" lets a NaN through from either map
                                larger = inside if (inside > outside) | (inside != inside) else outside
                                out[r, c] += weight * larger


@compiled(parallel=True)
def ps_average(maps: Any, rois: Any, out: Any) -> None:
    """maps [N, H, W, k, k, D], rois [R, 5] -> out [R, D]."""
    height, width, k, channels = maps.shape[1], maps.shape[2], maps.shape[3], maps.shape[5]
    for r in prange(rois.shape[0]):
        out[r, :] = 0
        n = int(rois[r, 0])
        x1, y1, x2, y2 = rois[r, 1], rois[r, 2], rois[r, 3], rois[r, 4]
        across, down = _on_map(x1, x2, width), _on_map(y1, y2, height)
        if across > 0.0 and down > 0.0:
            for p in range(k):
                top, bottom = y1 + (y2 - y1) * p / k, y1 + (y2 - y1) * (p + 1) / k
                for i in range(_first(top, height), _last(bottom, height)):
                    weight_y = _overlap(top, bottom, i) / down
                    for q in range(k):
                        left, right = x1 + (x2 - x1) * q / k, x1 + (x2 - x1) * (q + 1) / k
                        for j in range(_first(left, width), _last(right, width)):
                            weight = maps.dtype.type(weight_y * _overlap(left, right, j) / across)
                            for c in range(channels):
                                out[r, c] += weight * maps[n, i, j, p, q, c]


@compiled(parallel=False)
def _spread_row(
    grad: Any, rois: Any, n: int, i: int, p: int, k: int, height: int, width: int, row: Any
) -> bool:
    """Add to row [W, k, C] what every window of image n sends to its part row p in map row i.

    Returns False if no window does; `row` is cleared when the first one does.
    """
    found = False
    for r in range(rois.shape[0]):
        if int(rois[r, 0]) == n:
            x1, y1, x2, y2 = rois[r, 1], rois[r, 2], rois[r, 3], rois[r, 4]
            top, bottom = y1 + (y2 - y1) * p / k, y1 + (y2 - y1) * (p + 1) / k
            here = _overlap(top, bottom, i)
            across, down = _on_map(x1, x2, width), _on_map(y1, y2, height)
            if here > 0.0 and across > 0.0 and down > 0.0:
                if not found:
                    row[:] = 0
                    found = True
                for q in range(k):
                    left, right = x1 + (x2 - x1) * q / k, x1 + (x2 - x1) * (q + 1) / k
                    for j in range(_first(left, width), _last(right, width)):
                        weight = grad.dtype.type(here / down * _overlap(left, right, j) / across)
                        for c in range(grad.shape[1]):
                            row[j, q, c] += weight * grad[r, c]
    return found


@compiled(parallel=True)
def class_scores_backward(grad: Any, maps: Any, rois: Any, out: Any) -> None:
    """grad [R, C] -> out like maps [N, H, W, k, k, 2, C]; to the larger map, on a tie to outside."""
    images, height, width, k, channels = (
        maps.shape[0],
        maps.shape[1],
        maps.shape[2],
        maps.shape[3],
        maps.shape[6],
    )
    for line in prange(images * height):
        n, i = line // height, line % height
        row = np.empty((width, k, channels), grad.dtype)
        for p in range(k):
            found = _spread_row(grad, rois, n, i, p, k, height, width, row)
            for j in range(width):
                if not found:
                    out[n, i, j, p] = 0
                    continue
                for q in range(k):
                    for c in range(channels):
                        outside, inside = maps[n, i, j, p, q, 0, c], maps[n, i, j, p, q, 1, c]
                        is_inside = (inside > outside) | (inside != inside)
                        value = row[j, q, c]
                        out[n, i, j, p, q, 0, c] = 0 if is_inside else value
                        out[n, i, j, p, q, 1, c] = value if is_inside else 0


@compiled(parallel=True)
def ps_average_backward(grad: Any, rois: Any, out: Any) -> None:
    """grad [R, D] -> out [N, H, W, k, k, D]."""
    images, height, width, k, channels = out.shape[0], out.shape[1], out.shape[2], out.shape[3], out.shape[5]
    for line in prange(images * height):
        n, i = line // height, line % height
        row = np.empty((width, k, channels), grad.dtype)
        for p in range(k):
            found = _spread_row(grad, rois, n, i, p, k, height, width, row)
            for j in range(width):
                if found:
                    out[n, i, j, p] = row[j]
                else:
                    out[n, i, j, p] = 0


@compiled(parallel=False)
def _corner(start: float, end: float, index: int, size: int, cells: int) -> tuple[int, int, float]:
    """Lower cell, upper cell and the upper one's share at the centre of step `index`, clamped to the map."""
    position = start + (end - start) * (index + 0.5) / size - 0.5
    position = min(max(position, 0.0), cells - 1.0)
    low = math.floor(position)
    return low, min(low + 1, cells - 1), position - low


@compiled(parallel=True)
def mask_logits(maps: Any, rois: Any, labels: Any, out: Any) -> None:
    """maps [N, H, W, k, k, 2, C], rois [R, 5], labels [R] -> out [R, m, m]."""
    height, width, k, size = maps.shape[1], maps.shape[2], maps.shape[3], out.shape[1]
    for r in prange(rois.shape[0]):
        n, c = int(rois[r, 0]), labels[r]
        x1, y1, x2, y2 = rois[r, 1], rois[r, 2], rois[r, 3], rois[r, 4]
        for a in range(size):
            p = (2 * a + 1) * k // (2 * size)
            i0, i1, fy = _corner(y1, y2, a, size, height)
            for b in range(size):
                q = (2 * b + 1) * k // (2 * size)
                j0, j1, fx = _corner(x1, x2, b, size, width)
                upper = (1.0 - fx) * (float(maps[n, i0, j0, p, q, 1, c]) - float(maps[n, i0, j0, p, q, 0, c]))
                upper += fx * (float(maps[n, i0, j1, p, q, 1, c]) - float(maps[n, i0, j1, p, q, 0, c]))
                lower = (1.0 - fx) * (float(maps[n, i1, j0, p, q, 1, c]) - float(maps[n, i1, j0, p, q, 0, c]))
                lower += fx * (float(maps[n, i1, j1, p, q, 1, c]) - float(maps[n, i1, j1, p, q, 0, c]))
                out[r, a, b] = (1.0 - fy) * upper + fy * lower


@compiled(parallel=True)
def mask_logits_backward(grad: Any, rois: Any, labels: Any, out: Any) -> None:
    """Add grad [R, m, m] to out [N, H, W, k, k, 2, C], zeros at first. Each part belongs to one thread."""
    height, width, k, size = out.shape[1], out.shape[2], out.shape[3], grad.shape[1]
    for part in prange(k * k):
        p, q = part // k, part % k
        for r in range(rois.shape[0]):
            n, c = int(rois[r, 0]), labels[r]
            x1, y1, x2, y2 = rois[r, 1], rois[r, 2], rois[r, 3], rois[r, 4]
            for a in range(size):
                if (2 * a + 1) * k // (2 * size) == p:
                    i0, i1, fy = _corner(y1, y2, a, size, height)
                    for b in range(size):
                        if (2 * b + 1) * k // (2 * size) == q:
                            j0, j1, fx = _corner(x1, x2, b, size, width)
                            value = grad[r, a, b]
                            for corner in range(4):
                                i, share_y = (i0, 1.0 - fy) if corner < 2 else (i1, fy)
                                j, share_x = (j0, 1.0 - fx) if corner % 2 == 0 else (j1, fx)
                                amount = grad.dtype.type(share_y * share_x * value)
                                out[n, i, j, p, q, 0, c] -= amount
                                out[n, i, j, p, q, 1, c] += amount
