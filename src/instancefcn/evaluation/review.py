"""Sheets of images, truth beside prediction, from the worst to the best: what the figures mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.evaluation.predictions import Predictions, decode_instances
from instancefcn.files import atomic_write
from instancefcn.geometry.outlines import to_rle
from instancefcn.images.decoding import read_image
from instancefcn.images.drawing import draw
from instancefcn.instances import Instances

SHEET = 10
"""Images in one sheet."""
SHOWN = 0.5
"""Minimum score of a prediction that counts and is drawn: that of `predict`."""


def write_review(dataset: Dataset, found: Mapping[int, Predictions], folder: Path) -> None:
    """Write worst.png and typical.png: the ten worst images, and ten evenly spread over the ranking."""
    if not len(dataset):
        return
    qualities = [quality(image, found[image.id]) for image in dataset.images]
    ranking = np.argsort(qualities, kind="stable").tolist()
    write_comparison(dataset.subset(ranking[:SHEET]), dict(found), folder / "worst.png", SHEET, SHOWN)
    spread = [ranking[i] for i in np.linspace(0, len(ranking) - 1, min(SHEET, len(ranking))).astype(int)]
    write_comparison(dataset.subset(spread), dict(found), folder / "typical.png", SHEET, SHOWN)


def quality(image: ImageRecord, instances: Predictions) -> float:
    """Panoptic quality of one image, 0 to 1: the sum of the mask IoUs of matched pairs (above 0.5, same
    class), divided by the mean of the numbers of objects and predictions. 1 where there are neither.
    """
    from faster_coco_eval.core import mask as coco_mask

    shown = instances.filter(SHOWN)
    truth = [a for a in image.annotations if not a.crowd]
    if not truth and not len(shown):
        return 1.0
    if not truth or not len(shown):
        return 0.0
    outlines = [to_rle(a.segmentation, image.height, image.width) for a in truth]
    iou = np.asarray(coco_mask.iou(shown.rles(), outlines, [0] * len(truth))).reshape(len(shown), len(truth))
    same = shown.labels.numpy()[:, None] == np.array([a.label for a in truth])[None, :]
    iou = np.where(same, iou, 0.0)
    matched = 0.0
    # Masks may overlap, so pairs are not unique by themselves: they are taken greedily.
    while iou.size and iou.max() > 0.5:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        matched += float(iou[i, j])
        iou[i, :], iou[:, j] = 0.0, 0.0
    return matched / (0.5 * (len(truth) + len(shown)))


HEIGHT, HEADER = 260, 16
"""Heights of one image in the sheet and of the line above it, in pixels."""


def truth(image: ImageRecord, dataset: Dataset) -> Instances:
    """The annotations of an image (without crowds) as instances of score 1, in its pixels."""
    masks = rasterize(image)
    labels = torch.tensor([a.label for a in image.annotations if not a.crowd], dtype=torch.int64)
    return Instances(
        masks.tight_boxes(), torch.ones(len(masks)), labels, masks, dataset.class_names, dataset.category_ids
    )


def write_comparison(
    dataset: Dataset, found: dict[int, Predictions], path: Path, count: int = 8, score: float = 0.3
) -> None:
    """Write a sheet: truth and predictions for up to `count` images, spread over the dataset.

    Args:
        found: image id to predictions in the image's pixels.
        score: predictions below it are not drawn.
    """
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    chosen = [dataset.images[index] for index in indices]
    rows = [_row(image, dataset, found[image.id], score) for image in chosen]
    columns = 1 if len(rows) < 4 else 2
    lines = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    width = max(sum(row.width for row in line) for line in lines)
    sheet = Image.new("RGB", (width, (HEIGHT + HEADER) * len(lines)), "white")
    for number, line in enumerate(lines):
        left = 0
        for row in line:
            sheet.paste(row, (left, number * (HEIGHT + HEADER)))
            left += row.width
    with atomic_write(path) as temporary:
        sheet.save(temporary)


def _row(image: ImageRecord, dataset: Dataset, predicted: Predictions, score: float) -> Image.Image:
    pixels = read_image(image.path)
    sides = [draw(pixels, truth(image, dataset)), draw(pixels, decode_instances(predicted.filter(score)))]
    width = max(1, round(image.width * HEIGHT / image.height))
    row = Image.new("RGB", (2 * width + 12, HEIGHT + HEADER), "white")
    for number, (side, title) in enumerate(zip(sides, ("truth", "predicted"), strict=True)):
        left = number * (width + 2)
        row.paste(side.convert("RGB").resize((width, HEIGHT), Image.Resampling.BILINEAR), (left, HEADER))
        ImageDraw.Draw(row).text((left + 2, 2), title, fill="black")
    return row
