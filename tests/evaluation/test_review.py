"""Sheets of predictions beside the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.evaluation import review
from instancefcn.evaluation.predictions import Encoded, Predictions


@pytest.mark.parametrize(
    ("length", "places"),
    [
        (1, [0]),
        (3, [0, 1, 2]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, [0, 1, 2, 3, 4, 5, 6, 8]),
        (15, [0, 2, 4, 6, 8, 10, 12, 14]),
        (71, [0, 10, 20, 30, 40, 50, 60, 70]),
    ],
)
def test_the_images_are_spread_from_the_first_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, places: list[int]
) -> None:
    shown: list[int] = []

    def row(image: ImageRecord, dataset: Dataset, predicted: Predictions, score: float) -> Image.Image:
        shown.append(image.id)
        return Image.new("RGB", (10, review.HEIGHT + review.HEADER))

    monkeypatch.setattr(review, "_row", row)
    images = tuple(ImageRecord(i, tmp_path / f"{i}.png", 8, 8) for i in range(length))
    none = Encoded(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), (), (8, 8), ("cell",), (1,))
    dataset = Dataset("made/val", images, ("cell",), (1,))
    review.write_comparison(dataset, dict.fromkeys(range(length), none), tmp_path / "sheet.png")
    assert shown == places
    assert (tmp_path / "sheet.png").is_file()
