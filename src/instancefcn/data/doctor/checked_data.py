"""What the checks look at: splits, each picture looked at once, each outline drawn once; and a finding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.image_checks import Look, box_problem
from instancefcn.data.near_duplicates import near_pairs
from instancefcn.errors import Problem
from instancefcn.geometry.outlines import outline_problem, to_rle
from instancefcn.models.zoo import AnySpec

Severity = Literal["error", "warning", "note"]
Box = tuple[float, float, float, float]
NAMED = ("train", "val", "test")
"""Splits whose names say that they should share no picture."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        check: the check's name.
        severity: "error" keeps training from starting, "warning" wants a look, "note" is to be known.
        split: where.
        message: what is wrong, where, and how to mend it; one line.
        image: the file it concerns, or None.
        annotation: the id of the annotation it concerns, or None.
        other: the file of the other picture of a pair, or None.
    """

    check: str
    severity: Severity
    split: str
    message: str
    image: Path | None = None
    annotation: int | None = None
    other: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields, paths as text."""
        return {
            "check": self.check,
            "severity": self.severity,
            "split": self.split,
            "picture": None if self.image is None else str(self.image),
            "annotation": self.annotation,
            "other": None if self.other is None else str(self.other),
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class DrawnAnnotation:
    """An annotation as drawn.

    Attributes:
        problem: why it cannot be drawn; then the rest is zeros.
        area: pixels of its mask.
        box: x1, y1, x2, y2 around the mask's pixels, half-open.
    """

    problem: Problem | None
    area: int
    box: Box


@dataclass(frozen=True)
class Split:
    """One split under examination.

    Attributes:
        name: such as "train".
        dataset: what could be read.
        problems: what the reader said about the rest.
        looks: one for each picture.
    """

    name: str
    dataset: Dataset
    problems: tuple[str, ...]
    looks: tuple[Look, ...]

    @cached_property
    def shapes(self) -> list[list[DrawnAnnotation]]:
        """The annotations of every picture as drawn."""
        return [shapes_of(image) for image in self.dataset.images]

    @cached_property
    def objects(self) -> list[tuple[ImageRecord, Annotation, DrawnAnnotation]]:
        """Every annotation that can be drawn, crowds too."""
        pairs = zip(self.dataset.images, self.shapes, strict=True)
        return [
            (image, annotation, shape)
            for image, shapes in pairs
            for annotation, shape in zip(image.annotations, shapes, strict=True)
            if shape.problem is None
        ]

    def about(
        self,
        check: str,
        severity: Severity,
        what: str,
        image: ImageRecord | None = None,
        annotation: Annotation | None = None,
        other: Path | None = None,
    ) -> Finding:
        """A finding in this split whose message begins with the place."""
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
    """All splits, and the model that is to learn from them."""

    splits: tuple[Split, ...]
    spec: AnySpec

    @cached_property
    def separate(self) -> set[str]:
        """The names of the splits that should share no picture, see `apart`."""
        return separate_splits(self.splits)

    @cached_property
    def alike(self) -> list[tuple[int, int]]:
        """Pairs of nearly equal pictures of different files, by their numbers a < b counted through all
        splits: those that `near_pairs` chooses.
        """
        looks = [look for split in self.splits for look in split.looks]
        if not looks:
            return []
        splits = np.repeat(np.arange(len(self.splits)), [len(split.looks) for split in self.splits])
        numbers: dict[bytes, int] = {}
        files = np.array([numbers.setdefault(look.digest, len(numbers)) for look in looks])
        return near_pairs(np.stack([look.thumb for look in looks]), splits, files)


def absolute_path(image: ImageRecord) -> str:
    """The path of its file, written in the one way that has no "..". Links are not followed."""
    return os.path.abspath(image.path)


def separate_splits(splits: Sequence[Split]) -> set[str]:
    """The names of the splits that should share no picture: train, val, test and what has pictures of its
    own. Nothing is measured on a list that only joins these or holds a part of them, or that holds all of
    train, such as VOC's trainval and SBD's train_noval.
    """
    files = {split.name: {absolute_path(p) for p in split.dataset.images} for split in splits}
    named: set[str] = set().union(*(files.get(name, set()) for name in NAMED))
    train = files.get("train", set())
    return {
        name for name, own in files.items() if name in NAMED or not (own <= named or (train and train <= own))
    }


def shapes_of(image: ImageRecord) -> list[DrawnAnnotation]:
    """The annotations of a picture as drawn."""
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
