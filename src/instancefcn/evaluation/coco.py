"""Average precision of masks and boxes by COCO's definition, computed by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.evaluation.predictions import Predictions
from instancefcn.geometry.outlines import to_rle

Kind = Literal["mask", "box"]
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds that AP is the mean over."""
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""COCO's ranges of an object's area in pixels, both ends included: all, small, medium, large."""
IOU_TYPES: dict[Kind, str] = {"mask": "segm", "box": "bbox"}
"""COCO's names of masks and boxes."""
RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read."""
MAX_DETECTIONS = 100
"""Of each class in an image only this many, the best, count."""


@dataclass(frozen=True, eq=False)
class CocoResult:
    """COCO's figures of masks or boxes.

    Attributes:
        summary: AP, AP50, AP75, APs, APm, APl (0 to 1); None where the data holds no such object.
        per_class: AP, AP50 and AP75 of every class that has objects, by name.
        precision: float [T, 101, C]: precision at 101 recalls (0 to 1) for every threshold and class, all
            areas, 100 detections per image; nan for a class without objects.
    """

    summary: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    precision: NDArray[np.float64]


class CocoScorer:
    """Compares predictions with the annotations of one dataset.

    Args:
        dataset: the truth; crowd regions are neither found nor missed, as in COCO.
    """

    def __init__(self, dataset: Dataset) -> None:
        from faster_coco_eval import COCO

        self.dataset = dataset
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = COCO(ground_truth(dataset))

    def score(self, found: Mapping[int, Predictions], kind: Kind) -> CocoResult:
        """Measures of `found` (image id to instances); a missing image counts as empty."""
        from faster_coco_eval import COCOeval_faster

        rows = [
            row
            for id_, number in numbers(self.dataset).items()
            if id_ in found
            for row in found[id_].to_coco(number)
        ]
        if kind == "mask":
            # COCO's tools measure a detection by its box when it has one; a mask counts by its own area.
            for row in rows:
                del row["bbox"]
        if not rows or not objects(self.dataset):
            return self._nothing_found()
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval_faster(self._truth, self._truth.loadRes(rows), IOU_TYPES[kind])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # precision is [threshold, recall, class, area, detections]: all areas, 100 detections.
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1].astype(np.float64)
        precision[precision < 0] = np.nan
        summary = {name: _defined(value) for name, value in zip(NAMES, evaluation.stats[:6], strict=True)}
        return CocoResult(summary, self._per_class(precision), precision)

    def _per_class(self, precision: NDArray[np.float64]) -> dict[str, dict[str, float | None]]:
        figures: dict[str, dict[str, float | None]] = {}
        for label, name in enumerate(self.dataset.class_names):
            of_class = precision[:, :, label]
            if not np.isnan(of_class).all():
                figures[name] = {
                    "AP": float(of_class.mean()),
                    "AP50": float(of_class[0].mean()),
                    "AP75": float(of_class[5].mean()),
                }
        return figures

    def _nothing_found(self) -> CocoResult:
        """The figures of an empty list, which COCO's tools refuse: zero where there are objects, undefined
        elsewhere.
        """
        limits = dict(zip(NAMES[3:], AREAS[1:], strict=True))
        existing = objects(self.dataset)
        summary: dict[str, float | None] = {}
        for name in NAMES:
            low, high = limits.get(name, AREAS[0])
            summary[name] = 0.0 if any(low <= area <= high for _, area in existing) else None
        precision = np.full((len(THRESHOLDS), 101, len(self.dataset.class_names)), np.nan)
        for label in {label for label, _ in existing}:
            precision[:, :, label] = 0.0
        return CocoResult(summary, self._per_class(precision), precision)


def ground_truth(dataset: Dataset) -> dict[str, Any]:
    """The dataset as a COCO document, with the dataset's own category ids, image ids from `numbers`, and
    outlines as run-length encodings.
    """
    number_of = numbers(dataset)
    annotations = [
        {
            "id": number,
            "image_id": number_of[image.id],
            "category_id": dataset.category_ids[annotation.label],
            "bbox": _corner_and_sides(annotation.box),
            "area": annotation.area,
            "iscrowd": int(annotation.crowd),
            "segmentation": to_rle(annotation.segmentation, image.height, image.width),
        }
        for number, (image, annotation) in enumerate(_pairs(dataset), start=1)
    ]
    return {
        "info": {},
        "images": [
            {"id": number_of[p.id], "file_name": p.path.name, "height": p.height, "width": p.width}
            for p in dataset.images
        ],
        "categories": [
            {"id": i, "name": name} for i, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ],
        "annotations": annotations,
    }


def numbers(dataset: Dataset) -> dict[int, int]:
    """Image id to 1, 2, .. in the order of the ids, for faster-coco-eval, which does not accept negative ids.
    The order matters because it decides between equal scores.
    """
    ids = sorted(image.id for image in dataset.images)
    return {id_: number for number, id_ in enumerate(ids, start=1)}


def attainable(dataset: Dataset) -> float | None:
    """The AP of perfect predictions, 0 to 1: 1 unless an image holds more than 100 objects of a class, of
    which COCO counts at most 100. None where the data holds no object.
    """
    per_image = Counter((p.id, a.label) for p, a in _pairs(dataset) if not a.crowd)
    existing, counted = Counter[int](), Counter[int]()
    for (_, label), number in per_image.items():
        existing[label] += number
        counted[label] += min(number, MAX_DETECTIONS)
    reached = [np.searchsorted(RECALLS, counted[label] / existing[label], side="right") for label in existing]
    return float(np.mean(reached)) / len(RECALLS) if reached else None


def _pairs(dataset: Dataset) -> list[tuple[ImageRecord, Any]]:
    return [(image, annotation) for image in dataset.images for annotation in image.annotations]


def objects(dataset: Dataset) -> list[tuple[int, float]]:
    """(label, area in pixels) of every annotated object that is not a crowd."""
    return [(a.label, a.area) for _, a in _pairs(dataset) if not a.crowd]


def _corner_and_sides(box: tuple[float, float, float, float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _defined(value: float) -> float | None:
    """COCO writes -1 for "there is no such object"."""
    return None if value < 0 else float(value)
