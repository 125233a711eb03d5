"""`Instances`: the one type of result, validated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instancefcn.masks import CroppedMasks


@dataclass(frozen=True, eq=False)
class Instances:
    """The objects found in one picture, best first.

    Attributes:
        boxes: float32 [N, 4]: x1, y1, x2, y2, half-open, in pixels of the original picture.
        scores: float32 [N]: 0 to 1, never rising.
        labels: int64 [N]: 0-based index into `class_names`; background is not a label.
        masks: N masks at the resolution of the original picture, stored as crops.
        class_names: names of all classes that the model knows.
        category_ids: the training set's own ids of the same classes, used when COCO JSON is written.
        source: where the picture came from (a path), when known.

    Raises:
        ValueError: something does not fit together.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: CroppedMasks
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: str | None = None

    def __post_init__(self) -> None:
        n = self.boxes.shape[0]
        if self.boxes.shape != (n, 4) or self.boxes.dtype != torch.float32:
            raise ValueError(
                f"boxes must be float32 [N, 4], got {self.boxes.dtype} {tuple(self.boxes.shape)}"
            )
        if self.scores.shape != (n,) or self.scores.dtype != torch.float32:
            raise ValueError(
                f"scores must be float32 [{n}], got {self.scores.dtype} {tuple(self.scores.shape)}"
            )
        if self.labels.shape != (n,) or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 [{n}], got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if len(self.masks) != n:
            raise ValueError(f"there are {n} boxes and {len(self.masks)} masks")
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(f"{len(self.class_names)} class names, {len(self.category_ids)} category ids")
        if n == 0:
            return
        if not bool(torch.isfinite(self.boxes).all()):
            raise ValueError("a box is not finite")
        if not bool(((self.scores >= 0) & (self.scores <= 1)).all()):
            raise ValueError("scores must lie between 0 and 1")
        if bool((self.scores[1:] > self.scores[:-1]).any()):
            raise ValueError("instances must be sorted by score, best first")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.class_names):
            raise ValueError(f"labels must lie between 0 and {len(self.class_names) - 1}")

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Instances:
        """The instances at `index` (booleans, rising integers or a slice)."""
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=self.masks[index],
        )

    def __repr__(self) -> str:
        found = ", ".join(f"{n} {s:.2f}" for n, s in zip(self.names[:5], self.scores.tolist(), strict=False))
        height, width = self.image_size
        more = ", ..." if len(self) > 5 else ""
        return f"Instances({len(self)} in a {width} x {height} picture: {found}{more})"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the original picture."""
        return self.masks.image_size

    @property
    def names(self) -> list[str]:
        """The class name of every instance."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def filter(self, score: float) -> Instances:
        """Only the instances with at least this score."""
        return self[self.scores >= score]

    def dense_masks(self) -> Tensor:
        """bool [N, H, W] at the size of the picture; costs N x H x W bytes."""
        return self.masks.dense()

    def rles(self) -> list[dict[str, Any]]:
        """COCO's compressed run-length encodings, one an instance."""
        return self.masks.rles()

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id (the training set's own), bbox (x, y, width, height), score,
        segmentation.
        """
        return coco_rows(self.boxes, self.scores, self.labels, self.rles(), self.category_ids, image_id)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """boxes, scores, labels, and masks (bool [N, H, W]) as NumPy arrays."""
        return {
            "boxes": self.boxes.cpu().numpy(),
            "scores": self.scores.cpu().numpy(),
            "labels": self.labels.cpu().numpy(),
            "masks": self.dense_masks().cpu().numpy(),
        }


def coco_rows(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    rles: list[dict[str, Any]],
    category_ids: tuple[int, ...],
    image_id: int,
) -> list[dict[str, Any]]:
    """COCO results of one picture's instances: see `Instances.to_coco`."""
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)],
            "score": round(score, 6),
            "segmentation": rle,
        }
        for (x1, y1, x2, y2), label, score, rle in zip(
            boxes.tolist(), labels.tolist(), scores.tolist(), rles, strict=True
        )
    ]
