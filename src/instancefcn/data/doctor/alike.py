"""Which pictures look nearly the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SAME = 0.96
"""Correlation of the gray gradients of two thumbnails from which pictures count as nearly the same."""
FLAT = 1.0
"""Thumbnails whose gradients are weaker than this (gray levels, root mean square) show nothing to compare."""
_BLOCK = 256


def near_pairs(thumbs: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Pairs a < b of thumbnails (uint8 [N, s, s]) whose gradients correlate by SAME or more."""
    gray = thumbs.astype(np.float32)
    steps = np.concatenate(
        [np.diff(gray, axis=2).reshape(len(gray), -1), np.diff(gray, axis=1).reshape(len(gray), -1)], axis=1
    )
    strength = np.sqrt((steps**2).mean(1))
    length = np.where(strength < FLAT, np.inf, np.sqrt((steps**2).sum(1)))
    steps /= length[:, None]
    for start in range(0, len(steps), _BLOCK):
        alike = steps[start : start + _BLOCK] @ steps[start:].T
        first, second = np.nonzero(np.triu(alike >= SAME, 1))
        yield from zip((first + start).tolist(), (second + start).tolist(), strict=True)
