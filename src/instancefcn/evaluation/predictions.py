"""Predictions as evaluation stores them: masks as run-length encodings, made once.

A thousand proposals of one image take tens of megabytes as pixels and half a megabyte as encodings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances, coco_rows


@dataclass(frozen=True, eq=False)
class Encoded:
    """`Instances` whose masks are encoded; see there for the other attributes.

    Attributes:
        encodings: COCO's compressed run-length encodings, one per instance.
        image_size: (height, width) of the image.
        limit_reached: see `Instances`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    encodings: tuple[dict[str, Any], ...]
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    limit_reached: int | None = None

    def __len__(self) -> int:
        return len(self.encodings)

    def __getitem__(self, index: Tensor | slice) -> Encoded:
        """The instances at `index` (booleans, integers or a slice)."""
        chosen = torch.arange(len(self))[index].tolist()
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            encodings=tuple(self.encodings[i] for i in chosen),
        )

    def filter(self, score: float) -> Encoded:
        """Only the instances with at least this score."""
        kept = self[self.scores >= score]
        return kept if len(kept) == len(self) else replace(kept, limit_reached=None)

    def rles(self) -> list[dict[str, Any]]:
        """The encodings, as a new list."""
        return list(self.encodings)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results, as `Instances.to_coco`."""
        return coco_rows(self.boxes, self.scores, self.labels, self.rles(), self.category_ids, image_id)

    def decode(self) -> Instances:
        """The instances with masks of pixels."""
        masks = CroppedMasks.from_rles(self.encodings, self.image_size)
        return Instances(self.boxes, self.scores, self.labels, masks, self.class_names, self.category_ids)


Predictions: TypeAlias = Instances | Encoded
"""Either form: measures read both, drawing needs the first."""


def encode_instances(instances: Instances) -> Encoded:
    """`instances` with encoded masks."""
    return Encoded(
        instances.boxes,
        instances.scores,
        instances.labels,
        tuple(instances.rles()),
        instances.image_size,
        instances.class_names,
        instances.category_ids,
        instances.limit_reached,
    )


def decode_instances(predictions: Predictions) -> Instances:
    """`predictions` with masks of pixels, which can be drawn."""
    return predictions.decode() if isinstance(predictions, Encoded) else predictions
