"""Recognise the format of a dataset and read its splits. docs/data.md shows every layout."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.coco_layouts import CocoFolder, CocoYaml
from instancefcn.data.formats.gathering import OnProgress, list_found
from instancefcn.data.formats.labelme import LabelmeFolder
from instancefcn.data.formats.mask_folder import MaskFolder, ObjectMaskFolder
from instancefcn.data.formats.sbd import SbdFolder
from instancefcn.data.formats.split_names import split_of
from instancefcn.data.formats.voc import VocFolder
from instancefcn.data.formats.yolo import YoloFolder
from instancefcn.data.image_checks import class_problems, image_problems
from instancefcn.data.paths import LABELLING, files_below
from instancefcn.data.text_files import read_yaml
from instancefcn.errors import DataError
from instancefcn.safe_text import plain

CocoLayout = CocoFolder | CocoYaml
"""The layouts of COCO JSON. Their `paths` are a split's annotation file and folder of images."""


_ASIDE = re.compile(
    r"(?i)(readme|licen[cs]e|attribution|citation|notice|repairs\.json|thumbs\.db).*|.*\.(md|cache)"
)
"""Files beside a dataset that nobody expects to be read: papers, our list of repairs, caches."""


class Layout(Protocol):
    """A dataset of one format.

    Attributes:
        title: the format, and what it was recognised by.
        reads: suffixes of the files that hold annotations, in lower case.
    """

    @property
    def title(self) -> str: ...

    @property
    def reads(self) -> Collection[str]: ...

    def splits(self) -> list[str]:
        """Split names: "train" first, "val" second, others after them."""

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split as a dataset called `name`, and the problems of the rest.

        Raises:
            DataError: nothing can be read.
        """


def recognise(data: Path | str) -> Layout:
    """The layout of a folder or YAML file.

    Raises:
        DataError: it does not exist, or has no known layout.
    """
    data = Path(data)
    if data.is_file():
        return YoloFolder.at(data) or CocoYaml.at(data)
    if not data.is_dir():
        raise DataError(f"{data}: folder or YAML file not found: correct the path")
    # Layouts with a distinctive file or folder come before those that any folder of images may match.
    layouts: tuple[Callable[[Path], Layout | None], ...] = (
        CocoFolder.at,
        VocFolder.at,
        SbdFolder.at,
        YoloFolder.at,
        MaskFolder.at,
        ObjectMaskFolder.at,
        LabelmeFolder.at,
        YoloFolder.at_class_list,
        CocoFolder.at_last,
    )
    for layout_at in layouts:
        found = layout_at(data)
        if found is not None:
            return found
    raise DataError(
        f"{data}: is not a dataset of a known layout; {list_found('files and folders', _some(data))}. "
        "Known layouts: train.json and images/, train/_annotations.coco.json, or "
        "annotations/instances_train.json and train/ (COCO); ImageSets/Segmentation (VOC); inst/*.mat (SBD); "
        "data.yaml with names, or classes.txt and labels/ (YOLO); images/ and masks/; one folder with "
        "images/ and masks/ per image; LabelMe's JSON files. For COCO files in other places, write a YAML "
        "file that names them "
        f"(docs/data.md){_unreadable_yaml(data)}"
    )


def _unreadable_yaml(folder: Path) -> str:
    """Why YAML files in a folder, which may be YOLO's, cannot be read."""
    reasons = ""
    for file in sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml")):
        try:
            read_yaml(file)
        except (OSError, ValueError) as error:
            reasons += f". {file.name} cannot be read: {plain(str(error))[:200]}"
    return reasons


def _some(folder: Path) -> list[str]:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return names[:10] + [".."] * (len(names) > 10)


def describe_layout(data: Path | str) -> str:
    """One line for the user: the format and splits of `data`. Raises DataError if it has no known layout."""
    layout = recognise(data)
    return f"{data}: {layout.title}; splits: {', '.join(layout.splits()) or 'none'}"


