"""`Instances`: the result type, validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instancefcn.errors import ConfigError, MissingPackageError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.outlines import outline_problem, to_rle
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.images.download import read_file_or_url
from instancefcn.images.drawing import draw

if TYPE_CHECKING:
    from PIL import Image

OBJECT = "object"
"""The single class of class-agnostic data and models."""


@dataclass(frozen=True, eq=False)
class Instances:
    """The objects found in one image, best first.

    Attributes:
        boxes: float32 [N, 4]: x1, y1, x2, y2, half-open, in pixels of the original image.
        scores: float32 [N]: 0 to 1, in descending order.
        labels: int64 [N]: 0-based index into `class_names`; background is not a label.
        masks: N masks at the resolution of the original image, stored as crops.
        class_names: names of all classes of the model.
        category_ids: the training set's ids of the same classes, written to COCO JSON.
        source: the image's path or URL, if known.
        limit_reached: the maximum number of objects, where it was reached: the image may hold more. None
            where nothing was left out.

    Raises:
        ValueError: the fields do not fit together. Values are checked on the CPU only: on a GPU the check
            would wait for the device.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: CroppedMasks
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: str | None = None
    limit_reached: int | None = None

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
        if n == 0 or self.boxes.is_cuda:
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

    def __getitem__(self, index: Tensor | NDArray[Any] | Sequence[int] | slice | int) -> Instances:
        """The instances at `index`: booleans, ascending integers, a slice, or one integer. Iterating yields
        one `Instances` of length 1 after another.

        Raises:
            IndexError: no instance has this index.
        """
        if isinstance(index, int | np.integer):
            position = range(len(self))[index]
            index = slice(position, position + 1)
        elif not isinstance(index, slice | Tensor):
            index = torch.from_numpy(np.asarray(index) if len(index) else np.zeros(0, np.int64))
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
        return f"Instances({len(self)} in a {width} x {height} image: {found}{more})"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the original image."""
        return self.masks.image_size

    @property
    def names(self) -> list[str]:
        """The class name of every instance."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def to(self, device: torch.device | str) -> Instances:
        """The same instances on another device."""
        return replace(
            self,
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            masks=self.masks.to(device),
        )

    def filter(self, score: float) -> Instances:
        """The instances with at least this score."""
        kept = self[self.scores >= score]
        # What is beyond the limit scores less than anything within it.
        return kept if len(kept) == len(self) else replace(kept, limit_reached=None)

    def dense_masks(self) -> Tensor:
        """bool [N, H, W] at the size of the image; costs N x H x W bytes."""
        return self.masks.dense()

    def rles(self) -> list[dict[str, Any]]:
        """COCO's compressed run-length encodings, one per instance."""
        return self.masks.rles()

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id (from `category_ids`), bbox (x, y, width, height), score,
        segmentation.
        """
        return coco_rows(self.boxes, self.scores, self.labels, self.rles(), self.category_ids, image_id)

    @classmethod
    def from_coco(
        cls,
        results: Sequence[dict[str, Any]],
        image_size: tuple[int, int],
        class_names: Sequence[str],
        category_ids: Sequence[int],
    ) -> Instances:
        """From COCO results or annotations of one image, in any order; the inverse of `to_coco`.

        Args:
            results: category_id, bbox (x, y, width, height), segmentation (RLE or polygons) and score (1 if
                missing).
            image_size: (height, width) of the image.
            class_names, category_ids: of all classes, in the order of the labels.

        Raises:
            ValueError: a category id is unknown, or an outline is damaged or has another size.
        """

        labels = {category_id: label for label, category_id in enumerate(category_ids)}
        unknown = {result["category_id"] for result in results} - set(labels)
        if unknown:
            raise ValueError(f"category ids {sorted(unknown)} are not in {list(category_ids)}")
        outlines = [result["segmentation"] for result in results]
        if problems := [
            problem for outline in outlines if (problem := outline_problem(outline, *image_size))
        ]:
            raise ValueError("; ".join(problems))
        corners = torch.tensor([result["bbox"] for result in results], dtype=torch.float64).reshape(-1, 4)
        return sorted_instances(
            torch.cat((corners[:, :2], corners[:, :2] + corners[:, 2:]), 1),
            torch.tensor([result.get("score", 1.0) for result in results]),
            torch.tensor([labels[result["category_id"]] for result in results]),
            CroppedMasks.from_rles([to_rle(outline, *image_size) for outline in outlines], image_size),
            class_names,
            category_ids,
        )

    def to_torchvision(self) -> dict[str, Tensor]:
        """The dict of torchvision's Mask R-CNN: boxes float32 [N, 4], labels int64 [N] from 1 (there 0 is the
        background), scores [N], masks float32 [N, 1, H, W].
        """
        return {
            "boxes": self.boxes,
            "labels": self.labels + 1,
            "scores": self.scores,
            "masks": self.dense_masks().float()[:, None],
        }

    @classmethod
    def from_torchvision(
        cls,
        result: dict[str, Tensor],
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        threshold: float = 0.5,
    ) -> Instances:
        """From torchvision's dict, the inverse of `to_torchvision`.

        Args:
            result: boxes, labels from 1, masks [N, 1, H, W] or [N, H, W], scores (1 if missing).
            class_names: of all classes without background.
            category_ids: of the same classes; 1, 2, .. if None.
            threshold: the minimum of a mask's pixel that belongs to the object.
        """
        masks = result["masks"].detach().cpu()
        masks = masks[:, 0] if masks.dim() == 4 else masks
        boxes = result["boxes"].detach()
        return sorted_instances(
            boxes,
            result["scores"].detach() if "scores" in result else torch.ones(len(boxes)),
            result["labels"] - 1,
            CroppedMasks.from_dense(masks >= threshold if masks.is_floating_point() else masks > 0),
            class_names,
            category_ids,
        )

    def to_supervision(self) -> Any:
        """supervision's `Detections`: boxes, masks, scores, class ids (the labels) and class names.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingPackageError("supervision is not installed: pip install supervision") from error
        arrays = self.to_numpy()
        return supervision.Detections(
            xyxy=arrays["boxes"],
            mask=arrays["masks"],
            confidence=arrays["scores"],
            class_id=arrays["labels"].astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    @classmethod
    def from_supervision(
        cls, detections: Any, class_names: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> Instances:
        """From supervision's `Detections`, in any order.

        Args:
            detections: with masks and class ids; scores are 1 if missing.
            class_names: of all classes, by class id.
            category_ids: of the same classes; 1, 2, .. if None.

        Raises:
            ValueError: masks or class ids are missing.
        """
        if detections.mask is None or detections.class_id is None:
            raise ValueError("the detections need masks and class ids")
        scores = np.ones(len(detections)) if detections.confidence is None else detections.confidence
        return sorted_instances(
            torch.as_tensor(np.array(detections.xyxy)),
            torch.as_tensor(np.array(scores)),
            torch.as_tensor(np.array(detections.class_id)),
            CroppedMasks.from_dense(torch.from_numpy(np.array(detections.mask, dtype=bool))),
            class_names,
            category_ids,
        )

    def show(self, image: Any = None, *, labels: bool = True) -> Image.Image:
        """Draw the instances on their image; a notebook displays the result.

        Args:
            image: the image that they were found in (a path, URL, Pillow image, array or tensor); None reads
                `source` again.
            labels: write class and score beside each object.

        Raises:
            ConfigError: there is neither an image nor a source.
            ImageError: the source cannot be read.
        """
        image = self.source if image is None else image
        if image is None:
            raise ConfigError("these instances have no source: pass their image, instances.show(image)")
        pixels = read_file_or_url(image) if isinstance(image, (str, Path)) else to_uint8_rgb(image)
        return draw(pixels, self, labels=labels)

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
    image_id: int | str,
) -> list[dict[str, Any]]:
    """COCO results of one image's instances: see `Instances.to_coco`."""
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


def sorted_instances(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: CroppedMasks,
    class_names: Sequence[str],
    category_ids: Sequence[int] | None,
) -> Instances:
    """Instances from values in any order, of any numeric type and on any device; category ids are 1, 2, .. if
    None.
    """
    scores = scores.float().cpu()
    order = torch.sort(scores, descending=True, stable=True).indices
    return Instances(
        boxes.float().cpu().reshape(-1, 4)[order],
        scores[order],
        labels.long().cpu()[order],
        masks[order],
        tuple(class_names),
        tuple(range(1, len(class_names) + 1) if category_ids is None else category_ids),
    )
