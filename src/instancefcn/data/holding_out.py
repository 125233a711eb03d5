"""Keeping pictures of a split back, to measure on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from instancefcn.data.check import look_at_all
from instancefcn.data.dataset import Dataset, Picture
from instancefcn.data.doctor.alike import near_pairs
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
        DataError: no picture can be kept back.
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
        raise ConfigError("there is a split val already: leave the share of val out")
    if "train" not in names and len(names) > 1:
        raise ConfigError(f"there is no train to take val from, but {', '.join(names)}: call one train")


def hold_out(
    dataset: Dataset, share: float, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, Dataset]:
    """The pictures that stay, and those that are kept back.

    Chance decides by the names of the files: the same pictures give the same choice, and most of it stays
    when some are added. Pictures that look nearly the same stay together, as a second view of a scene that
    was learnt measures nothing, and no class is left without an object to learn from.

    Args:
        dataset: whose files can be decoded.
        share: of the pictures to keep back, between 0 and 1; fewer where those rules ask for it.
        progress: called with (pictures looked at, pictures).

    Raises:
        DataError: no picture can be kept back.
    """
    wanted = max(1, round(share * len(dataset)))
    left = Counter(label for picture in dataset.pictures for label in _labels(picture))
    kept: set[int] = set()
    for group in _by_chance(dataset, _groups(dataset, progress)):
        labels = Counter(label for i in group for label in _labels(dataset.pictures[i]))
        enough = len(kept) + len(group) < len(dataset) and all(left[x] > labels[x] for x in labels)
        if enough and len(kept) + len(group) <= wanted:
            kept.update(group)
            left -= labels
    if not kept:
        raise DataError(
            f"{dataset.name}: no picture can be kept back for val: there are too few, too few of some class,"
            " or they look nearly the same; annotate more"
        )
    stay = [i for i in range(len(dataset)) if i not in kept]
    return dataset.subset(stay), dataset.subset(sorted(kept))


def _labels(picture: Picture) -> set[int]:
    return {annotation.label for annotation in picture.annotations if not annotation.crowd}


def _groups(dataset: Dataset, progress: Callable[[int, int], None] | None) -> list[list[int]]:
    """The pictures by number; equal and nearly equal ones are in one group."""
    looks = look_at_all(dataset.pictures, progress)
    first: dict[bytes, int] = {}
    earlier = [first.setdefault(look.digest, i) for i, look in enumerate(looks)]  # i itself: the first
    thumbs, one_split = np.stack([look.thumb for look in looks]), np.zeros(len(looks), np.int64)
    pairs = near_pairs(thumbs, one_split, np.array(earlier))

    def head(i: int) -> int:
        while earlier[i] != i:
            earlier[i] = earlier[earlier[i]]
            i = earlier[i]
        return i

    for a, b in pairs:
        earlier[head(b)] = head(a)
    groups: dict[int, list[int]] = {}
    for i in range(len(looks)):
        groups.setdefault(head(i), []).append(i)
    return list(groups.values())


def _by_chance(dataset: Dataset, groups: list[list[int]]) -> list[list[int]]:
    """The groups in an order that only the names of the files decide."""

    def drawn(group: list[int]) -> list[bytes]:
        names = (dataset.pictures[i].path.name for i in group)
        return sorted(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names)

    return sorted(groups, key=drawn)
