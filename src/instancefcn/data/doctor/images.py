"""Checks of the image files: readable, as their records say, and not duplicated."""

from __future__ import annotations

from collections.abc import Iterator

from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split


def missing(data: CheckedData) -> Iterator[Finding]:
    """Images whose file is missing."""
    return _reported(data, "missing-image")


def unreadable(data: CheckedData) -> Iterator[Finding]:
    """Files that cannot be decoded completely."""
    return _reported(data, "unreadable-image")


def wrong_size(data: CheckedData) -> Iterator[Finding]:
    """Images whose size differs from their record."""
    return _reported(data, "size-mismatch")


def rotation(data: CheckedData) -> Iterator[Finding]:
    """Images annotated unrotated (errors), and others that EXIF data rotate (notes)."""
    yield from _reported(data, "exif-rotation")
    for split in data.splits:
        for image, inspection in zip(split.dataset.images, split.inspections, strict=True):
            if inspection.turned and inspection.problem is None:
                what = (
                    "EXIF data rotate or mirror this image. It is read as viewers show it and must be "
                    "annotated that way, but other tools may ignore EXIF: store it upright"
                )
                yield split.finding("exif-rotation", "note", what, image)


def several_pages(data: CheckedData) -> Iterator[Finding]:
    """Files with several pages or frames, of which the first is read."""
    for split in data.splits:
        for image, inspection in zip(split.dataset.images, split.inspections, strict=True):
            if inspection.pages > 1:
                what = (
                    f"has {inspection.pages} pages, page 1 is used: save the page that was annotated as an "
                    "image of its own"
                )
                yield split.finding("several-pages", "warning", what, image)


def _reported(data: CheckedData, check: str) -> Iterator[Finding]:
    for split in data.splits:
        for inspection in split.inspections:
            if inspection.problem is not None and inspection.problem.check == check:
                yield Finding(check, "error", split.name, str(inspection.problem), inspection.problem.image)


def duplicates(data: CheckedData) -> Iterator[Finding]:
    """Equal files within a split."""
    for split in data.splits:
        first: dict[bytes, int] = {}
        for i, inspection in enumerate(split.inspections):
            if inspection.digest and (j := first.setdefault(inspection.digest, i)) != i:
                other = split.dataset.images[j].path
                what = f"is the same image as {other.name}: remove one of the two records"
                yield split.finding("duplicate-image", "warning", what, split.dataset.images[i], other=other)


def leaks(data: CheckedData) -> Iterator[Finding]:
    """Equal files in two splits that should share no image."""
    first: dict[bytes, tuple[Split, int]] = {}
    splits = [split for split in data.splits if split.name in data.separate]
    for split in reversed(splits):  # so that findings name train, where the image can be removed
        for i, inspection in enumerate(split.inspections):
            if not inspection.digest:
                continue
            holder, j = first.setdefault(inspection.digest, (split, i))
            if holder is not split:
                other = holder.dataset.images[j].path
                what = (
                    f"is the same image as {other.name} in {holder.name}, so results on {holder.name} are "
                    f"too good: remove it from {split.name}"
                )
                yield split.finding("leak", "warning", what, split.dataset.images[i], other=other)


def near_duplicates(data: CheckedData) -> Iterator[Finding]:
    """Images of one split that look nearly the same."""
    for split, i, paired, j in _near(data):
        if split is paired:
            other = split.dataset.images[j].path
            what = f"looks nearly the same as {other.name}: keep one, unless both are intended"
            yield split.finding("near-duplicate", "warning", what, split.dataset.images[i], other=other)


def near_leaks(data: CheckedData) -> Iterator[Finding]:
    """Images that look nearly the same as one in another split, if the two should share no image."""
    for split, i, paired, j in _near(data):
        if split is not paired and {split.name, paired.name} <= data.separate:
            other = paired.dataset.images[j].path
            what = (
                f"looks nearly the same as {other.name} in {paired.name}: keep images of one scene in one "
                "split, or results are too good"
            )
            yield split.finding("near-leak", "warning", what, split.dataset.images[i], other=other)


def _near(data: CheckedData) -> Iterator[tuple[Split, int, Split, int]]:
    """(split, index, other split, other index) of each pair of near duplicates.

    The finding is about the first: the later image of one split, or the image in the earlier split.
    """
    located = [(n, i) for n, split in enumerate(data.splits) for i in range(len(split.inspections))]
    for a, b in data.near_duplicates:
        (m, i), (n, j) = located[a], located[b]
        yield (data.splits[m], j, data.splits[n], i) if m == n else (data.splits[m], i, data.splits[n], j)
