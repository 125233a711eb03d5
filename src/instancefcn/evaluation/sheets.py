"""Predictions beside the truth, for the eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.evaluation.encoded import Predictions, decode
from instancefcn.files import atomic_write
from instancefcn.images.decoding import read_image
from instancefcn.images.drawing import draw
from instancefcn.instances import Instances

HEIGHT, HEADER = 260, 16
"""Of one picture in the sheet and of the line above it, in pixels."""


def truth(picture: ImageRecord, dataset: Dataset) -> Instances:
    """A picture's annotations (crowds left out) as instances of score 1, in the picture's pixels."""
    masks = rasterize(picture)
    labels = torch.tensor([a.label for a in picture.annotations if not a.crowd], dtype=torch.int64)
    return Instances(
        masks.tight_boxes(), torch.ones(len(masks)), labels, masks, dataset.class_names, dataset.category_ids
    )


def compare(
    dataset: Dataset, found: dict[int, Predictions], path: Path, count: int = 8, score: float = 0.3
) -> None:
    """Write a sheet: for each of up to `count` pictures, spread over the dataset, truth and predictions.

    Args:
        found: picture id -> predictions in the picture's pixels.
        score: predictions below it are not drawn.
    """
    places = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    chosen = [dataset.pictures[place] for place in places]
    rows = [_row(picture, dataset, found[picture.id], score) for picture in chosen]
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


def _row(picture: ImageRecord, dataset: Dataset, predicted: Predictions, score: float) -> Image.Image:
    image = read_image(picture.path)
    sides = [draw(image, truth(picture, dataset)), draw(image, decode(predicted.filter(score)))]
    width = max(1, round(picture.width * HEIGHT / picture.height))
    row = Image.new("RGB", (2 * width + 12, HEIGHT + HEADER), "white")
    for number, (side, title) in enumerate(zip(sides, ("truth", "predicted"), strict=True)):
        left = number * (width + 2)
        row.paste(side.convert("RGB").resize((width, HEIGHT), Image.Resampling.BILINEAR), (left, HEADER))
        ImageDraw.Draw(row).text((left + 2, 2), title, fill="black")
    return row
