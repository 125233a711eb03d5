"""Average recall of proposals of any class, for masks and boxes, computed by faster-coco-eval.

AR (Hosang et al.; DeepMask and InstanceFCN report it) is the fraction of the objects that the best N
proposals of each image find, averaged over the IoU thresholds 0.5, 0.55, ..., 0.95.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.data.dataset import Dataset
from instancefcn.evaluation.coco import AREAS, IOU_TYPES, THRESHOLDS, Kind, ground_truth, numbers, objects
from instancefcn.evaluation.predictions import Predictions

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of proposals per image at which recall is measured."""
_FIGURES = {
    "AR@10": (0, 10),
    "AR@100": (0, 100),
    "AR@1000": (0, 1000),
    "ARs": (1, 1000),
    "ARm": (2, 1000),
    "ARl": (3, 1000),
}
"""Each figure's index in AREAS and its number of proposals."""
AR_NAMES = tuple(_FIGURES)


@dataclass(frozen=True, eq=False)
class ProposalResult:
    """The fraction of the objects that the proposals find.

    Attributes:
        summary: AR@10, AR@100, AR@1000, ARs, ARm, ARl (small, medium and large objects, 1000 proposals) of
            masks, and under "box" the same six of boxes. 0 to 1; None where the data holds no such object.
        counts: int64 [M], rising: numbers of proposals per image.
        thresholds: float [T], rising: IoU thresholds, 0 to 1.
        recall: "mask" and "box": float [T, M]: fraction of all objects that are found (0 to 1) at every
            threshold and count; nan when the data holds no object.
    """

    summary: dict[str, Any]
    counts: NDArray[np.int64]
    thresholds: NDArray[np.float64]
    recall: dict[Kind, NDArray[np.float64]]


def measure_proposals(dataset: Dataset, found: Mapping[int, Predictions]) -> ProposalResult:
    """Recall of the best 1 to 1000 instances of every image; classes are ignored on both sides.

    Args:
        dataset: the truth, of any classes; crowd regions are neither found nor missed.
        found: image id to instances in that image's pixels, of any classes, best first; a missing image of
            the dataset counts as empty, other images do not count.
    """
    truth = dataset.as_objects()
    rows = []
    for id_, number in numbers(truth).items():
        if id_ in found:
            # Instances beyond the last count do not matter and are not encoded.
            rows += found[id_][: COUNTS[-1]].to_coco(number)
    for row in rows:
        row["category_id"] = truth.category_ids[0]
    recalls = _recalls(truth, rows)
    summary: dict[str, Any] = {**_figures(recalls["mask"]), "box": _figures(recalls["box"])}
    recall = {kind: values[:, 0] for kind, values in recalls.items()}
    return ProposalResult(summary, np.array(COUNTS, dtype=np.int64), THRESHOLDS.copy(), recall)


def _recalls(truth: Dataset, rows: list[dict[str, Any]]) -> dict[Kind, NDArray[np.float64]]:
    """float [T, A, M] for masks and boxes; nan for a range of AREAS without objects."""
    from faster_coco_eval import COCO, COCOeval_faster

    areas = [area for _, area in objects(truth)]
    if not rows or not areas:
        # COCO's tools refuse empty lists.
        present = [any(low <= area <= high for area in areas) for low, high in AREAS]
        nothing = np.where(np.array(present)[None, :, None], 0.0, np.nan)
        shape = (len(THRESHOLDS), len(AREAS), len(COUNTS))
        return {kind: np.broadcast_to(nothing, shape).copy() for kind in IOU_TYPES}
    recalls: dict[Kind, NDArray[np.float64]] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(ground_truth(truth))
        # One list serves masks and boxes: the size of a proposal, taken from its box, affects precision but
        # not recall.
        results = annotations.loadRes(rows)
        for kind, iou_type in IOU_TYPES.items():
            evaluation = COCOeval_faster(annotations, results, iou_type)
            evaluation.params.useCats = 0
            evaluation.params.maxDets = list(COUNTS)
            evaluation.params.areaRng = [list(limits) for limits in AREAS]
            evaluation.evaluate()
            evaluation.accumulate()
            # recall is [threshold, class, area, detections], -1 without objects.
            recall = np.asarray(evaluation.eval["recall"])[:, 0].astype(np.float64)
            recall[recall < 0] = np.nan
            recalls[kind] = recall
    return recalls


def _figures(recall: NDArray[np.float64]) -> dict[str, float | None]:
    figures: dict[str, float | None] = {}
    for name, (area, count) in _FIGURES.items():
        mean = float(recall[:, area, COUNTS.index(count)].mean())
        figures[name] = None if np.isnan(mean) else mean
    return figures
