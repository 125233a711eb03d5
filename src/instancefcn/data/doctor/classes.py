"""Checks of the classes and their numbers of objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split
from instancefcn.data.image_checks import class_problems

FEW = 20
"""Minimum number of objects of a class in train: a model hardly finds classes with fewer."""


def class_names(data: CheckedData) -> Iterator[Finding]:
    """Categories that differ between splits (errors), and categories of nearly equal name (warnings)."""
    for split in data.splits[1:]:
        for problem in class_problems(data.splits[0].dataset, split.dataset):
            yield Finding("class-names", "error", split.name, problem)
    for split in data.splits[:1]:
        seen: dict[str, str] = {}
        for name in split.dataset.class_names:
            first = seen.setdefault(" ".join(name.split()).casefold(), name)
            if split.dataset.class_names.count(name) > 1 or first != name:
                what = f"{name!r} and {first!r} are two categories: give them one id if they are one class"
                yield split.finding("class-names", "warning", what)


def no_objects(data: CheckedData) -> Iterator[Finding]:
    """A train split that was read without problems and has no objects."""
    for split in data.splits:
        if split.name == "train" and split.dataset.images and not split.problems and not sum(_counts(split)):
            what = "has no annotated object, so there is nothing to train on: add annotations"
            yield split.finding("no-objects", "error", what)


def unused(data: CheckedData) -> Iterator[Finding]:
    """Classes without an object in train."""
    for split, counts in _train(data):
        elsewhere = Counter(
            a.label for s in data.splits if s is not split for p in s.dataset.images for a in p.annotations
        )
        for label, (name, count) in enumerate(zip(split.dataset.class_names, counts, strict=True)):
            if count == 0 and any(counts):
                others = f", but other splits have {elsewhere[label]}" if elsewhere[label] else ""
                what = f"class {name!r} has no object{others}: add some, or remove the category"
                yield split.finding("unused-category", "warning", what)


def few(data: CheckedData) -> Iterator[Finding]:
    """Classes with few objects in train."""
    for split, counts in _train(data):
        for name, count in zip(split.dataset.class_names, counts, strict=True):
            if 0 < count < FEW:
                what = f"class {name!r} has {count} object{'s' * (count > 1)}, fewer than {FEW}: add more"
                yield split.finding("few-examples", "warning", what)


def empty_images(data: CheckedData) -> Iterator[Finding]:
    """The number of images without annotations."""
    for split in data.splits:
        empty = [p for p in split.dataset.images if not p.annotations]
        if empty and len(empty) < len(split.dataset):
            what = (
                f"{len(empty)} of {len(split.dataset)} images have no annotation ({empty[0].path.name}"
                f"{', ..' * (len(empty) > 1)}): annotate them if they show objects"
            )
            yield split.finding("empty-image", "note", what)


def crowds(data: CheckedData) -> Iterator[Finding]:
    """The number of crowds."""
    for split in data.splits:
        count = sum(a.crowd for p in split.dataset.images for a in p.annotations)
        if count:
            total = sum(len(p.annotations) for p in split.dataset.images)
            what = (
                f"{count} of {total} annotations are crowds (iscrowd 1), which training ignores: "
                "annotate their objects one by one if they matter"
            )
            yield split.finding("crowd", "note", what)


def _counts(split: Split) -> list[int]:
    """The number of objects of each class, without crowds."""
    counts = Counter(a.label for p in split.dataset.images for a in p.annotations if not a.crowd)
    return [counts[label] for label in range(len(split.dataset.class_names))]


def _train(data: CheckedData) -> Iterator[tuple[Split, list[int]]]:
    for split in data.splits:
        if split.name == "train":
            yield split, _counts(split)
