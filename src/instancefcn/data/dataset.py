"""What every reader returns: pictures with annotations, nothing decoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instancefcn.errors import Problem
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.outlines import Segmentation, extent, to_rle
from instancefcn.geometry.rle import box, decode_crop
from instancefcn.instances import OBJECT
from instancefcn.limits import MAX_MASK_PIXELS


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotated object.

    Attributes:
        id: the file's id of the annotation.
        label: 0-based class.
        box: x1, y1, x2, y2, half-open, in pixels of the picture, as the file states it.
        segmentation: polygons, each x, y, x, y, .. in pixels (a list), or a COCO RLE of the picture's size
            with compressed counts (a dict with "size" and "counts").
        area: pixels, as the file states it.
        crowd: the outline covers many objects: neither found nor missed.
    """

    id: int
    label: int
    box: tuple[float, float, float, float]
    segmentation: Segmentation
    area: float
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture's file, size in pixels (after EXIF rotation) and annotations."""

    id: int
    path: Path
    height: int
    width: int
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Pictures of one split and the classes of its annotations.

    Attributes:
        name: for messages and reports, such as "animals7/train".
        images: in the order of the file.
        class_names: the name of label 0, 1, ..
        category_ids: the file's own id of label 0, 1, .., ascending.
    """

    name: str
    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The same classes with the pictures at `indices` only."""
        return replace(self, images=tuple(self.images[i] for i in indices))

    def as_objects(self) -> Dataset:
        """The same pictures with every annotation, crowds too, of the one class "object" (label 0, category
        id 1); ids, boxes, outlines, areas and crowd flags stay. Class-agnostic models learn and are measured
        on it.
        """
        images = tuple(
            replace(image, annotations=tuple(replace(a, label=0) for a in image.annotations))
            for image in self.images
        )
        return replace(self, images=images, class_names=(OBJECT,), category_ids=(1,))


def too_many_pixels(image: ImageRecord) -> Problem | None:
    """What is wrong with a picture whose masks, each inside its rectangle, would take too much memory."""
    if len(image.annotations) * image.height * image.width <= MAX_MASK_PIXELS:
        return None  # as nearly always
    total: float = sum(_pixels(a.segmentation, image.height, image.width) for a in image.annotations)
    if total <= MAX_MASK_PIXELS:
        return None
    return Problem(
        f"{image.path}: image {image.id}: its {len(image.annotations)} objects take "
        f"{total:,.0f} pixels, each inside its rectangle, and at most {MAX_MASK_PIXELS:,} are held: cut the "
        "picture into tiles, or remove objects that are there several times",
        "outline",
        image=image.path,
    )


def _pixels(segmentation: Segmentation, height: int, width: int) -> float:
    if isinstance(segmentation, dict):
        first, _, last, _ = box(segmentation["counts"], height)
        return float((last - first) * height)  # whole columns are decoded
    x1, y1, x2, y2 = extent(segmentation, height, width)
    return (x2 - x1 + 1) * (y2 - y1 + 1)


def rasterize(image: ImageRecord) -> CroppedMasks:
    """The masks of a picture's annotations, crowds left out, in their order, equal to pycocotools' pixels.

    An outline thinner than a pixel may have no pixels at all: its mask has an empty rectangle.
    """
    crops, corners = [], []
    for annotation in image.annotations:
        if not annotation.crowd:
            rle = to_rle(annotation.segmentation, image.height, image.width)
            crop, corner = decode_crop(rle["counts"], image.height)
            crops.append(crop)
            corners.append(corner)
    return CroppedMasks.from_crops(crops, corners, (image.height, image.width))
