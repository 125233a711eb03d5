"""A network of two convolutions with everything that matters to training: batch norm, randomness, groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances
from instancefcn.models.head import Classes
from instancefcn.models.targets import Target

CLASSES = Classes(("a",), (1,))


class TinyNetwork(nn.Module):
    """Called like FCIS; the losses mean nothing, but depend on weights, images, targets and chance."""

    def __init__(self, classes: Classes = CLASSES) -> None:
        super().__init__()
        self.classes = classes
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)
        )
        self.steps = 0
        self.poison_at: int | None = None

    def forward(
        self,
        images: list[Tensor],
        targets: list[Target] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        min_score: float = 0.0,
        generators: Sequence[torch.Generator] = (),
    ) -> Any:
        if not self.training:
            return [self._nothing(size) for size in image_sizes or []]
        assert targets is not None
        self.steps += 1
        maps = [self.body(image[None]).mean((0, 2, 3)) for image in images]
        found = torch.stack(maps)
        wanted = torch.tensor([[len(t) / 4, float(t.boxes.sum()) / 500] for t in targets])
        noisy = (found - wanted) * torch.stack([torch.rand(2, generator=draw) for draw in generators])
        first = noisy[:, 0].square().mean()
        if self.poison_at == self.steps:
            first = first * float("nan")
        return {"count": first, "size": noisy[:, 1].square().mean()}

    def _nothing(self, size: tuple[int, int]) -> Instances:
        masks = CroppedMasks.empty(size)
        none = torch.zeros(0)
        return Instances(none.reshape(0, 4), none, none.long(), masks, self.classes.names, self.classes.ids)

    def parameter_groups(self, backbone_rate: float = 1.0) -> list[dict[str, Any]]:
        weights = [p for p in self.parameters() if p.dim() > 1]
        rest = [p for p in self.parameters() if p.dim() <= 1]
        return [
            {"params": weights, "lr_scale": 3.0, "decay": True},
            {"params": rest, "lr_scale": 1.0, "decay": False},
        ]
