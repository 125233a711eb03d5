"""What the checks examine: splits whose images are decoded once and outlines drawn once; and findings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.image_checks import Inspection, box_problem
from instancefcn.data.near_duplicates import near_pairs
from instancefcn.errors import Problem
from instancefcn.geometry.outlines import outline_problem, to_rle
from instancefcn.models.zoo import AnySpec

Severity = Literal["error", "warning", "note"]
Box = tuple[float, float, float, float]
NAMED = ("train", "val", "test")
"""Splits that should share no image, by their names."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        check: the check's code.
        severity: "error" prevents training, "warning" needs review, "note" is for information.
        split: the name of the split.
        message: what is wrong, where, and how to fix it; one line.
        image: the file it concerns, or None.
        annotation: the id of the annotation it concerns, or None.
        other: the file of the other image of a pair, or None.
    """

    check: str
    severity: Severity
    split: str
    message: str
    image: Path | None = None
    annotation: int | None = None
    other: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields, with paths as text."""
        return {
            "check": self.check,
            "severity": self.severity,
            "split": self.split,
            "image": None if self.image is None else str(self.image),
            "annotation": self.annotation,
            "other": None if self.other is None else str(self.other),
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class DrawnAnnotation:
    """The mask of an annotation, summarised.

    Attributes:
        problem: why it cannot be drawn, or None. With a problem, the other fields are 0.
        area: pixels of the mask.
        box: x1, y1, x2, y2 around the mask's pixels, half-open.
    """

    problem: Problem | None
    area: int
    box: Box


@dataclass(frozen=True)
class Split:
    """One split to check.

    Attributes:
        name: such as "train".
        dataset: the part that could be read.
        problems: what the reader reported about the rest.
        inspections: one per image.
    """

    name: str
    dataset: Dataset
    problems: tuple[str, ...]
    inspections: tuple[Inspection, ...]

    @cached_property
    def shapes(self) -> list[list[DrawnAnnotation]]:
        """The drawn annotations, one list per image."""
        return [shapes_of(image) for image in self.dataset.images]

    @cached_property
    def objects(self) -> list[tuple[ImageRecord, Annotation, DrawnAnnotation]]:
        """Every annotation that can be drawn, crowds included."""
        pairs = zip(self.dataset.images, self.shapes, strict=True)
        return [
            (image, annotation, shape)
            for image, shapes in pairs
            for annotation, shape in zip(image.annotations, shapes, strict=True)
            if shape.problem is None
        ]

    def finding(
        self,
        check: str,
        severity: Severity,
        what: str,
        image: ImageRecord | None = None,
        annotation: Annotation | None = None,
        other: Path | None = None,
    ) -> Finding:
        """A finding in this split; its message starts with the dataset, image and annotation it concerns."""
        where = [self.dataset.name]
        if annotation is not None and image is not None:
            where.append(f"annotation {annotation.id} ({image.path.name})")
        elif image is not None:
            where.append(image.path.name)
        return Finding(
            check,
            severity,
            self.name,
            ": ".join([*where, what]),
            None if image is None else image.path,
            None if annotation is None else annotation.id,
            other,
        )


@dataclass(frozen=True)
class CheckedData:
    """All splits, and the model to be trained on them.

    Attributes:
        unread: the files in the dataset's folder that no split uses.
    """

    splits: tuple[Split, ...]
    spec: AnySpec | None
    unread: tuple[Path, ...] = ()

    @cached_property
    def separate(self) -> set[str]:
        """The names of the splits that should share no image, see `separate_splits`."""
        return separate_splits(self.splits)

    @cached_property
    def near_duplicates(self) -> list[tuple[int, int]]:
        """The pairs of `near_pairs`, as indices a < b that count through the images of all splits."""
        inspections = [inspection for split in self.splits for inspection in split.inspections]
        if not inspections:
            return []
        splits = np.repeat(np.arange(len(self.splits)), [len(split.inspections) for split in self.splits])
        numbers: dict[bytes, int] = {}
        files = np.array([numbers.setdefault(inspection.digest, len(numbers)) for inspection in inspections])
        return near_pairs(np.stack([inspection.thumb for inspection in inspections]), splits, files)


def absolute_path(image: ImageRecord) -> str:
    """The absolute path of an image's file without "..". Links are not followed."""
    return os.path.abspath(image.path)


def separate_splits(splits: Sequence[Split]) -> set[str]:
    """The names of the splits that should share no image: train, val, test, and splits with other images.

    Lists that only combine images of these, or contain all of train, are not evaluated on and may share
    images: VOC's trainval and SBD's train_noval, for example.
    """
    files = {split.name: {absolute_path(p) for p in split.dataset.images} for split in splits}
    named: set[str] = set().union(*(files.get(name, set()) for name in NAMED))
    train = files.get("train", set())
    return {
        name for name, own in files.items() if name in NAMED or not (own <= named or (train and train <= own))
    }


def shapes_of(image: ImageRecord) -> list[DrawnAnnotation]:
    """The drawn annotations of an image, in order."""
    from faster_coco_eval.core import mask as coco_mask

    height, width = image.height, image.width
    problems = [
        outline_problem(a.segmentation, height, width) or box_problem(a.box, height, width)
        for a in image.annotations
    ]
    sound = [a for a, problem in zip(image.annotations, problems, strict=True) if problem is None]
    rles = [to_rle(a.segmentation, height, width) for a in sound]
    areas = np.asarray(coco_mask.area(rles)).reshape(-1).tolist() if rles else []
    boxes = np.asarray(coco_mask.toBbox(rles)).reshape(-1, 4).tolist() if rles else []
    drawn = iter(zip(areas, boxes, strict=True))
    shapes = []
    for problem in problems:
        if problem is None:
            area, (x, y, w, h) = next(drawn)
            shapes.append(DrawnAnnotation(None, int(area), (x, y, x + w, y + h)))
        else:
            shapes.append(DrawnAnnotation(problem, 0, (0.0, 0.0, 0.0, 0.0)))
    return shapes
