"""What every reader returns: images with annotations, not decoded yet."""

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
        id: the annotation's id in the file.
        label: 0-based class.
        box: x1, y1, x2, y2, half-open, in pixels of the image, as the file states it.
        segmentation: polygons, each x, y, x, y, .. in pixels (a list), or a COCO RLE of the image's size
            with compressed counts (a dict with "size" and "counts").
        area: in pixels, as the file states it.
        crowd: the outline covers many objects: a region to ignore.
    """

    id: int
    label: int
    box: tuple[float, float, float, float]
    segmentation: Segmentation
    area: float
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image's file, size in pixels (after EXIF rotation) and annotations."""

    id: int
    path: Path
    height: int
    width: int
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """The images of one split and the classes of its annotations.

    Attributes:
        name: for messages and reports, such as "animals7/train".
        images: in the order of the file.
        class_names: the names of labels 0, 1, ..
        category_ids: the file's ids of labels 0, 1, .., ascending.
        notes: what its reader decided and the user should know, one line each.
    """

    name: str
    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def most_objects(self) -> int:
        """The maximum number of annotated objects in an image, without crowds."""
        return max((sum(not a.crowd for a in image.annotations) for image in self.images), default=0)

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The dataset with only the images at `indices`."""
        return replace(self, images=tuple(self.images[i] for i in indices))

    def as_objects(self) -> Dataset:
        """The dataset with every annotation, crowds too, of the one class "object" (label 0, category id 1).

        Ids, boxes, outlines, areas and crowd flags do not change. Class-agnostic models are trained and
        evaluated on it.
        """
        images = tuple(
            replace(image, annotations=tuple(replace(a, label=0) for a in image.annotations))
            for image in self.images
        )
        return replace(self, images=images, class_names=(OBJECT,), category_ids=(1,))

    def crowds_as_objects(self) -> Dataset:
        """The dataset with every crowd as one object, for tools that mark single objects with iscrowd 1."""
        images = tuple(
            replace(image, annotations=tuple(replace(a, crowd=False) for a in image.annotations))
            for image in self.images
        )
        return replace(self, images=images)


def too_many_pixels(image: ImageRecord) -> Problem | None:
    """The problem of an image whose cropped masks would take too much memory, or None."""
    if len(image.annotations) * image.height * image.width <= MAX_MASK_PIXELS:
        return None  # nearly always: no outline is visited
    total: float = sum(_pixels(a.segmentation, image.height, image.width) for a in image.annotations)
    if total <= MAX_MASK_PIXELS:
        return None
    return Problem(
        f"{image.path}: image {image.id}: the rectangles around its {len(image.annotations)} objects hold "
        f"{total:,.0f} pixels together, at most {MAX_MASK_PIXELS:,} are allowed: cut the image into tiles, "
        "or remove objects that are annotated several times",
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
    """The masks of an image's annotations in order, without crowds. The pixels equal pycocotools'.

    An outline thinner than a pixel may have no pixels: its mask has an empty rectangle.
    """
    crops, corners = [], []
    for annotation in image.annotations:
        if not annotation.crowd:
            rle = to_rle(annotation.segmentation, image.height, image.width)
            crop, corner = decode_crop(rle["counts"], image.height)
            crops.append(crop)
            corners.append(corner)
    return CroppedMasks.from_crops(crops, corners, (image.height, image.width))
