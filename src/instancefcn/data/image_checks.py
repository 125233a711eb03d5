"""What is wrong with a box, a picture's file or the classes of two splits. Whole datasets: `data/doctor`."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.errors import ImageError, Problem
from instancefcn.images.decoding import SIDEWAYS, check_samples, stored_turn, turn_of
from instancefcn.images.opening import describe_error, open_image
from instancefcn.limits import MAX_FILE_BYTES

TOLERANCE = 2.0
"""Pixels by which a box may leave the picture: tools round differently. It is cut at the edge anyway."""

THUMB = 17
"""Side of the tiny gray version of a picture by which nearly equal ones are found, in pixels."""


def box_problem(box: tuple[float, float, float, float], height: int, width: int) -> Problem | None:
    """What is wrong with a box x1, y1, x2, y2 in a picture of this size; None when nothing is.

    A box without width or without height passes (real outlines can be that thin), one without both does not.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return Problem(f"box {_written(box)} holds a number that is not finite: draw it again", "zero-area")
    if x2 < x1 or y2 < y1 or (x1 == x2 and y1 == y2):
        return Problem(
            f"box {_written(box)} (x, y, width, height) has no area: draw it again or remove the annotation",
            "zero-area",
        )
    if x1 < -TOLERANCE or y1 < -TOLERANCE or x2 > width + TOLERANCE or y2 > height + TOLERANCE:
        return Problem(
            f"box {_written(box)} (x, y, width, height) is outside the {width} x {height} picture: "
            "draw it again (was it drawn at another size?)",
            "out-of-bounds",
        )
    return None


def _written(box: tuple[float, float, float, float]) -> str:
    x1, y1, x2, y2 = box
    return f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}]"


@dataclass(frozen=True, eq=False)
class Look:
    """What one look at a picture's file told.

    Attributes:
        problem: what is wrong with it, or None.
        size: (height, width) in pixels as a viewer shows it; None when it could not be decoded.
        turned: EXIF data (in TIFF: a tag) ask viewers to turn or mirror what is stored.
        digest: of the file's bytes; empty when it could not be decoded.
        thumb: uint8 [THUMB, THUMB]: the upright picture, gray and tiny; zeros when it could not be decoded.
    """

    problem: Problem | None
    size: tuple[int, int] | None
    turned: bool
    digest: bytes
    thumb: NDArray[np.uint8]


def look_at_all(
    images: Sequence[ImageRecord], progress: Callable[[int, int], None] | None = None
) -> list[Look]:
    """Decode every picture once, in threads; what was seen, in the pictures' order.

    `progress` is called with (pictures seen, pictures).
    """
    looks: list[Look] = []
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        for done, seen in enumerate(pool.map(look, images), start=1):
            looks.append(seen)
            if progress:
                progress(done, len(images))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt need not wait for the other pictures
    return looks


def image_problems(
    images: Sequence[ImageRecord], progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Decode every picture; what is wrong, in the pictures' order."""
    return [seen.problem for seen in look_at_all(images, progress) if seen.problem]


def image_problem(image: ImageRecord) -> Problem | None:
    """What is wrong with a picture's file: missing, no picture, truncated, too large or of another size."""
    return look(image).problem


def look(image: ImageRecord) -> Look:
    """Decode a picture and compare it with its record.

    A JPEG is decoded at down to an eighth of its size, which reads every byte of the file at half the cost.
    """
    where = f"{image.path}: image {image.id}"
    try:
        if image.path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(f"has more than {MAX_FILE_BYTES / 2**30:g} GB")
        content = image.path.read_bytes()
        with open_image(content) as opened:
            asked = stored_turn(opened)
            turn = turn_of(opened)
            width, height = opened.size  # after turn_of, which may turn it, and before draft
            opened.draft("RGB", (64, 64))
            opened.load()
            thumb = _thumb(opened if turn is None else opened.transpose(turn))
    except FileNotFoundError:
        what = "there is no such picture: add it or remove its record and annotations"
        return _blind(image, "missing-picture", f"{where}: {what}")
    except Exception as error:
        return _blind(image, "unreadable-picture", f"{where}: {describe_error(error)}: replace the file")
    size = (width, height) if turn in SIDEWAYS else (height, width)
    stored = size[::-1] if asked in SIDEWAYS else size
    problem = None if size == (image.height, image.width) else _size_problem(image, stored, size)
    return Look(problem, size, asked is not None, hashlib.blake2b(content, digest_size=16).digest(), thumb)


def _blind(image: ImageRecord, check: str, text: str) -> Look:
    nothing = np.zeros((THUMB, THUMB), np.uint8)
    return Look(Problem(text, check, image=image.path), None, False, b"", nothing)


def _size_problem(image: ImageRecord, stored: tuple[int, int], size: tuple[int, int]) -> Problem:
    where = f"{image.path}: image {image.id}"
    record = f"its record says {image.width} x {image.height}"
    if size != stored == (image.height, image.width):
        return Problem(
            f"{where}: is {size[1]} x {size[0]} as its EXIF rotation shows it, {record}: "
            "it was annotated unrotated. Remove the EXIF orientation from the file",
            "exif-rotation",
            image=image.path,
        )
    return Problem(
        f"{where}: is {size[1]} x {size[0]} pixels, {record}: "
        "mend the record, and scale its annotations if they fit it",
        "size-mismatch",
        image=image.path,
    )


def _thumb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        samples = np.asarray(image)
        check_samples(samples)
        values = samples.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))
    elif image.mode != "L":
        image = (image.convert("RGBA") if "transparency" in image.info else image).convert("L")
    return np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX), np.uint8)


def class_problems(first: Dataset, other: Dataset) -> list[str]:
    """The categories in which two splits differ."""
    if not first.category_ids or not other.category_ids:
        return []  # the reader has said why
    ours = dict(zip(first.category_ids, first.class_names, strict=True))
    theirs = dict(zip(other.category_ids, other.class_names, strict=True))
    return [
        Problem(
            f"{other.name}: category {id_} is {theirs.get(id_, 'missing')!r}, "
            f"in {first.name} {ours.get(id_, 'missing')!r}: "
            "write the same categories in both files",
            "class-names",
        )
        for id_ in sorted(ours.keys() | theirs.keys())
        if ours.get(id_) != theirs.get(id_)
    ]
