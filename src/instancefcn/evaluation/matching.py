"""How many objects are found, missed and invented: the measure of cell and nucleus segmentation.

At an IoU threshold t an object and a detection that overlap by more than t are a match, and the score of an
image is TP / (TP + FP + FN) (Caicedo et al., Nature Methods 2019, for the 2018 Data Science Bowl; StarDist
and Cellpose report the same as "average precision"). Both sides are label maps, in which no pixel belongs to
two objects, so nothing can match twice from t = 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(9))
"""0.5, 0.55, ..., 0.9."""


@dataclass(frozen=True)
class Matches:
    """Of one image, or of several together, at every threshold.

    Attributes:
        found, made_up, missed: true positives, false positives and false negatives, int64 [T].
    """

    found: NDArray[np.int64]
    made_up: NDArray[np.int64]
    missed: NDArray[np.int64]

    @property
    def score(self) -> NDArray[np.float64]:
        """float64 [T], TP / (TP + FP + FN); 1 where there are no objects and no detections."""
        total = self.found + self.made_up + self.missed
        return np.where(total > 0, self.found / np.maximum(total, 1), 1.0)

    def __add__(self, other: Matches) -> Matches:
        return Matches(self.found + other.found, self.made_up + other.made_up, self.missed + other.missed)


def match(truth: NDArray[Any], found: NDArray[Any], thresholds: Sequence[float] = THRESHOLDS) -> Matches:
    """Compare two label maps of an image.

    Args:
        truth, found: integers [H, W], 0 for background, else the number of the object.
        thresholds: IoU, each at least 0.5.

    Raises:
        ValueError: sizes differ, or a threshold is below 0.5, where matches are not unique.
    """
    if truth.shape != found.shape or truth.ndim != 2:
        raise ValueError(f"label maps must be of one size [H, W], got {truth.shape} and {found.shape}")
    if min(thresholds) < 0.5:
        raise ValueError(f"thresholds must be at least 0.5, got {min(thresholds)}")
    objects, truth = np.unique(truth, return_inverse=True)
    detections, found = np.unique(found, return_inverse=True)
    pairs = truth.reshape(-1) * len(detections) + found.reshape(-1)
    common = np.bincount(pairs, minlength=len(objects) * len(detections))
    common = common.reshape(len(objects), len(detections))
    union = common.sum(1)[:, None] + common.sum(0)[None] - common
    overlap = (common / union)[objects != 0][:, detections != 0]
    hits = np.array([(overlap > threshold).sum() for threshold in thresholds], dtype=np.int64)
    return Matches(hits, overlap.shape[1] - hits, overlap.shape[0] - hits)


def mean_score(images: Iterable[Matches]) -> NDArray[np.float64]:
    """float64 [T]: the mean of the images' scores, with equal weights."""
    return np.mean([image.score for image in images], axis=0)
