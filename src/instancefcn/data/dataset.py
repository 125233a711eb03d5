"""What every reader returns: pictures with annotations, nothing decoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Polygons = list[list[float]]
Segmentation = Polygons | dict[str, Any]
OBJECT = "object"
"""The one class of a dataset whose classes are left aside."""


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
class Picture:
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
        pictures: in the order of the file.
        class_names: the name of label 0, 1, ..
        category_ids: the file's own id of label 0, 1, .., ascending.
    """

    name: str
    pictures: tuple[Picture, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The same classes with the pictures at `indices` only."""
        return replace(self, pictures=tuple(self.pictures[i] for i in indices))

    def as_objects(self) -> Dataset:
        """The same pictures with every annotation, crowds too, of the one class "object" (label 0, category
        id 1); ids, boxes, outlines, areas and crowd flags stay. Class-agnostic models learn and are measured
        on it.
        """
        pictures = tuple(
            replace(picture, annotations=tuple(replace(a, label=0) for a in picture.annotations))
            for picture in self.pictures
        )
        return replace(self, pictures=pictures, class_names=(OBJECT,), category_ids=(1,))
