"""Annotations that each seem to hold all objects of an image, as foreground and semantic masks do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from instancefcn.data.dataset import Annotation, ImageRecord
from instancefcn.data.doctor.checked_data import CheckedData, Finding
from instancefcn.geometry.outlines import outline_problem, to_rle
from instancefcn.geometry.parts import part_numbers
from instancefcn.geometry.rle import decode_crop

LOOKED_AT = 2000
"""How many annotations are drawn to count their parts."""
PART_SHARE, PART_PIXELS = 0.1, 4
"""A part counts if it has this share of the largest part's pixels, and this many: others may be specks."""
SEVERAL = 3
"""At least so many objects must be hidden behind others of one annotation."""


@dataclass(frozen=True)
class Tally:
    """The annotations of one class, or of all.

    Attributes:
        looked_at: number of annotations whose parts were counted.
        several: how many of them have several separate parts.
        parts: the number of these parts, over all annotations looked at.
        alone: the share of the images with this class that have one annotation of it.
    """

    looked_at: int
    several: int
    parts: int
    alone: float

    @property
    def merged(self) -> bool:
        """Whether the annotations hold groups of objects.

        Real objects rarely have several parts. Half of the skis and surfboards in COCO do, with 1.6 parts on
        average, but an image has several of them.
        """
        if self.parts - self.looked_at < SEVERAL:
            return False
        share, mean = self.several / self.looked_at, self.parts / self.looked_at
        return share >= 0.5 and (mean >= 3 or (mean >= 2 and max(self.alone, share) >= 0.9))

    @property
    def merged_overall(self) -> bool:
        """Whether those of all classes do: one for each class and image, and some of several parts."""
        enough = self.parts - self.looked_at >= SEVERAL
        return enough and self.alone >= 0.98 and self.several >= 0.15 * self.looked_at


def merged_objects(data: CheckedData) -> Iterator[Finding]:
    """One finding about the classes whose annotations seem to hold several objects each."""
    found = [merged_labels(split.dataset.images) for split in data.splits]
    tallies = [tally for own in found for tally in own.values()]
    if not tallies:
        return
    first = next(split for split, own in zip(data.splits, found, strict=True) if own)
    labels = {label for own in found for label in own}
    names = [repr(name) for label, name in enumerate(first.dataset.class_names) if label in labels]
    several, looked_at, parts = (
        sum(getattr(t, f) for t in tallies) for f in ("several", "looked_at", "parts")
    )
    what = (
        f"one annotation seems to hold ALL objects of an image: {several} of {looked_at} annotations of "
        f"{', '.join(names[:3])}{', ..' * (len(names) > 3)} have several separate parts, {parts} in all. A "
        "model would be trained to find groups. If the parts are objects, give each an own annotation: "
        "`instancefcn check DATA --fix COPY`, or `instancefcn convert IN OUT --to coco --split-parts` "
        "(objects that touch stay one)"
    )
    yield first.finding("merged-objects", "warning", what)


def merged_labels(images: Sequence[ImageRecord]) -> dict[int, Tally]:
    """The classes of a split whose annotations seem to hold several objects each."""
    objects = [(image, a) for image in images for a in image.annotations if not a.crowd]
    step = max(1, -(-len(objects) // LOOKED_AT))
    parts: dict[int, list[int]] = {}
    for image, annotation in objects[::step]:
        if count := separate_parts(annotation, image):
            parts.setdefault(annotation.label, []).append(count)
    pairs = Counter(
        (number, a.label) for number, p in enumerate(images) for a in p.annotations if not a.crowd
    )
    overall = _tally([count for counts in parts.values() for count in counts], list(pairs.values()))
    tallies = {
        label: _tally(counts, [n for (_, other), n in pairs.items() if other == label])
        for label, counts in parts.items()
    }
    return {label: tally for label, tally in tallies.items() if tally.merged or overall.merged_overall}


def _tally(parts: Sequence[int], per_image: Sequence[int]) -> Tally:
    alone = sum(count == 1 for count in per_image) / max(1, len(per_image))
    return Tally(len(parts), sum(count > 1 for count in parts), sum(parts), alone)


def separate_parts(annotation: Annotation, image: ImageRecord) -> int:
    """The number of an annotation's connected parts without specks; 0 if it cannot be drawn."""
    if outline_problem(annotation.segmentation, image.height, image.width):
        return 0
    rle = to_rle(annotation.segmentation, image.height, image.width)
    crop, _ = decode_crop(rle["counts"], image.height)
    areas = np.bincount(part_numbers(crop.numpy()).reshape(-1))[1:]
    return int((areas >= max(PART_PIXELS, PART_SHARE * areas.max(initial=0))).sum())
