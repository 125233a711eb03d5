"""The dataset doctor: what is wrong with annotations and pictures, where, and how to mend it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from instancefcn.data.dataset import Dataset, Picture
from instancefcn.data.images import MAX_PIXELS, SIDEWAYS, describe, too_large, turn_of
from instancefcn.data.outlines import outline_problem

TOLERANCE = 2.0
"""Pixels by which a box may leave the picture: tools round differently. It is cut at the edge anyway."""


def check(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Everything that is wrong with a dataset, one line each; empty when nothing is.

    Every picture is decoded once, in threads. `progress` is called with (pictures checked, pictures).
    """
    problems: list[str] = []
    for kind, ids in (
        ("image", Counter(p.id for p in dataset.pictures)),
        ("annotation", Counter(a.id for p in dataset.pictures for a in p.annotations)),
    ):
        repeated = (id_ for id_, times in ids.items() if times > 1)
        problems += [f"{dataset.name}: {kind} {i}: this id is used more than once" for i in repeated]
    for picture in dataset.pictures:
        for annotation in picture.annotations:
            found = [
                outline_problem(annotation.segmentation, picture.height, picture.width),
                box_problem(annotation.box, picture.height, picture.width),
            ]
            if not 0 <= annotation.label < len(dataset.class_names):
                found.append(f"label {annotation.label} is none of the {len(dataset.class_names)} classes")
            where = f"{dataset.name}: annotation {annotation.id} ({picture.path.name})"
            problems += [f"{where}: {problem}" for problem in found if problem]
    return problems + picture_problems(dataset.pictures, progress)


def box_problem(box: tuple[float, float, float, float], height: int, width: int) -> str | None:
    """What is wrong with a box x1, y1, x2, y2 in a picture of this size; None when nothing is.

    A box without width or without height passes (real outlines can be that thin), one without both does not.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return f"box {_written(box)} holds a number that is not finite: draw it again"
    if x2 < x1 or y2 < y1 or (x1 == x2 and y1 == y2):
        return (
            f"box {_written(box)} (x, y, width, height) has no area: draw it again or remove the annotation"
        )
    if x1 < -TOLERANCE or y1 < -TOLERANCE or x2 > width + TOLERANCE or y2 > height + TOLERANCE:
        return (
            f"box {_written(box)} (x, y, width, height) is outside the {width} x {height} picture: "
            "draw it again (was it drawn at another size?)"
        )
    return None


def _written(box: tuple[float, float, float, float]) -> str:
    x1, y1, x2, y2 = box
    return f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}]"


def picture_problems(
    pictures: Sequence[Picture], progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Decode every picture; what is wrong, in the pictures' order."""
    problems: list[str] = []
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        for done, problem in enumerate(pool.map(picture_problem, pictures), start=1):
            if problem:
                problems.append(problem)
            if progress:
                progress(done, len(pictures))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt need not wait for the other pictures
    return problems


def picture_problem(picture: Picture) -> str | None:
    """What is wrong with a picture's file: missing, no picture, truncated, too large or of another size.

    A JPEG is decoded at an eighth of its size, which reads every byte of the file at half the cost.
    """
    where = f"{picture.path}: image {picture.id}"
    try:
        with Image.open(picture.path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return f"{where}: {too_large()}"
            rotated = turn_of(image) in SIDEWAYS
            image.draft("RGB", (1, 1))
            image.load()
    except FileNotFoundError:
        return f"{where}: there is no such picture: add it or remove its record and annotations"
    except Exception as error:
        return f"{where}: {describe(error)}: replace the file"
    seen = (height, width) if rotated else (width, height)
    if seen == (picture.width, picture.height):
        return None
    record = f"its record says {picture.width} x {picture.height}"
    if rotated and (width, height) == (picture.width, picture.height):
        return (
            f"{where}: is {seen[0]} x {seen[1]} as its EXIF rotation shows it, {record}: "
            "it was annotated unrotated. Remove the EXIF orientation from the file"
        )
    return (
        f"{where}: is {seen[0]} x {seen[1]} pixels, {record}: "
        "mend the record, and scale its annotations if they fit it"
    )
