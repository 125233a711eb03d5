"""The splits of a dataset by the names of its files and folders: "Training" is train, "valid" is val."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from instancefcn.data.paths import folders_in, walked
from instancefcn.errors import DataError

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The split that each word means."""
_SILENT = frozenset(
    {"annotation", "annotations", "coco", "data", "dataset", "image", "images", "instances", "labels"}
    | {"mask", "masks", "set", "split"}
)
"""Words that may stand beside these and say nothing about the split."""
_DOUBTFUL = frozenset(
    {"dev", "devel", "development", "eval", "evaluation", "heldout", "holdout", "minitrain", "minival"}
    | {"trainval", "trainvaltest", "traintest", "unlabeled", "unlabelled"}
)
"""Words that name some split, but not which."""


def split_of(name: str) -> str | None:
    """The split that a name means, whatever its case: "train", "val" or "test"; None if that is not certain.

    Years and words such as "instances" do not count: "instances_Train2017" is train, "train_small" is none.
    """
    words = [word for word in _words(name) if word not in _SILENT and not re.fullmatch(r"\d{4}", word)]
    return _SPLITS.get(words[0]) if len(words) == 1 else None


def looks_like_split(name: str) -> bool:
    """Whether a name may mean a split: it does, or it has a word such as "eval", "fold" or "train"."""
    return any(word in _DOUBTFUL or word in _SPLITS or word in ("fold", "split") for word in _words(name))


def _words(name: str) -> list[str]:
    """The words and numbers of a name in lower case; "TrainSet" and "trainset" are train and set."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+|\d+", apart.casefold())
    return [part for word in words for part in _without_set(word)]


def _without_set(word: str) -> list[str]:
    stem = word.removesuffix("set")
    return [stem, "set"] if stem != word and stem in _SPLITS else [word]


def name_splits(written: Sequence[str], *, sole: bool = True) -> dict[str, str]:
    """The splits' names by the names they are written with.

    "Valid" is val and "train2017" train, unless two names would become equal: these stay as they are written,
    so that "train" is train also beside "Training".

    Args:
        written: the names.
        sole: a single name that says nothing about splits ("default", "labels") is train.
    """
    if sole and len(written) == 1 and not looks_like_split(written[0]):
        return {written[0]: "train"}
    short = {name: split_of(name) or re.sub(r"(?<=\D)\d{4}$", "", name) for name in written}
    counts = Counter(short.values())
    return {name: plain if counts[plain] == 1 else name for name, plain in short.items()}


def sort_splits(splits: Sequence[str]) -> list[str]:
    """Split names: "train" first, "val" second, the others by name."""
    return sorted(set(splits), key=lambda split: (("train", "val", split).index(split), split))


def folders_of_splits(
    root: Path, holds: Callable[[Path], bool], loose: Callable[[Path], bool]
) -> dict[str, Path]:
    """The folder of each split, for formats without lists of images.

    If a folder named like train, val or test holds data, every folder that holds data is a split. Otherwise
    all of `root` is "train".

    Args:
        root: the dataset's folder.
        holds: whether a folder holds data of the format.
        loose: whether a folder holds data beside the folders of the splits.

    Raises:
        DataError: `root` has folders of splits and loose data beside them, or folders whose names may mean
            splits: their images are never trained on by guess.
    """
    if not has_splits(root, holds):
        if doubtful := _doubtful(root, holds):
            raise DataError(
                f"{root}: {', '.join(map(str, doubtful))} may be splits, but which is not certain: name the "
                f"folders of splits train, val and test, directly in {root}, or give the folder of one split"
            )
        return {"train": root}
    if loose(root):
        raise DataError(
            f"{root}: has annotated images beside the folders of the splits "
            f"({', '.join(f.name for f in split_folders(root) if holds(f))}): move them into one of these"
        )
    folders = {folder.name: folder for folder in folders_in(root) if holds(folder)}
    splits = {split: folders[written] for written, split in name_splits(list(folders)).items()}
    return {split: splits[split] for split in sort_splits(list(splits))}


def has_splits(folder: Path, holds: Callable[[Path], bool]) -> bool:
    """Whether a folder in a folder is named like train, val or test and `holds` data."""
    return any(split_of(inside.name) and holds(inside) for inside in split_folders(folder))


def split_folders(folder: Path) -> list[Path]:
    """The folders in a folder whose names may mean splits; none if it does not exist."""
    return (
        [inside for inside in folders_in(folder) if looks_like_split(inside.name)] if folder.is_dir() else []
    )


def _doubtful(root: Path, holds: Callable[[Path], bool]) -> list[Path]:
    """The outermost folders below `root` that may be splits and hold data."""
    found: list[Path] = []
    for folder, _ in walked(root):
        inside = folder != root and not any(folder.is_relative_to(other) for other in found)
        if inside and looks_like_split(folder.name) and holds(folder):
            found.append(folder)
    return [folder.relative_to(root) for folder in found]
