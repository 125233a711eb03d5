"""Where windows lie on the map: Triton functions for the kernels, and two kernels that make tables.

Windows are float64 rows `batch, x1, y1, x2, y2` in map cells, and edges are computed in float64, as in
`numba/kernels.py`. A pair (cell, part) along an axis is one number, its *position*: cell * k + part.
"""

# Kernel arguments have no Python types: Triton infers them at launch.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def is_finite(value):
    """Whether `value` is finite; comparing a NaN is false."""
    return tl.abs(value) < float("inf")


@triton.jit
def is_image(image, images):
    """Whether a batch index (a float) is an integer from 0 to images - 1."""
    return (image >= 0) & (image < images) & (image == tl.floor(image))


@triton.jit
def overlap(low, high, cell):
    """Length of [low, high) inside [cell, cell + 1)."""
    return tl.maximum(tl.minimum(high, cell + 1.0) - tl.maximum(low, cell * 1.0), 0.0)


@triton.jit
def on_map(start, end, cells):
    """Length of [start, end) that lies on a map of `cells` cells."""
    return tl.maximum(tl.minimum(end, cells * 1.0) - tl.maximum(start, 0.0), 0.0)


@triton.jit
def first_point(part, size, K: tl.constexpr):
    """The first of `size` points along a side that lies in `part`.

    Point a is in part floor((a + 0.5) * k / size).
    """
    return (2 * size * part + K - 1) // (2 * K)


@triton.jit
def point_position(start, end, point, size, cells):
    """Where a point of a window's grid is read, in units of cell centres, clamped to the map."""
    position = start + (end - start) * (point.to(tl.float64) + 0.5) / size - 0.5
    return tl.minimum(tl.maximum(position, 0.0), cells - 1.0)


@triton.jit
def slots(
    windows, positions, shares, counts, images, height, width, reserved, K: tl.constexpr, BLOCK: tl.constexpr
):
    """windows [R, 5] -> positions, shares [R, 2, reserved], counts [R, 2]; first for y, then for x.

    The borders of cells and parts cut a window's side into pieces, its slots: each has a position and a share
    of the side's length on the map. From one slot to the next either the cell or the part advances by one, so
    cell + part numbers them. Where both borders coincide, the slot in between is empty and its share is 0. A
    window that is not finite or has no image has one slot, whose share is NaN.
    """
    r, axis = tl.program_id(0), tl.program_id(1)
    cells = tl.where(axis == 0, height, width)
    image = tl.load(windows + r * 5)
    start, end = tl.load(windows + r * 5 + 2 - axis), tl.load(windows + r * 5 + 4 - axis)
    known = is_image(image, images) & is_finite(start) & is_finite(end)
    start, end = tl.where(known, start, 0.0), tl.where(known, end, 0.0)
    span = end - start
    low, high = tl.maximum(start, 0.0), tl.minimum(end, cells * 1.0)
    length = on_map(start, end, cells)

    number = tl.arange(0, BLOCK)
    first_part, last_part, part = 0, 0, tl.zeros_like(number)
    for q in range(1, K):  # the borders between parts
        border = start + span * q / K
        first_part += (border <= low).to(tl.int32)
        last_part += (border < high).to(tl.int32)
    first_cell = tl.where(length > 0, tl.floor(low), 0.0).to(tl.int32)
    last_cell = tl.where(length > 0, tl.ceil(high), 1.0).to(tl.int32) - 1
    slot = number + first_cell + first_part
    for q in range(1, K):
        border = tl.minimum(tl.maximum(start + span * q / K, 0.0), cells * 1.0)
        part += (tl.floor(border).to(tl.int32) + q <= slot).to(tl.int32)
    cell = slot - part
    left, right = start + span * part / K, start + span * (part + 1) / K
    count = tl.where(length > 0, last_cell + last_part - first_cell - first_part + 1, 0)
    share = overlap(left, right, cell) / tl.where(length > 0, length, 1.0)
    share = tl.where((cell < cells) & (number < count), share, 0.0)
    share = tl.where(known, share, float("nan"))
    table = (r.to(tl.int64) * 2 + axis) * reserved + number
    tl.store(positions + table, tl.where(known, cell * K + part, 0), mask=number < reserved)
    tl.store(shares + table, share.to(tl.float32), mask=number < reserved)
    tl.store(counts + r * 2 + axis, tl.where(known, count, 1))


@triton.jit
def covering(
    windows, order, starts, lists, counts, rois, height, size,
    K: tl.constexpr, POINTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """For every image and position along y, the windows that cover it: lists [H * k, R], counts [N, H * k].

    Windows are sorted by image: those of image n are `order[starts[n]:starts[n + 1]]`, and their section of a
    list begins at starts[n]. With POINTS, a window covers the cells that its grid points read, otherwise the
    cells it overlaps.
    """
    n, line = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cell, part = line // K, line % K
    begin, end = tl.load(starts + n), tl.load(starts + n + 1)
    found = 0
    for first in range(begin, end, BLOCK):
        own = first + tl.arange(0, BLOCK)
        r = tl.load(order + own, mask=own < end, other=0)
        y1 = tl.load(windows + r * 5 + 2, mask=own < end, other=0.0)
        y2 = tl.load(windows + r * 5 + 4, mask=own < end, other=0.0)
        if POINTS:
            upper, lower = first_point(part, size, K), first_point(part + 1, size, K) - 1
            one = point_position(y1, y2, upper, size, height)
            other = point_position(y1, y2, lower, size, height)
            covers = (tl.minimum(one, other) < cell + 1.0) & (tl.maximum(one, other) + 1.0 > cell)
            covers = covers & (own < tl.where(upper <= lower, end, begin))  # a part may have no point
        else:
            covers = overlap(y1 + (y2 - y1) * part / K, y1 + (y2 - y1) * (part + 1) / K, cell) > 0.0
        covers = ((own < end) & covers).to(tl.int32)
        position = begin + found + tl.cumsum(covers, 0) - 1
        tl.store(lists + line.to(tl.int64) * rois + position, r, mask=covers != 0)
        found += tl.sum(covers, 0)
    tl.store(counts + n * height * K + line, found)
