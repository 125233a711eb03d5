"""VOC's mAP^r: average precision of masks at one IoU, by the 11-point rule of the SDS protocol (Hariharan et
al., ECCV 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.data.dataset import Dataset
from instancefcn.evaluation.predictions import Predictions
from instancefcn.geometry.outlines import to_rle


def voc_map(
    dataset: Dataset, found: Mapping[int, Predictions], thresholds: Sequence[float] = (0.5, 0.7)
) -> dict[float, float | None]:
    """mAP^r at each IoU threshold: the mean over the classes that have objects; None when none has.

    Per class, detections are taken by score. A detection is true when the best IoU of its mask with an object
    of its class in the image reaches the threshold and that object is not taken yet. The best object is
    chosen whether it is taken or not, so a second hit is false. No object counts as difficult; crowd regions
    do not count as objects.

    Args:
        dataset: the truth.
        found: image id to instances; a missing image counts as empty.
        thresholds: mask IoU, 0 to 1.
    """
    labels = sorted({a.label for p in dataset.images for a in p.annotations if not a.crowd})
    matches = {label: _best_matches(dataset, found, label) for label in labels}
    result: dict[float, float | None] = {}
    for threshold in thresholds:
        values = [_average_precision(*matches[label], threshold) for label in labels]
        result[threshold] = float(np.mean(values)) if values else None
    return result


def _best_matches(
    dataset: Dataset, found: Mapping[int, Predictions], label: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[Any], int]:
    """Scores, best IoUs and best objects (image id, index) of one class's detections, best score first; and
    the number of objects.
    """
    from faster_coco_eval.core import mask as coco_mask

    scores: list[float] = []
    overlaps: list[float] = []
    objects: list[tuple[int, int]] = []
    count = 0
    for image in dataset.images:
        truth = [
            to_rle(a.segmentation, image.height, image.width)
            for a in image.annotations
            if a.label == label and not a.crowd
        ]
        count += len(truth)
        instances = found.get(image.id)
        if instances is None or not len(instances):
            continue
        chosen = instances[instances.labels == label]
        if not len(chosen):
            continue
        iou = np.zeros((len(chosen), 0))
        if truth:
            iou = np.asarray(coco_mask.iou(chosen.rles(), truth, [0] * len(truth))).reshape(
                len(chosen), len(truth)
            )
        scores += chosen.scores.tolist()
        overlaps += (iou.max(1) if truth else np.zeros(len(chosen))).tolist()
        objects += [
            (image.id, int(best)) for best in (iou.argmax(1) if truth else np.zeros(len(chosen), int))
        ]
    order = np.argsort(-np.asarray(scores), kind="stable")
    return np.asarray(scores)[order], np.asarray(overlaps)[order], [objects[i] for i in order], count


def _average_precision(
    scores: NDArray[np.float64],
    overlaps: NDArray[np.float64],
    objects: list[tuple[int, int]],
    count: int,
    threshold: float,
) -> float:
    """The mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or above."""
    taken: set[tuple[int, int]] = set()
    hits = np.zeros(len(scores))
    for i, (overlap, which) in enumerate(zip(overlaps, objects, strict=True)):
        if overlap >= threshold and which not in taken:
            taken.add(which)
            hits[i] = 1
    true = np.cumsum(hits)
    recall, precision = true / max(count, 1), true / np.arange(1, len(scores) + 1)
    # A recall of 3/10 must reach the point 0.3 in spite of rounding.
    reached = [precision[recall >= point - 1e-9] for point in np.arange(11) / 10]
    return float(np.mean([part.max() if len(part) else 0.0 for part in reached]))
