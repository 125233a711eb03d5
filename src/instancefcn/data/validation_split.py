"""Keeping pictures of a split back, to measure on."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.image_checks import look_at_all
from instancefcn.data.near_duplicates import near_groups
from instancefcn.errors import ConfigError, DataError


def with_val(
    splits: Mapping[str, Dataset],
    share: float,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Dataset]:
    """The splits, with a share of the pictures of train (or of the only split) as a new split val.

    Args:
        splits: without val.
        share: between 0 and 1.
        progress: called with (pictures looked at, pictures).

    Raises:
        ConfigError: the share is none; there is a val already, or nothing to take it from.
        DataError: no object can be kept back.
    """
    check_share(share, list(splits))
    source = "train" if "train" in splits else next(iter(splits))
    rest, kept = hold_out(splits[source], share, progress)
    others = {name: dataset for name, dataset in splits.items() if name != source}
    return {"train": rest, "val": kept, **others}


def check_share(share: float, names: list[str]) -> None:
    """Raises ConfigError when a share of pictures for val is none, or cannot be taken from splits of these
    names.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of val must lie between 0 and 1, such as 0.2, and not be {share:g}")
    if "val" in names:
        raise ConfigError("there is a split val already: leave the share of val out, or take val away")
    if "train" not in names and len(names) > 1:
        raise ConfigError(f"there is no train to take val from, but {', '.join(names)}: call one train")


def hold_out(
    dataset: Dataset, share: float, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, Dataset]:
    """The pictures that stay, and those that are kept back.

    Chance decides by the names of the files: the same pictures give the same choice, and most of it stays
    when some are added. Pictures that look nearly the same stay together, as a second view of a scene that
    was learnt measures nothing; no class is left without an object to learn from; and some object is kept
    back.

    Args:
        dataset: whose files can be decoded.
        share: of the pictures to keep back, between 0 and 1; fewer where those rules ask for it.
        progress: called with (pictures looked at, pictures).

    Raises:
        DataError: no object can be kept back.
    """
    wanted = max(1, round(share * len(dataset)))
    groups = _by_chance(dataset, _groups(dataset, progress))
    left = Counter(label for image in dataset.images for label in _labels(image))
    kept: set[int] = set()

    def spare(group: list[int]) -> bool:
        """Whether enough is left to learn from without this group, too."""
        labels = _count(dataset, group)
        return len(kept) + len(group) < len(dataset) and all(left[x] > labels[x] for x in labels)

    measured = [group for group in groups if spare(group) and _count(dataset, group)]
    first = next((group for group in measured if len(group) <= wanted), None)
    if first is None:
        raise DataError(_nothing(dataset, measured))
    for group in (first, *(other for other in groups if other is not first)):
        if spare(group) and len(kept) + len(group) <= wanted:
            kept.update(group)
            left -= _count(dataset, group)
    stay = [i for i in range(len(dataset)) if i not in kept]
    return dataset.subset(stay), dataset.subset(sorted(kept))


def _nothing(dataset: Dataset, measured: list[list[int]]) -> str:
    """Why no object can be kept back, and what to do."""
    if measured:
        least = min(map(len, measured))
        share = math.ceil(1000 * least / len(dataset)) / 1000
        return (
            f"{dataset.name}: no object can be kept back for val: at least {least} pictures look so alike"
            f" that they must stay together; give a share of at least {share:g}"
        )
    return (
        f"{dataset.name}: no object can be kept back for val: there are too few pictures, too few of some"
        " class, or they look nearly the same; annotate more"
    )


def _labels(image: ImageRecord) -> set[int]:
    return {annotation.label for annotation in image.annotations if not annotation.crowd}


def _count(dataset: Dataset, group: list[int]) -> Counter[int]:
    """In how many pictures of a group each class is."""
    return Counter(label for i in group for label in _labels(dataset.images[i]))


def _groups(dataset: Dataset, progress: Callable[[int, int], None] | None) -> list[list[int]]:
    """The pictures by number; equal and nearly equal ones are in one group."""
    looks = look_at_all(dataset.images, progress)
    first: dict[bytes, int] = {}
    files = np.array([first.setdefault(look.digest, i) for i, look in enumerate(looks)])
    groups: dict[int, list[int]] = {}
    for i, number in enumerate(near_groups(np.stack([look.thumb for look in looks]), files).tolist()):
        groups.setdefault(number, []).append(i)
    return list(groups.values())


def _by_chance(dataset: Dataset, groups: list[list[int]]) -> list[list[int]]:
    """The groups in an order that only the names of the files decide; one draw for each group."""
    common = os.path.commonpath([image.path.parent for image in dataset.images])
    names = [Path(os.path.relpath(image.path, common)).as_posix() for image in dataset.images]

    def drawn(group: list[int]) -> bytes:
        name = min(names[i] for i in group)
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()

    return sorted(groups, key=drawn)
