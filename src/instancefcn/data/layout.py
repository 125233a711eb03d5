"""Where a dataset's files are: a folder in the usual layout, or a YAML file that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from instancefcn.data.check import class_problems, picture_problems
from instancefcn.data.coco import parse_coco
from instancefcn.data.dataset import Dataset
from instancefcn.data.problem import REPAIRS
from instancefcn.errors import DataError

FORM = "{annotations: FILE.json, images: FOLDER}"
"""What a YAML file says of each split."""


def open_dataset(data: Path | str, split: str, *, check_pictures: bool = True) -> Dataset:
    """One split of a dataset.

    Args:
        data: a folder with SPLIT.json and images/, or a YAML file such as

                train: {annotations: train.json, images: photos}
                val: {annotations: val.json, images: photos}

            whose paths start from the YAML file's folder.
        split: "train", "val" or any other name that is there.
        check_pictures: decode every picture once, so that a broken one is known now.

    Raises:
        DataError: everything that is wrong with the files, annotations and pictures.
    """
    return open_datasets(data, (split,), check_pictures=check_pictures)[0]


def open_datasets(
    data: Path | str,
    splits: Sequence[str],
    *,
    check_pictures: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Dataset]:
    """Several splits with the same classes; what is wrong with any of them is raised together.

    `progress` is called with (pictures checked, pictures) over all splits.

    Raises:
        DataError: everything that is wrong, also classes that differ between splits.
    """
    data = Path(data)
    problems: list[str] = []
    datasets: list[Dataset] = []
    for split in splits:
        dataset, found = read_split(data, split)
        problems += found
        datasets.append(dataset)
    if check_pictures:
        problems += picture_problems([p for d in datasets for p in d.pictures], progress)
    for dataset in datasets[1:]:
        problems += class_problems(datasets[0], dataset)
    if problems:
        raise DataError(problems)
    return datasets


def splits_of(data: Path | str) -> list[str]:
    """The names of a dataset's splits, train and val first.

    Raises:
        DataError: there is no such dataset, or its YAML file cannot be read.
    """
    data = Path(data)
    if not data.exists():
        raise DataError(f"{data}: there is no such folder or YAML file")
    if data.is_file():
        names = [str(key) for key in _load_yaml(data, "SPLIT.json")]
    else:
        names = [p.stem for p in data.glob("*.json") if p.name != REPAIRS]
    return sorted(names, key=lambda name: (name != "train", name != "val", name))


def read_split(data: Path | str, split: str) -> tuple[Dataset, list[str]]:
    """What can be read of one split, and what is wrong with the rest. No picture is opened yet."""
    data = Path(data)
    name = f"{data.resolve().stem}/{split}"
    try:
        annotations, images = locate(data, split)
    except DataError as error:
        return Dataset(name, (), (), ()), list(error.problems)
    return parse_coco(annotations, images, name=name)


def locate(data: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the folder of pictures of a split.

    Raises:
        DataError: they are not there; the message names what is.
    """
    if not data.exists():
        raise DataError(f"{data}: there is no such folder or YAML file")
    if data.is_file():
        return _from_yaml(data, split)
    annotations, images = data / f"{split}.json", data / "images"
    problems = []
    if not annotations.is_file():
        there = sorted(p.stem for p in data.glob("*.json"))
        problems.append(f"{data}: has no {split}.json; {_there('splits', there)}")
    if not images.is_dir():
        there = sorted(p.name for p in data.iterdir() if p.is_dir())
        problems.append(
            f"{data}: has no folder images/; {_there('folders', there)}. If they lie elsewhere, name "
            "the places in a YAML file (train: {annotations: .., images: ..}) and give that instead"
        )
    if problems:
        raise DataError(problems)
    return annotations, images


def _load_yaml(path: Path, meant: str) -> dict[Any, Any]:
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise DataError(f"{path}: is neither a folder nor a .yaml file: give the folder that holds {meant}")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no YAML file ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold lines such as 'train: {FORM}'")
    return content


def _from_yaml(path: Path, split: str) -> tuple[Path, Path]:
    content = _load_yaml(path, f"{split}.json")
    if split not in content:
        raise DataError(f"{path}: has no {split!r}; {_there('splits', [str(key) for key in content])}")
    entry = content[split]
    if not isinstance(entry, dict) or not all(
        isinstance(entry.get(k), str) for k in ("annotations", "images")
    ):
        raise DataError(f"{path}: {split} must be {FORM}")
    if unknown := sorted(set(map(str, entry)) - {"annotations", "images"}):
        raise DataError(f"{path}: {split} holds {', '.join(unknown)}; only annotations and images are known")
    return path.parent / entry["annotations"], path.parent / entry["images"]


def _there(kind: str, names: Sequence[str]) -> str:
    return f"{kind} there: {', '.join(names)}" if names else f"there are no {kind}"
