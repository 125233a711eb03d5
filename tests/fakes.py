"""A network that needs no training: it finds what is red and what is green."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances
from instancefcn.models.preprocessing import Preprocessing

NAMES, IDS = ("red", "green"), (3, 8)
SCORES = (0.9, 0.6)


class ColourNetwork(nn.Module):
    """Called like FCIS in evaluation mode; one instance a colour, red with score 0.9, green with 0.6."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[tuple[int, ...]]] = []

    def forward(
        self,
        images: list[Tensor],
        image_sizes: list[tuple[int, int]],
        min_score: float = 1e-3,
        max_instances: int = 100,
        classes: Sequence[int] = (0, 1),
    ) -> list[Instances]:
        self.calls.append([tuple(image.shape) for image in images])
        results = []
        for image, size in zip(images, image_sizes, strict=True):
            found = self._find(image, size)
            found = found[torch.isin(found.labels, torch.tensor(classes))]
            limit = max_instances if len(found) >= max_instances else None
            results.append(replace(found[:max_instances], limit_reached=limit))
        return results

    def _find(self, image: Tensor, size: tuple[int, int]) -> Instances:
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        image = nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        dense = torch.stack([(image[c] > 0.5) & (image[1 - c] < 0.5) & (image[2] < 0.5) for c in range(2)])
        labels = dense.flatten(1).any(1).nonzero()[:, 0]
        masks = CroppedMasks.from_dense(dense[labels])
        return Instances(masks.tight_boxes(), torch.tensor(SCORES)[labels], labels, masks, NAMES, IDS)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C when the network has run so often."""
    forward = ColourNetwork.forward

    def interrupted(self: ColourNetwork, *args: Any, **kwargs: Any) -> Any:
        if len(self.calls) == call:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(ColourNetwork, "forward", interrupted)


@dataclass
class FakeLoaded:
    """What checkpoint.load_checkpoint would return."""

    network: Any = field(default_factory=ColourNetwork)
    class_names: tuple[str, ...] = NAMES
    category_ids: tuple[int, ...] = IDS
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(64, 96))
    metadata: dict[str, Any] = field(default_factory=dict)


def coloured(width: int = 120, height: int = 80) -> Image.Image:
    """Red in the upper left quarter's middle, green at the right border; blue ground."""
    array = np.zeros((height, width, 3), np.uint8)
    array[..., 2] = 200
    array[10:30, 20:50] = (255, 0, 0)
    array[40:70, width - 30 :] = (0, 255, 0)
    return Image.fromarray(array)


RED_BOX = (20.0, 10.0, 50.0, 30.0)


def save_coloured(path: Path, width: int = 120, height: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coloured(width, height).save(path)
    return path
