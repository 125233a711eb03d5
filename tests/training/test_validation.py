"""What training measures is what `eval` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fakes import coloured
from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.errors import ImageError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.training.validation import DETECTIONS, BestSoFar, figures_of, predictions_of


class Sizes(nn.Module):
    """Finds nothing, in an image of the size that it was told, and remembers its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[torch.Size]] = []

    def forward(
        self, images: list[Tensor], image_sizes: list[tuple[int, int]], min_score: float
    ) -> list[Instances]:
        assert min_score == 0
        self.batches.append([image.shape for image in images])
        none: Any = torch.zeros(0)
        return [
            Instances(
                none.reshape(0, 4), none, none.long(), CroppedMasks.from_crops([], [], size), ("a",), (1,)
            )
            for size in image_sizes
        ]


def test_images_of_one_shape_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding would let an image's neighbours change its result."""
    sizes = [(80, 120), (120, 80), (80, 120), (80, 120), (60, 60)]
    images = []
    for number, (height, width) in enumerate(sizes):
        path = tmp_path / f"{number}.png"
        image: Image.Image = coloured(width, height)
        image.save(path)
        images.append(ImageRecord(10 + number, path, height, width))
    split = Dataset("d", tuple(images), ("a",), (1,))
    network = Sizes()
    found = predictions_of(network, split, Preprocessing(40, 90), torch.device("cpu"), batch_size=4)
    assert list(found) == [10, 11, 12, 13, 14]
    assert [instances.image_size for instances in found.values()] == sizes
    assert [len(batch) for batch in network.batches] == [1] * 5, "a CPU does not gain by more"
    network.batches.clear()
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(Tensor, "to", lambda self, *_, **__: self)
    predictions_of(network, split, Preprocessing(40, 90), torch.device("meta"), batch_size=4)
    assert [[tuple(shape[1:]) for shape in batch] for batch in network.batches] == [
        [(40, 60)] * 3,
        [(60, 40)],
        [(40, 40)],
    ]
    images[2].path.unlink()
    with pytest.raises(ImageError, match=r"2\.png: cannot be read"):
        predictions_of(network, split, Preprocessing(40, 90), torch.device("cpu"))


def test_the_best_is_remembered() -> None:
    best = BestSoFar()
    kept = [
        best.judge(figure, {"epoch": i}, i) for i, figure in enumerate((None, 0.0, 0.0, 0.2, 0.1, 0.2), 1)
    ]
    assert kept == [False, True, True, True, False, False]
    assert (best.figure, best.epoch, best.metrics, best.last) == (0.2, 4, {"epoch": 4}, {"epoch": 6})
    assert best.in_vain(2)
    assert not best.in_vain(3)
    assert not best.in_vain(0)


def test_figures_by_name() -> None:
    metrics = {"mask": {"AP": 0.25, "AP50": 1, "AP75": None}, "box": {"AP": 0.5}}
    assert figures_of(metrics, DETECTIONS) == {
        "mask AP": 0.25,
        "mask AP50": 1.0,
        "mask AP75": None,
        "box AP": 0.5,
    }
