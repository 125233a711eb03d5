"""What training measures is what `eval` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from fakes import coloured
from instancefcn.data.dataset import ImageRecord
from instancefcn.data.transforms import Resize
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances
from instancefcn.training.evaluator import predict


class Sizes(nn.Module):
    """Finds nothing, in a picture of the size that it was told, and remembers its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[torch.Size]] = []

    def forward(self, images: list[Tensor], image_sizes: list[tuple[int, int]]) -> list[Instances]:
        self.batches.append([image.shape for image in images])
        none: Any = torch.zeros(0)
        return [
            Instances(
                none.reshape(0, 4), none, none.long(), CroppedMasks.from_crops([], [], size), ("a",), (1,)
            )
            for size in image_sizes
        ]


def test_images_of_one_shape_share_a_batch_and_keep_their_order(tmp_path: Path) -> None:
    """Padding would let a picture's neighbours change its result."""
    sizes = [(80, 120), (120, 80), (80, 120), (80, 120), (60, 60)]
    images = []
    for number, (height, width) in enumerate(sizes):
        path = tmp_path / f"{number}.png"
        image: Image.Image = coloured(width, height)
        image.save(path)
        images.append(ImageRecord(10 + number, path, height, width))
    network = Sizes()
    found = list(predict(network, images, Resize(40, 90), torch.device("cpu"), batch_size=4))
    assert [id_ for id_, _ in found] == [10, 11, 12, 13, 14]
    assert [instances.image_size for _, instances in found] == sizes
    assert [[tuple(shape[1:]) for shape in batch] for batch in network.batches] == [
        [(40, 60)] * 3,
        [(60, 40)],
        [(40, 40)],
    ]
