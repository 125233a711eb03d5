"""Checks of the classes and their numbers of objects."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

from instancefcn.data.dataset import Annotation, ImageRecord
from instancefcn.data.doctor.checked_data import NAMED, CheckedData, Finding, Split
from instancefcn.data.image_checks import class_problems
from instancefcn.geometry.contours import area, trace_contours
from instancefcn.geometry.rle import decode_crop

FEW = 20
"""Minimum number of objects of a class in train: a model hardly finds classes with fewer."""
AS_OBJECTS = "if each is one object, give --crowds-as-objects (crowds_as_objects=True)"


def class_names(data: CheckedData) -> Iterator[Finding]:
    """Categories that differ between splits, or have one name (errors), and nearly equal names (warnings)."""
    for split in data.splits[1:]:
        for problem in class_problems(data.splits[0].dataset, split.dataset):
            yield Finding("class-names", "error", split.name, problem)
    for split in data.splits[:1]:
        first: dict[str, tuple[str, int]] = {}
        dataset = split.dataset
        for name, id_ in zip(dataset.class_names, dataset.category_ids, strict=True):
            key = " ".join(unicodedata.normalize("NFKC", name).split()).casefold()
            other, other_id = first.setdefault(key, (name, id_))
            if other_id == id_:
                continue
            if other == name:
                what = (
                    f"categories {other_id} and {id_} are both called {name!r}: give them one id if they are "
                    "one class, or names of their own"
                )
                yield split.finding("class-names", "error", what)
            else:
                what = f"{name!r} and {other!r} are two categories: give them one id if they are one class"
                yield split.finding("class-names", "warning", what)


def no_objects(data: CheckedData) -> Iterator[Finding]:
    """A train split (error) or another one (warning) that was read without problems and has no objects."""
    for split in data.splits:
        if not split.dataset.images or split.problems or sum(_counts(split)):
            continue
        crowds = [_is_one_part(a, p) for p in split.dataset.images for a in p.annotations]
        add = "add annotations"
        if crowds:
            fix = AS_OBJECTS if any(crowds) else "add outlines"
            add = f"its {len(crowds)} annotations are crowds (iscrowd 1), which are ignored: {fix}"
        if split.name == "train":
            what = f"has no annotated object, so there is nothing to train on: {add}"
            yield split.finding("no-objects", "error", what)
        else:
            what = f"has no annotated object, so nothing can be measured on it: {add}"
            yield split.finding("no-objects", "warning", what)


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


def single_images(data: CheckedData) -> Iterator[Finding]:
    """Splits to train or to measure on that were read without problems and consist of one image."""
    for split in data.splits:
        if split.name in NAMED and len(split.dataset) == 1 and not split.problems:
            what = "has one image: a model learns little from it"
            if split.name != "train":
                what = "has one image: figures on it say little"
            yield split.finding("single-image", "note", f"{what}, so add more")


def empty_images(data: CheckedData) -> Iterator[Finding]:
    """The number of images without annotations."""
    for split in data.splits:
        empty = [p for p in split.dataset.images if not p.annotations]
        if empty and len(empty) < len(split.dataset):
            what = (
                f"{len(empty)} of {len(split.dataset)} images have no annotation ({empty[0].path.name}"
                f"{', ..' * (len(empty) > 1)}) and count as background: annotate them if they show objects"
            )
            yield split.finding("empty-image", "note", what)


def crowds(data: CheckedData) -> Iterator[Finding]:
    """The number of crowds; a warning where many look like single objects, as CVAT writes brush masks."""
    for split in data.splits:
        found = [(a, image) for image in split.dataset.images for a in image.annotations if a.crowd]
        if not found:
            continue
        total = Counter(a.label for image in split.dataset.images for a in image.annotations)
        what = f"{len(found)} of {total.total()} annotations are crowds (iscrowd 1), which training ignores: "
        if _are_many(Counter(a.label for a, _ in found), total) and _are_many(
            single := Counter(a.label for a, image in found if _is_one_part(a, image)), total
        ):
            what += (
                f"{single.total()} of them look like single objects, as CVAT writes brush masks: {AS_OBJECTS}"
            )
            yield split.finding("crowd", "warning", what)
        else:
            what += "annotate their objects one by one if they matter"
            yield split.finding("crowd", "note", what)


def _are_many(crowds: Counter[int], total: Counter[int]) -> bool:
    """Whether so many annotations, of all or of a class, are no crowds of many objects. COCO has 1 %."""
    return crowds.total() >= 0.1 * total.total() or any(
        number == total[label] or (number > 1 and number >= 0.2 * total[label])
        for label, number in crowds.items()
    )


def _is_one_part(annotation: Annotation, image: ImageRecord) -> bool:
    """Whether a crowd is one polygon other than a box, or mostly one connected part."""
    outline = annotation.segmentation
    if isinstance(outline, list):
        return len(outline) == 1 and not _is_box(outline[0])
    parts = trace_contours(decode_crop(outline["counts"], image.height)[0].numpy(), tolerance=0)
    areas = [area(part.outline) for part in parts]
    return bool(areas) and areas[0] >= 0.8 * sum(areas)


def _is_box(polygon: list[float]) -> bool:
    return len(polygon) == 8 and len({*polygon[0::2]}) == len({*polygon[1::2]}) == 2


def _counts(split: Split) -> list[int]:
    """The number of objects of each class, without crowds."""
    counts = Counter(a.label for p in split.dataset.images for a in p.annotations if not a.crowd)
    return [counts[label] for label in range(len(split.dataset.class_names))]


def _train(data: CheckedData) -> Iterator[tuple[Split, list[int]]]:
    for split in data.splits:
        if split.name == "train":
            yield split, _counts(split)