def splits_of(data: Path | str) -> list[str]:
    """The names of a dataset's splits: "train" first, "val" second, others after them.

    Raises:
        DataError: `data` has no known layout.
    """
    return recognise(data).splits()


def unread_files(data: Path | str, datasets: Sequence[Dataset]) -> list[Path]:
    """The files in a dataset's folder that none of its splits uses, sorted. Links that lead nowhere are among
    them; papers such as licences, hidden files and what `instancefcn label` keeps are not.

    Args:
        data: none if it is a YAML file, which may name folders anywhere.
        datasets: all splits.

    Raises:
        DataError: `data` has no known layout.
    """
    layout = recognise(data)
    own = Path(data) / LABELLING
    used = {os.path.abspath(image.path) for dataset in datasets for image in dataset.images}
    if isinstance(layout, CocoFolder):
        used |= {os.path.abspath(file) for file in layout.files.values()}
    return [
        path
        for path in (files_below(Path(data)) if Path(data).is_dir() else [])
        if not path.exists()
        or not (
            path.suffix.lower() in layout.reads
            or os.path.abspath(path) in used
            or _ASIDE.fullmatch(path.name)
            or path.is_relative_to(own)
        )
    ]


def read_split(
    data: Path | str, split: str, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, list[str]]:
    """The usable part of a split, and every problem of the rest. No image is decoded.

    Args:
        data: a folder of any layout in docs/data.md, or a YAML file for COCO or YOLO.
        split: "train", "val" or another split of the dataset.
        progress: called with (images read, images in total) by formats with one annotation file per image.

    Raises:
        DataError: nothing can be read; it lists every problem.
    """
    return _read(recognise(data), Path(data), split, progress)


def _read(
    layout: Layout, data: Path, split: str, progress: OnProgress | None = None
) -> tuple[Dataset, list[str]]:
    if split not in layout.splits():
        split = split_of(split) or split
    if not isinstance(layout, CocoLayout) and split not in layout.splits():
        raise DataError(f"{data}: has no split {split!r}; {list_found('splits', layout.splits())}")
    dataset, problems = layout.read(split, f"{data.resolve().stem}/{split}", progress)
    if not dataset.images:
        raise DataError(problems or f"{dataset.name}: no image found: there is nothing to train on")
    return dataset, problems


def open_dataset(data: Path | str, split: str, *, check_images: bool = True) -> Dataset:
    """One split of a dataset.

    Args:
        data: a folder of any layout in docs/data.md, such as one with SPLIT.json (COCO) and images/; or a
            YAML file such as

                train: {annotations: train.json, images: photos}
                val: {annotations: val.json, images: photos}

            whose paths start in the YAML file's folder, or YOLO's data.yaml.
        split: "train", "val" or another split of the dataset.
        check_images: decode every image once, so that a broken one is found now.

    Raises:
        DataError: every problem of the files, annotations and images.
    """
    return open_datasets(data, (split,), check_images=check_images)[0]


def open_datasets(
    data: Path | str,
    splits: Sequence[str],
    *,
    check_images: bool = True,
    progress: Callable[[int, int], None] | None = None,
    reading: Callable[[int, int], None] | None = None,
) -> list[Dataset]:
    """Several splits with the same classes.

    Args:
        data: see `open_dataset`.
        splits: their names.
        check_images: decode every image once, so that a broken one is found now.
        progress: called with (images checked, images in total) over all splits.
        reading: called before that with (images read, images in total), for each split with one annotation
            file per image.

    Raises:
        DataError: every problem of all splits, and classes that differ between them.
    """
    data = Path(data)
    layout = recognise(data)
    problems: list[str] = []
    datasets: list[Dataset] = []
    for split in splits:
        try:
            dataset, found = _read(layout, data, split, reading)
        except DataError as error:
            problems += error.problems
            continue
        problems += found
        datasets.append(dataset)
    if check_images:
        problems += image_problems([p for d in datasets for p in d.images], progress)
    for dataset in datasets[1:]:
        problems += class_problems(datasets[0], dataset)
    if problems:
        raise DataError(problems)
    return datasets
