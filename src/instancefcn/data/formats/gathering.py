"""What the readers of several formats share: reading image by image in threads, and numbering."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord, too_many_pixels
from instancefcn.data.text_files import read_text
from instancefcn.data.unusable import in_image
from instancefcn.errors import DataError
from instancefcn.geometry.outlines import Segmentation, extent, to_rle
from instancefcn.geometry.rle import run_lengths
from instancefcn.limits import MAX_PROBLEMS

Source = TypeVar("Source")
OnProgress = Callable[[int, int], None]
"""Called with (images done, images in total)."""


def gather(
    name: str,
    classes: tuple[Sequence[str], Sequence[int]],
    items: Sequence[Source],
    read: Callable[[Source], tuple[ImageRecord | None, list[str]]],
    progress: OnProgress | None = None,
) -> tuple[Dataset, list[str]]:
    """Read every item in threads into one dataset.

    Images keep the order of the items. Images and annotations are numbered from 1.

    Args:
        name: the dataset's name.
        classes: names and ids of the labels 0, 1, ..
        items: what `read` takes, one per image.
        read: returns an image (None if it cannot be used) and its problems. Called in threads.
        progress: called after every image.

    Returns:
        The dataset, and every problem found.

    Raises:
        DataError: there are more than MAX_PROBLEMS problems.
    """
    images: list[ImageRecord] = []
    problems: list[str] = []
    number = 0
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        for done, (image, found) in enumerate(pool.map(read, items), start=1):
            if image is not None and (problem := too_many_pixels(image)):
                image, found = None, [*found, problem]
            if image is not None:
                annotations = tuple(
                    replace(a, id=number + i) for i, a in enumerate(image.annotations, start=1)
                )
                number += len(annotations)
                images.append(replace(image, id=len(images) + 1, annotations=annotations))
                found = [in_image(problem, images[-1]) for problem in found]
            problems += found
            if len(problems) > MAX_PROBLEMS:
                raise DataError(capped_problems(problems))
            if progress:
                progress(done, len(items))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the remaining images
    return Dataset(name, tuple(images), tuple(classes[0]), tuple(classes[1])), problems


def capped_problems(problems: list[str]) -> list[str]:
    """The first MAX_PROBLEMS problems, and a line saying that reading stopped there."""
    return [*problems[:MAX_PROBLEMS], f"and more: reading ended at {MAX_PROBLEMS:,} problems"]


def annotation_from_outline(
    label: int, segmentation: Segmentation, height: int, width: int, crowd: bool = False
) -> Annotation:
    """An annotation without an id, whose box and area come from its valid outline.

    The box encloses the points of polygons or the pixels of an RLE. The area is the number of pixels.
    """
    area = int(run_lengths(to_rle(segmentation, height, width)["counts"])[1::2].sum())
    return Annotation(0, label, extent(segmentation, height, width), segmentation, float(area), crowd)


def read_lines(path: Path) -> list[str]:
    """The non-blank lines of a text file, stripped.

    Raises:
        DataError: the file cannot be read, or is not UTF-8 text.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataError(f"{path}: file not found: add it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        reason = f"is not UTF-8 text ({error.reason})" if isinstance(error, UnicodeDecodeError) else error
        raise DataError(f"{path}: {reason}: write the file again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def list_found(kind: str, names: Sequence[str]) -> str:
    """For messages, what exists instead: "found splits: train, val" or "no splits found"."""
    return f"found {kind}: {', '.join(names)}" if names else f"no {kind} found"
