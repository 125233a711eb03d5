"""Triton kernels of the position-sensitive operators; `operators.py` launches them.

The memory layout is that of `numba/kernels.py`: maps `[N, H, W, k, k, (2,) C]`, contiguous, so the classes of
a cell are neighbours, and so are positions (`geometry.py`) along x. Sums are float32; offsets into maps are
64-bit.

Gradients gather: every position of the map adds up the windows that cover it, instead of every window adding
to its cells atomically. The sums have a fixed order, so results are reproducible. Every gradient is written
once, in the maps' type, without a float32 copy, and no atomic additions are needed.
"""

# Kernel arguments have no Python types: Triton infers them at launch.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from instancefcn.ops.triton.geometry import first_point, is_finite, is_image, on_map, overlap, point_position


@triton.jit
def average(
    maps, windows, positions, shares, counts, out,
    rois, images, height, width, channels, reserved,
    K: tl.constexpr, PAIRED: tl.constexpr, SPLIT: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """maps [N, H, W, k, k, (2,) C] -> out float32 [SPLIT, R, C]: summed over SPLIT, the windows' averages.

    One program takes every SPLIT-th row slot of a window, so that large windows do not delay the rest.
    """
    r, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    depth = channels * 2 if PAIRED else channels
    image = tl.minimum(tl.maximum(tl.load(windows + r * 5), 0.0), images - 1.0).to(tl.int64)
    rows, columns = tl.load(counts + r * 2), tl.load(counts + r * 2 + 1)
    total = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    for t in range(split, rows, SPLIT):
        position_y = tl.load(positions + r * 2 * reserved + t)
        share_y = tl.load(shares + r * 2 * reserved + t)
        line = ((image * height + position_y // K) * width * K + position_y % K) * K * depth
        for begin in range(0, columns, BLOCK_X):
            x = begin + tl.arange(0, BLOCK_X)
            table = (r * 2 + 1) * reserved + x
            share = tl.load(shares + table, mask=x < columns, other=0.0) * share_y
            position = tl.load(positions + table, mask=x < columns, other=0).to(tl.int64)
            offsets = line + (position // K * K * K + position % K) * depth
            pointers = maps + offsets[:, None] + c[None, :]
            wanted = (share != 0.0)[:, None] & (c < channels)[None, :]
            value = tl.load(pointers, mask=wanted, other=0.0).to(tl.float32)
            if PAIRED:
                inside = tl.load(pointers + channels, mask=wanted, other=0.0).to(tl.float32)
                value = tl.where((inside > value) | (inside != inside), inside, value)
            total += share[:, None] * value
    # Not `rois.to(...)`: Triton compiles an argument that is 1 as a Python constant.
    tl.store(out + (split.to(tl.int64) * rois + r) * channels + c, tl.sum(total, 0), mask=c < channels)


@triton.jit
def average_backward(
    grad, maps, windows, starts, lists, counts, out,
    rois, height, width, channels,
    K: tl.constexpr, PAIRED: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad [R, C] -> out like maps [N, H, W, k, k, (2,) C]; PAIRED: to the larger map, on a tie to outside.

    A program owns BLOCK_X positions along x. It adds BLOCK_R windows at a time, as a matrix product of their
    shares [BLOCK_X, BLOCK_R] and their gradients [BLOCK_R, BLOCK_C].
    """
    entry = tl.program_id(0).to(tl.int64)
    n, line = entry // (height * K), entry % (height * K)
    row, part_y = line // K, line % K
    position = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)
    column, part_x = position // K, position % K
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin, count = tl.load(starts + n), tl.load(counts + entry)
    total = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    for first in range(0, count, BLOCK_R):
        own = first + tl.arange(0, BLOCK_R)
        r = tl.load(lists + line * rois + begin + own, mask=own < count, other=0).to(tl.int64)
        x1, y1 = tl.load(windows + r * 5 + 1), tl.load(windows + r * 5 + 2)
        x2, y2 = tl.load(windows + r * 5 + 3), tl.load(windows + r * 5 + 4)
        area = on_map(x1, x2, width) * on_map(y1, y2, height)
        share_y = overlap(y1 + (y2 - y1) * part_y / K, y1 + (y2 - y1) * (part_y + 1) / K, row)
        share_y = tl.where((own < count) & (area > 0.0), share_y / tl.where(area > 0.0, area, 1.0), 0.0)
        step = (x2 - x1)[None, :]
        left, right = x1 + step * part_x[:, None] / K, x1 + step * (part_x[:, None] + 1) / K
        shares = (overlap(left, right, column[:, None]) * share_y[None, :]).to(tl.float32)
        wanted = (own < count)[:, None] & (c < channels)[None, :]
        sent = tl.load(grad + r[:, None] * channels + c[None, :], mask=wanted, other=0.0).to(tl.float32)
        total = tl.dot(shares, sent, total, input_precision="ieee")  # TF32 has only 3 digits
    depth = channels * 2 if PAIRED else channels
    offsets = (((n * height + row) * width + column) * K * K + part_y * K + part_x) * depth
    offsets = offsets[:, None] + c[None, :]
    wanted = (column < width)[:, None] & (c < channels)[None, :]
    if PAIRED:
        outside = tl.load(maps + offsets, mask=wanted, other=0.0).to(tl.float32)
        inside = tl.load(maps + offsets + channels, mask=wanted, other=0.0).to(tl.float32)
        is_inside = (inside > outside) | (inside != inside)
        tl.store(out + offsets, tl.where(is_inside, 0.0, total), mask=wanted)
        tl.store(out + offsets + channels, tl.where(is_inside, total, 0.0), mask=wanted)
    else:
        tl.store(out + offsets, total, mask=wanted)


@triton.jit
def mask_logits(
    maps, windows, labels, out,
    images, height, width, channels, size,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """maps [N, H, W, k, k, 2, C], labels int64 [R] -> out [R, m, m]; NaN where a window is not finite or its
    image or label does not exist.
    """
    r = tl.program_id(0).to(tl.int64)
    image, label = tl.load(windows + r * 5), tl.load(labels + r)
    x1, y1 = tl.load(windows + r * 5 + 1), tl.load(windows + r * 5 + 2)
    x2, y2 = tl.load(windows + r * 5 + 3), tl.load(windows + r * 5 + 4)
    known = is_image(image, images) & (label >= 0) & (label < channels)
    known = known & is_finite(x1) & is_finite(x2) & is_finite(y1) & is_finite(y2)
    x1, x2 = tl.where(known, x1, 0.0), tl.where(known, x2, 0.0)
    y1, y2 = tl.where(known, y1, 0.0), tl.where(known, y2, 0.0)
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    a, b = number // size, number % size
    y, x = point_position(y1, y2, a, size, height), point_position(x1, x2, b, size, width)
    i, j = tl.floor(y).to(tl.int64), tl.floor(x).to(tl.int64)
    share_y, share_x = (y - i).to(tl.float32), (x - j).to(tl.float32)
    part = (2 * a + 1) * K // (2 * size) * K + (2 * b + 1) * K // (2 * size)
    first = maps + tl.where(known, image, 0.0).to(tl.int64) * height * width * K * K * 2 * channels
    first += part.to(tl.int64) * 2 * channels + tl.where(known, label, 0)
    cell = K * K * 2 * channels
    right = tl.minimum(j + 1, width - 1)
    wanted = number < tl.where(known, size * size, 0)
    above, below = first + i * width * cell, first + tl.minimum(i + 1, height - 1) * width * cell
    upper = difference(above + j * cell, channels, wanted) * (1.0 - share_x)
    upper += difference(above + right * cell, channels, wanted) * share_x
    lower = difference(below + j * cell, channels, wanted) * (1.0 - share_x)
    lower += difference(below + right * cell, channels, wanted) * share_x
    value = upper * (1.0 - share_y) + lower * share_y
    tl.store(out + r * size * size + number, tl.where(known, value, float("nan")), mask=number < size * size)


@triton.jit
def difference(outside, channels, wanted):
    """Inside - outside, in float32."""
    inside = tl.load(outside + channels, mask=wanted, other=0.0).to(tl.float32)
    return inside - tl.load(outside, mask=wanted, other=0.0).to(tl.float32)


@triton.jit
def mask_logits_backward(
    grad, windows, labels, starts, lists, counts, out,
    rois, height, width, channels, size,
    K: tl.constexpr, POINTS: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """grad [R, m, m] -> out [N, H, W, k, k, 2, C]; a part has at most POINTS points along a side."""
    entry = tl.program_id(0).to(tl.int64)
    n, line = entry // (height * K), entry % (height * K)
    row, part_y = line // K, line % K
    position = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)
    column, part_x = position // K, position % K
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin, count = tl.load(starts + n), tl.load(counts + entry)
    first_a, first_b = first_point(part_y, size, K), first_point(part_x, size, K)
    end_a, end_b = first_point(part_y + 1, size, K), first_point(part_x + 1, size, K)
    total = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    for own in range(count):
        r = tl.load(lists + line * rois + begin + own).to(tl.int64)
        x1, y1 = tl.load(windows + r * 5 + 1), tl.load(windows + r * 5 + 2)
        x2, y2 = tl.load(windows + r * 5 + 3), tl.load(windows + r * 5 + 4)
        sent = tl.zeros([BLOCK_X], tl.float32)
        for s in range(POINTS):
            a = first_a + s
            share_y = tl.maximum(1.0 - tl.abs(point_position(y1, y2, a, size, height) - row), 0.0)
            share_y = tl.where(a < end_a, share_y, 0.0)
            for t in range(POINTS):
                b = first_b + t
                share_x = tl.maximum(1.0 - tl.abs(point_position(x1, x2, b, size, width) - column), 0.0)
                share = tl.where(b < end_b, share_y * share_x, 0.0).to(tl.float32)
                value = tl.load(grad + (r * size + a) * size + b, mask=share > 0.0, other=0.0)
                sent += share * value.to(tl.float32)
        total += tl.where(c[None, :] == tl.load(labels + r), sent[:, None], 0.0)
    offsets = (((n * height + row) * width + column) * K * K + part_y * K + part_x) * 2 * channels
    offsets = offsets[:, None] + c[None, :]
    wanted = (column < width)[:, None] & (c < channels)[None, :]
    tl.store(out + offsets, -total, mask=wanted)
    tl.store(out + offsets + channels, total, mask=wanted)
