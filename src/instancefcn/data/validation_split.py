"""Hold out images of a split for validation."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.image_checks import inspect_images
from instancefcn.data.near_duplicates import near_groups
from instancefcn.errors import ConfigError, DataError


def with_val(
    splits: Mapping[str, Dataset],
    share: float,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Dataset]:
    """The splits, with a share of the images of train (or of the only split) as a new split val.

    Args:
        splits: without val.
        share: between 0 and 1.
        progress: called with (images inspected, images in total).

    Raises:
        ConfigError: the share is out of range, val exists already, or there is no train to take it from.
        DataError: no object can be held out.
    """
    check_share(share, list(splits))
    source = "train" if "train" in splits else next(iter(splits))
    rest, held = hold_out(splits[source], share, progress)
    others = {name: dataset for name, dataset in splits.items() if name != source}
    return {"train": rest, "val": held, **others}


def check_share(share: float, names: list[str]) -> None:
    """Check that a share of images for val is valid and can be taken from splits of these names.

    Raises:
        ConfigError: it is not or cannot.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of val is {share:g}: choose one between 0 and 1, such as 0.2")
    if "val" in names:
        raise ConfigError("the split val exists already: leave out the share of val, or remove val")
    if "train" not in names and len(names) > 1:
        raise ConfigError(f"no train found to take val from, only {', '.join(names)}: rename one to train")


def hold_out(
    dataset: Dataset, share: float, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, Dataset]:
    """Split a dataset into images to train on and images that are held out.

    Hashes of the file names decide, so the same images give the same choice, and adding some changes little
    of it. Images that look nearly the same stay together, because a second view of a training scene measures
    nothing. Every class keeps an object to train on, and at least one object is held out.

    Args:
        dataset: its files must be decodable.
        share: share of the images to hold out, between 0 and 1. Fewer are held out if these rules require it.
        progress: called with (images inspected, images in total).

    Returns:
        The images to train on, and the held-out ones.

    Raises:
        DataError: no object can be held out.
    """
    wanted = max(1, round(share * len(dataset)))
    groups = _shuffled(dataset, _groups(dataset, progress))
    left = Counter(label for image in dataset.images for label in _labels(image))
    held: set[int] = set()

    def spare(group: list[int]) -> bool:
        """Whether enough is left to train on without this group."""
        labels = _count(dataset, group)
        return len(held) + len(group) < len(dataset) and all(left[x] > labels[x] for x in labels)

    usable = [group for group in groups if spare(group) and _count(dataset, group)]
    first = next((group for group in usable if len(group) <= wanted), None)
    if first is None:
        raise DataError(_why_none(dataset, usable))
    for group in (first, *(other for other in groups if other is not first)):
        if spare(group) and len(held) + len(group) <= wanted:
            held.update(group)
            left -= _count(dataset, group)
    rest = [i for i in range(len(dataset)) if i not in held]
    return dataset.subset(rest), dataset.subset(sorted(held))


def _why_none(dataset: Dataset, usable: list[list[int]]) -> str:
    """Why no object can be held out, and what to do. `usable` are the groups that could be held out."""
    if usable:
        smallest = min(map(len, usable))
        share = math.ceil(1000 * smallest / len(dataset)) / 1000
        return (
            f"{dataset.name}: no object can be held out for val: the smallest group of images that look alike"
            f" has {smallest}; give a share of at least {share:g}"
        )
    return (
        f"{dataset.name}: no object can be held out for val: there are too few images, too few of some"
        " class, or they look nearly the same; annotate more"
    )


def _labels(image: ImageRecord) -> set[int]:
    return {annotation.label for annotation in image.annotations if not annotation.crowd}


def _count(dataset: Dataset, group: list[int]) -> Counter[int]:
    """The number of images of a group that have each class."""
    return Counter(label for i in group for label in _labels(dataset.images[i]))


def _groups(dataset: Dataset, progress: Callable[[int, int], None] | None) -> list[list[int]]:
    """The images' indices, grouped: duplicates and near duplicates are in one group."""
    inspections = inspect_images(dataset.images, progress)
    first: dict[bytes, int] = {}
    files = np.array([first.setdefault(inspection.digest, i) for i, inspection in enumerate(inspections)])
    groups: dict[int, list[int]] = {}
    for i, number in enumerate(
        near_groups(np.stack([inspection.thumb for inspection in inspections]), files).tolist()
    ):
        groups.setdefault(number, []).append(i)
    return list(groups.values())


def _shuffled(dataset: Dataset, groups: list[list[int]]) -> list[list[int]]:
    """The groups, ordered by a hash of one file name of each."""
    common = os.path.commonpath([image.path.parent for image in dataset.images])
    names = [Path(os.path.relpath(image.path, common)).as_posix() for image in dataset.images]

    def key(group: list[int]) -> bytes:
        name = min(names[i] for i in group)
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()

    return sorted(groups, key=key)
