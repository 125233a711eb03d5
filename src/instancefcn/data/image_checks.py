"""Check a box, an image file, or the classes of two splits. `data/doctor` checks whole datasets."""

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
from instancefcn.images.decoding import SIDEWAYS, flattened, stored_turn, turn_of
from instancefcn.images.embedded import image_bytes
from instancefcn.images.opening import describe_error, open_image
from instancefcn.images.pages import count_pages
from instancefcn.images.samples import check_samples
from instancefcn.limits import MAX_FILE_BYTES

TOLERANCE = 2.0
"""How far a box may reach outside the image, in pixels: tools round differently."""

THUMB = 17
"""Side of the gray thumbnail by which near duplicates are found, in pixels."""


def box_problem(box: tuple[float, float, float, float], height: int, width: int) -> Problem | None:
    """The problem of a box x1, y1, x2, y2 in an image of this size, or None.

    A box may lack width or height, as real outlines can be that thin, but not both.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return Problem(f"box {_as_coco(box)} has a number that is not finite: draw it again", "zero-area")
    if x2 < x1 or y2 < y1 or (x1 == x2 and y1 == y2):
        return Problem(
            f"box {_as_coco(box)} (x, y, width, height) has no area: draw it again or remove the annotation",
            "zero-area",
        )
    if x1 < -TOLERANCE or y1 < -TOLERANCE or x2 > width + TOLERANCE or y2 > height + TOLERANCE:
        return Problem(
            f"box {_as_coco(box)} (x, y, width, height) reaches outside the {width} x {height} image: "
            "draw it again (it may be drawn for another image size)",
            "out-of-bounds",
        )
    return None


def _as_coco(box: tuple[float, float, float, float]) -> str:
    x1, y1, x2, y2 = box
    return f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}]"


@dataclass(frozen=True, eq=False)
class Inspection:
    """What decoding an image file once shows.

    Attributes:
        problem: what is wrong with the file, or None.
        size: (height, width) in pixels after EXIF rotation; None if it cannot be decoded.
        turned: EXIF data (in TIFF: a tag) tell viewers to rotate or mirror the stored pixels.
        digest: hash of the file's bytes; empty if it cannot be decoded.
        thumb: uint8 [THUMB, THUMB], a gray thumbnail of the upright image; zeros if it cannot be decoded.
        pages: pages or frames of the file; the first is read.
    """

    problem: Problem | None
    size: tuple[int, int] | None
    turned: bool
    digest: bytes
    thumb: NDArray[np.uint8]
    pages: int = 1


def inspect_images(
    images: Sequence[ImageRecord], progress: Callable[[int, int], None] | None = None
) -> list[Inspection]:
    """Decode every image once, in threads, and return one inspection per image in order.

    `progress` is called with (images inspected, images in total).
    """
    inspections: list[Inspection] = []
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        for done, inspection in enumerate(pool.map(inspect_image, images), start=1):
            inspections.append(inspection)
            if progress:
                progress(done, len(images))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the remaining images
    return inspections


def image_problems(
    images: Sequence[ImageRecord], progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Decode every image and return the problems in order: missing, unreadable, or of another size."""
    return [inspection.problem for inspection in inspect_images(images, progress) if inspection.problem]


def inspect_image(image: ImageRecord) -> Inspection:
    """Decode an image and compare it with its record.

    A JPEG is decoded at down to an eighth of its size, which reads the whole file in half the time.
    """
    where = f"{image.path}: image {image.id}"
    try:
        if image.path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(f"has more than {MAX_FILE_BYTES / 2**30:g} GB")
        content = image_bytes(image.path)
        with open_image(content) as opened:
            pages = count_pages(opened)
            asked = stored_turn(opened)
            turn = turn_of(opened)
            width, height = opened.size  # after turn_of, which may rotate it, and before draft
            opened.draft("RGB", (64, 64))
            opened.load()
            thumb = _thumb(opened if turn is None else opened.transpose(turn))
    except FileNotFoundError:
        what = "file not found: add it or remove its record and annotations"
        return _undecoded(image, "missing-image", f"{where}: {what}")
    except Exception as error:
        return _undecoded(image, "unreadable-image", f"{where}: {describe_error(error)}: replace the file")
    size = (width, height) if turn in SIDEWAYS else (height, width)
    stored = size[::-1] if asked in SIDEWAYS else size
    problem = None if size == (image.height, image.width) else _size_problem(image, stored, size)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Inspection(problem, size, asked is not None, digest, thumb, pages)


def _undecoded(image: ImageRecord, check: str, text: str) -> Inspection:
    nothing = np.zeros((THUMB, THUMB), np.uint8)
    return Inspection(Problem(text, check, image=image.path), None, False, b"", nothing)


def _size_problem(image: ImageRecord, stored: tuple[int, int], size: tuple[int, int]) -> Problem:
    where = f"{image.path}: image {image.id}"
    record = f"its record says {image.width} x {image.height}"
    if size != stored == (image.height, image.width):
        return Problem(
            f"{where}: is {size[1]} x {size[0]} pixels after EXIF rotation, {record}: it was annotated "
            "unrotated, so remove the EXIF orientation from the file",
            "exif-rotation",
            image=image.path,
        )
    return Problem(
        f"{where}: is {size[1]} x {size[0]} pixels, {record}: "
        "correct the record, and scale annotations that fit its old size",
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
        image = flattened(image).convert("L")
    return np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX), np.uint8)


def class_problems(first: Dataset, other: Dataset) -> list[str]:
    """One problem per category in which two splits differ."""
    if not first.category_ids or not other.category_ids:
        return []  # the reader has reported why
    ours = dict(zip(first.category_ids, first.class_names, strict=True))
    theirs = dict(zip(other.category_ids, other.class_names, strict=True))
    return [
        Problem(
            f"{other.name}: category {id_} is {theirs.get(id_, 'missing')!r}, "
            f"but {ours.get(id_, 'missing')!r} in {first.name}: write the same categories in both files",
            "class-names",
        )
        for id_ in sorted(ours.keys() | theirs.keys())
        if ours.get(id_) != theirs.get(id_)
    ]
