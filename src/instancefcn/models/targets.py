"""What a training step knows about one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks


@dataclass(frozen=True, eq=False)
class Target:
    """The annotated objects of one image.

    Attributes:
        boxes: float32 [G, 4]: half-open, in pixels of the network's input.
        labels: int64 [G]: 0-based classes.
        masks: the G masks in the pixels of their annotation (after flip and crop); they are never resized.
        scale: (x, y): pixels of the network's input per pixel of the masks.
        image_id: the dataset's id of the image.
        crowd_boxes: float32 [K, 4] in pixels of the network's input: regions that count as neither positive
            nor negative.

    Raises:
        ValueError: boxes, labels and masks differ in number.
    """

    boxes: Tensor
    labels: Tensor
    masks: CroppedMasks
    scale: tuple[float, float]
    image_id: int
    crowd_boxes: Tensor

    def __post_init__(self) -> None:
        g = self.boxes.shape[0]
        if self.boxes.shape != (g, 4) or self.labels.shape != (g,) or len(self.masks) != g:
            raise ValueError(
                f"boxes {tuple(self.boxes.shape)}, labels {tuple(self.labels.shape)} and {len(self.masks)}"
                " masks must describe the same objects"
            )

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def to(self, device: torch.device | str) -> Target:
        """The same target on another device."""
        return Target(
            self.boxes.to(device),
            self.labels.to(device),
            self.masks.to(device),
            self.scale,
            self.image_id,
            self.crowd_boxes.to(device),
        )
