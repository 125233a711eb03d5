"""Find images that look nearly the same, by the gradients of their thumbnails."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SAME = 0.96
"""Minimum correlation of the gray gradients of two thumbnails of near duplicates."""
FLAT = 1.0
"""Thumbnails with weaker gradients (gray levels, root mean square) are not compared."""
_ROWS, _COLUMNS = 256, 4096
"""Numbers of thumbnails compared at once."""


def near_pairs(
    thumbs: NDArray[np.uint8], splits: NDArray[np.int64], files: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Pairs a < b of near duplicates, ascending.

    For each b, the first such a of its own split; for each a, the first such b of each later split. That is
    at most one pair per image and split. All pairs of many similar images would not fit into memory.

    Args:
        thumbs: uint8 [N, s, s], N at least 1.
        splits: [N], the split of each, numbered from 0 and ascending.
        files: [N], equal for images of equal files, which are not paired.
    """
    before = np.full(len(thumbs), -1)
    later = np.full((len(thumbs), int(splits.max()) + 1), -1)
    for rows, columns, alike in _blocks(thumbs):
        alike &= files[rows, None] != files[columns]
        # Rows and columns ascend, so the first one found is the first one.
        own = alike & (splits[rows, None] == splits[columns])
        new = own.any(0) & (before[columns] < 0)
        before[columns[new]] = rows[own.argmax(0)[new]]
        alike &= ~own
        for split in np.unique(splits[columns]):
            matches = alike & (splits[columns] == split)
            fresh = matches.any(1) & (later[rows, split] < 0)
            later[rows[fresh], split] = columns[matches.argmax(1)[fresh]]
    (second,) = np.nonzero(before >= 0)
    first, split = np.nonzero(later >= 0)
    within = zip(before[second].tolist(), second.tolist(), strict=True)
    across = zip(first.tolist(), later[first, split].tolist(), strict=True)
    return sorted([*within, *across])


def near_groups(thumbs: NDArray[np.uint8], files: NDArray[np.int64]) -> NDArray[np.int64]:
    """The group of each thumbnail: its near duplicates, their near duplicates, and so on.

    Args:
        thumbs: uint8 [N, s, s].
        files: [N], equal for images of equal files, which are in one group.

    Returns:
        [N], one number per thumbnail, equal within a group.
    """
    group = files.copy()
    for rows, columns, alike in _blocks(thumbs):
        for row in np.flatnonzero(alike.any(1)):
            joined = np.unique(np.append(group[columns[alike[row]]], group[rows[row]]))
            if len(joined) > 1:
                group[np.isin(group, joined)] = joined[0]
    return group


def _blocks(
    thumbs: NDArray[np.uint8],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
    """Blocks (rows, columns, alike) of all pairs row < column, without blocks in which no pair is alike."""
    steps = _directions(thumbs)
    count = len(steps)
    for top in range(0, count, _ROWS):
        rows = np.arange(top, min(top + _ROWS, count))
        for left in range(top, count, _COLUMNS):
            columns = np.arange(left, min(left + _COLUMNS, count))
            alike = (steps[rows] @ steps[columns].T >= SAME) & (rows[:, None] < columns)
            if alike.any():
                yield rows, columns, alike


def _directions(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The gradients of each thumbnail, divided by their length; zeros for flat thumbnails."""
    gray = thumbs.astype(np.float32)
    steps = np.concatenate(
        [np.diff(gray, axis=2).reshape(len(gray), -1), np.diff(gray, axis=1).reshape(len(gray), -1)], axis=1
    )
    strength = np.sqrt((steps**2).mean(1))
    length = np.where(strength < FLAT, np.inf, np.sqrt((steps**2).sum(1)))
    steps /= length[:, None]
    return steps
