"""The connected parts of a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def part_numbers(crop: NDArray[Any]) -> NDArray[np.int64]:
    """The number of each pixel's part, [H, W]: 0 outside the mask, 1, 2, .. for its parts from the top.

    Pixels that touch, even at a corner only, are of one part.

    Args:
        crop: [H, W], 0 outside the mask.
    """
    mask = np.pad(crop != 0, ((0, 0), (1, 1)))
    rows, edges = np.nonzero(mask[:, 1:] != mask[:, :-1])
    rows, starts, stops = rows[0::2], edges[0::2], edges[1::2]  # the runs of pixels, row by row
    # The runs in the next row that touch a run follow each other.
    width = mask.shape[1]
    first = np.searchsorted(rows * width + stops, (rows + 1) * width + starts, "left")
    last = np.searchsorted(rows * width + starts, (rows + 1) * width + stops, "right")
    below = zip(range(len(rows)), first.tolist(), last.tolist(), strict=True)
    touching = ((run, other) for run, begin, end in below for other in range(begin, end))
    _, of_runs = np.unique(_roots(len(rows), touching), return_inverse=True)
    numbers = np.zeros(crop.shape, np.int64)
    numbers[mask[:, 1:-1]] = np.repeat(of_runs + 1, stops - starts)
    return numbers


def _roots(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest node that each of `count` nodes is connected to."""
    parents = list(range(count))

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for a, b in edges:
        a, b = root(a), root(b)
        parents[max(a, b)] = min(a, b)
    return [root(node) for node in range(count)]
