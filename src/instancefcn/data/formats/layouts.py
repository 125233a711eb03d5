"""Which format a dataset is in, and its splits as `Dataset`s. docs/data.md shows every layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.coco import CocoExport, CocoFolder, CocoYaml, there
from instancefcn.data.formats.gathering import OnProgress
from instancefcn.data.formats.labelme import LabelmeFolder
from instancefcn.data.formats.mask_folder import MaskFolder, ObjectMaskFolder
from instancefcn.data.formats.sbd import SbdFolder
from instancefcn.data.formats.voc import VocFolder
from instancefcn.data.formats.yolo import YoloFolder
from instancefcn.data.image_checks import class_problems, image_problems
from instancefcn.data.text_files import read_yaml
from instancefcn.errors import DataError
from instancefcn.safe_text import plain

COCO = CocoFolder | CocoExport | CocoYaml
"""The layouts of COCO JSON, whose `places` say where a split's annotation file and pictures are."""


class Layout(Protocol):
    """A dataset of one format.

    Attributes:
        title: the format, and by what it was recognised.
    """

    @property
    def title(self) -> str: ...

    def splits(self) -> list[str]:
        """Their names: "train" first, then "val", then others."""

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split as a dataset called `name`, and what is wrong with the rest.

        Raises:
            DataError: nothing of it can be read.
        """


def recognise(data: Path | str) -> Layout:
    """The layout of a folder or YAML file.

    Raises:
        DataError: it is not there, or of no known layout.
    """
    data = Path(data)
    if data.is_file():
        return YoloFolder.at(data) or CocoYaml.at(data)
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder or YAML file")
    # What has a file or folder of a telling name comes before what any folder of pictures may look like.
    for layout in (
        CocoFolder,
        CocoExport,
        VocFolder,
        SbdFolder,
        YoloFolder,
        MaskFolder,
        ObjectMaskFolder,
        LabelmeFolder,
    ):
        found: Layout | None = layout.at(data)
        if found is not None:
            return found
    raise DataError(
        f"{data}: is no dataset of a known layout; {there('files and folders', _some(data))}. Known are: "
        "train.json and images/, train/_annotations.coco.json, or annotations/instances_train.json and "
        "train/ (COCO), ImageSets/Segmentation (VOC), inst/*.mat (SBD), data.yaml with names (YOLO), images/ "
        "and masks/, a folder with images/ and masks/ for each picture, and LabelMe's JSON files. COCO's "
        f"files that lie elsewhere can be named in a YAML file (docs/data.md){_unread(data)}"
    )


def _unread(folder: Path) -> str:
    """What keeps the YAML files in a folder, which may be YOLO's, from being read."""
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
    """One line for the person who waits: what `data` was recognised as. Raises DataError when it was not."""
    layout = recognise(data)
    return f"{data}: {layout.title}; splits: {', '.join(layout.splits()) or 'none'}"


def splits_of(data: Path | str) -> list[str]:
    """Names of the splits that are there: "train" first, then "val", then others.

    Raises:
        DataError: there is no dataset of a known layout.
    """
    return recognise(data).splits()


def read_split(
    data: Path | str, split: str, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, list[str]]:
    """Whatever of a split could be read, and everything that is wrong with the rest. No picture is decoded.

    Args:
        data: a folder of any layout in docs/data.md, or a YAML file of COCO's or YOLO's kind.
        split: "train", "val" or any other name that is there.
        progress: called with (pictures read, pictures) by formats that are read picture by picture.

    Raises:
        DataError: nothing can be read; it holds everything that is wrong.
    """
    return _read(recognise(data), Path(data), split, progress)


def _read(
    layout: Layout, data: Path, split: str, progress: OnProgress | None = None
) -> tuple[Dataset, list[str]]:
    if not isinstance(layout, CocoFolder | CocoYaml) and split not in layout.splits():
        raise DataError(f"{data}: has no split {split!r}; {there('splits', layout.splits())}")
    dataset, problems = layout.read(split, f"{data.resolve().stem}/{split}", progress)
    if not dataset.images:
        raise DataError(problems or f"{dataset.name}: holds no picture: there is nothing to learn")
    return dataset, problems


def open_dataset(data: Path | str, split: str, *, check_images: bool = True) -> Dataset:
    """One split of a dataset.

    Args:
        data: a folder of any layout in docs/data.md, such as one with SPLIT.json (COCO) and images/; or a
            YAML file such as

                train: {annotations: train.json, images: photos}
                val: {annotations: val.json, images: photos}

            whose paths start from the YAML file's folder, or YOLO's data.yaml.
        split: "train", "val" or any other name that is there.
        check_images: decode every picture once, so that a broken one is known now.

    Raises:
        DataError: everything that is wrong with the files, annotations and pictures.
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
    """Several splits with the same classes; what is wrong with any of them is raised together.

    `progress` is called with (pictures checked, pictures) over all splits, `reading` before that with
    (pictures read, pictures) of each split whose annotations lie in a file a picture.

    Raises:
        DataError: everything that is wrong, also classes that differ between splits.
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
