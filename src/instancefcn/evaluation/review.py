"""Sheets of pictures, truth beside prediction, from the worst to the best: what the figures mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.evaluation.encoded import Predictions
from instancefcn.evaluation.sheets import compare
from instancefcn.geometry.outlines import to_rle

SHEET = 10
"""Pictures in one sheet."""
SHOWN = 0.5
"""Score from which a prediction counts and is drawn: what a person sees in `predict`."""


def write_review(dataset: Dataset, found: Mapping[int, Predictions], folder: Path) -> None:
    """Write worst.png and typical.png: the ten worst pictures, and ten evenly spread over the ranking."""
    if not len(dataset):
        return
    qualities = [quality(picture, found[picture.id]) for picture in dataset.pictures]
    ranking = np.argsort(qualities, kind="stable").tolist()
    compare(dataset.subset(ranking[:SHEET]), dict(found), folder / "worst.png", SHEET, SHOWN)
    spread = [ranking[i] for i in np.linspace(0, len(ranking) - 1, min(SHEET, len(ranking))).astype(int)]
    compare(dataset.subset(spread), dict(found), folder / "typical.png", SHEET, SHOWN)


def quality(picture: ImageRecord, instances: Predictions) -> float:
    """Panoptic quality of one picture, 0 to 1: the sum of the mask IoUs of matched pairs (over 0.5, same
    class), divided by the mean of the numbers of objects and predictions. 1 where there is nothing to find
    and nothing was found.
    """
    from faster_coco_eval.core import mask as coco_mask

    shown = instances.filter(SHOWN)
    truth = [a for a in picture.annotations if not a.crowd]
    if not truth and not len(shown):
        return 1.0
    if not truth or not len(shown):
        return 0.0
    outlines = [to_rle(a.segmentation, picture.height, picture.width) for a in truth]
    iou = np.asarray(coco_mask.iou(shown.rles(), outlines, [0] * len(truth))).reshape(len(shown), len(truth))
    same = shown.labels.numpy()[:, None] == np.array([a.label for a in truth])[None, :]
    iou = np.where(same, iou, 0.0)
    matched = 0.0
    # Masks may overlap here, so pairs are taken greedily instead of being unique by themselves.
    while iou.size and iou.max() > 0.5:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        matched += float(iou[i, j])
        iou[i, :], iou[:, j] = 0.0, 0.0
    return matched / (0.5 * (len(truth) + len(shown)))
