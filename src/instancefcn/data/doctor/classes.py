"""Checks of the classes and of how many examples there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split
from instancefcn.data.image_checks import class_problems

FEW = 20
"""A class with fewer objects than this in train is hardly learnt."""


def class_names(case: CheckedData) -> Iterator[Finding]:
    """Categories that differ between splits (errors), and names written twice (warnings)."""
    for split in case.splits[1:]:
        for problem in class_problems(case.splits[0].dataset, split.dataset):
            yield Finding("class-names", "error", split.name, problem)
    for split in case.splits[:1]:
        seen: dict[str, str] = {}
        for name in split.dataset.class_names:
            first = seen.setdefault(" ".join(name.split()).casefold(), name)
            if split.dataset.class_names.count(name) > 1 or first != name:
                what = f"{name!r} and {first!r} are two categories: are they one class? Then give them one id"
                yield split.about("class-names", "warning", what)


def no_objects(case: CheckedData) -> Iterator[Finding]:
    """A train split without objects. (One that could not be read is another matter.)"""
    for split in case.splits:
        if split.name == "train" and split.dataset.images and not split.problems and not sum(_counts(split)):
            what = "has no annotated object, so there is nothing to learn: add annotations"
            yield split.about("no-objects", "error", what)


def unused(case: CheckedData) -> Iterator[Finding]:
    """Classes of which train has no object."""
    for split, counts in _train(case):
        elsewhere = Counter(
            a.label for s in case.splits if s is not split for p in s.dataset.images for a in p.annotations
        )
        for label, (name, count) in enumerate(zip(split.dataset.class_names, counts, strict=True)):
            if count == 0 and any(counts):
                there = f", but other splits have {elsewhere[label]}" if elsewhere[label] else ""
                what = f"class {name!r} has no object{there}: add some, or remove the category"
                yield split.about("unused-category", "warning", what)


def few(case: CheckedData) -> Iterator[Finding]:
    """Classes of which train has few objects."""
    for split, counts in _train(case):
        for name, count in zip(split.dataset.class_names, counts, strict=True):
            if 0 < count < FEW:
                what = f"class {name!r} has {count} object{'s' * (count > 1)}, fewer than {FEW}: add examples"
                yield split.about("few-examples", "warning", what)


def empty_images(case: CheckedData) -> Iterator[Finding]:
    """How many pictures have no annotation."""
    for split in case.splits:
        empty = [p for p in split.dataset.images if not p.annotations]
        if empty and len(empty) < len(split.dataset):
            what = (
                f"{len(empty)} of {len(split.dataset)} pictures have no annotation ({empty[0].path.name}"
                f"{', ..' * (len(empty) > 1)}): right if nothing is to be found there"
            )
            yield split.about("empty-picture", "note", what)


def crowds(case: CheckedData) -> Iterator[Finding]:
    """How many annotations are crowds."""
    for split in case.splits:
        count = sum(a.crowd for p in split.dataset.images for a in p.annotations)
        if count:
            total = sum(len(p.annotations) for p in split.dataset.images)
            what = (
                f"{count} of {total} annotations are crowds (iscrowd 1): regions to ignore, from which "
                "nothing is learnt. Annotate the objects one by one if they matter"
            )
            yield split.about("crowd", "note", what)


def _counts(split: Split) -> list[int]:
    """Objects of every class, crowds left out."""
    counts = Counter(a.label for p in split.dataset.images for a in p.annotations if not a.crowd)
    return [counts[label] for label in range(len(split.dataset.class_names))]


def _train(case: CheckedData) -> Iterator[tuple[Split, list[int]]]:
    for split in case.splits:
        if split.name == "train":
            yield split, _counts(split)
