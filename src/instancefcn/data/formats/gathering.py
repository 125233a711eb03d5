"""What the readers of several formats share: reading picture by picture in threads, and numbering."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord, too_many_pixels
from instancefcn.data.paths import folders_in
from instancefcn.data.text_files import read_text
from instancefcn.errors import DataError
from instancefcn.geometry.outlines import Segmentation, extent, to_rle
from instancefcn.geometry.rle import run_lengths
from instancefcn.limits import MAX_PROBLEMS

Source = TypeVar("Source")
OnProgress = Callable[[int, int], None]
"""Called with (pictures done, pictures)."""


def gather(
    name: str,
    classes: tuple[Sequence[str], Sequence[int]],
    items: Sequence[Source],
    read: Callable[[Source], tuple[ImageRecord | None, list[str]]],
    progress: OnProgress | None = None,
) -> tuple[Dataset, list[str]]:
    """The dataset of what `read` makes of every item, in the items' order, and everything that is wrong.

    Pictures and annotations are numbered from 1.

    Args:
        name: the dataset's.
        classes: names and ids of the labels 0, 1, ..
        read: gives a picture (None: not usable) and what is wrong with it; runs in threads.

    Raises:
        DataError: more than MAX_PROBLEMS things are wrong.
    """
    images: list[ImageRecord] = []
    problems: list[str] = []
    number = 0
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        for done, (image, found) in enumerate(pool.map(read, items), start=1):
            problems += found
            if len(problems) > MAX_PROBLEMS:
                raise DataError(given_up(problems))
            if image is not None and (problem := too_many_pixels(image)):
                problems.append(problem)
            elif image is not None:
                annotations = tuple(
                    replace(a, id=number + i) for i, a in enumerate(image.annotations, start=1)
                )
                number += len(annotations)
                images.append(replace(image, id=len(images) + 1, annotations=annotations))
            if progress:
                progress(done, len(items))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt need not wait for the other pictures
    return Dataset(name, tuple(images), tuple(classes[0]), tuple(classes[1])), problems


def given_up(problems: list[str]) -> list[str]:
    """What is said of data in which too much is wrong."""
    return [*problems[:MAX_PROBLEMS], f"and more: reading ended at {MAX_PROBLEMS:,} problems"]


def outlined(
    label: int, segmentation: Segmentation, height: int, width: int, crowd: bool = False
) -> Annotation:
    """An annotation, not numbered yet, whose box and area follow from its (valid) outline.

    The box of polygons is that of their points, the box of an RLE that of its pixels; the area counts pixels.
    """
    area = int(run_lengths(to_rle(segmentation, height, width)["counts"])[1::2].sum())
    return Annotation(0, label, extent(segmentation, height, width), segmentation, float(area), crowd)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        reason = f"is no text in UTF-8 ({error.reason})" if isinstance(error, UnicodeDecodeError) else error
        raise DataError(f"{path}: {reason}: write it again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def in_order(splits: Sequence[str]) -> list[str]:
    """Names of splits: "train" first, then "val", then the others by name."""
    return sorted(set(splits), key=lambda split: (("train", "val", split).index(split), split))


def folders_of_splits(
    root: Path, holds: Callable[[Path], bool], loose: Callable[[Path], bool]
) -> dict[str, Path]:
    """Where the splits of a format without lists lie.

    When train/ or val/ is there, each folder that `holds` data of the format is a split; otherwise the whole
    folder is "train".

    Raises:
        DataError: there are folders of splits, and `loose` says that more data lies beside them.
    """
    if not has_splits(root, holds):
        return {"train": root}
    if loose(root):
        raise DataError(
            f"{root}: holds annotated pictures beside the folders train/ or val/: move them into one of these"
        )
    there = {folder.name: folder for folder in folders_in(root) if holds(folder)}
    return {split: there[split] for split in in_order(list(there))}


def has_splits(folder: Path, holds: Callable[[Path], bool]) -> bool:
    """Whether train/ or val/ in a folder `holds` data."""
    return any((folder / split).is_dir() and holds(folder / split) for split in ("train", "val"))
