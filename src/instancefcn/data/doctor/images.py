"""Checks of the pictures' files: can they be read, do they fit their records, are two of them the same."""

from __future__ import annotations

from collections.abc import Iterator

from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split


def missing(case: CheckedData) -> Iterator[Finding]:
    """Pictures whose file is not there."""
    return _looks(case, "missing-picture")


def unreadable(case: CheckedData) -> Iterator[Finding]:
    """Files that cannot be decoded whole."""
    return _looks(case, "unreadable-picture")


def wrong_size(case: CheckedData) -> Iterator[Finding]:
    """Pictures of another size than recorded."""
    return _looks(case, "size-mismatch")


def rotation(case: CheckedData) -> Iterator[Finding]:
    """Pictures annotated unrotated (errors), and others whose EXIF data turn them (notes)."""
    yield from _looks(case, "exif-rotation")
    for split in case.splits:
        for image, look in zip(split.dataset.images, split.looks, strict=True):
            if look.turned and look.problem is None:
                what = (
                    "EXIF data turn or mirror this picture. It is read the way viewers show it and must be "
                    "annotated so; other tools may differ: store it upright"
                )
                yield split.about("exif-rotation", "note", what, image)


def _looks(case: CheckedData, check: str) -> Iterator[Finding]:
    for split in case.splits:
        for look in split.looks:
            if look.problem is not None and look.problem.check == check:
                yield Finding(check, "error", split.name, str(look.problem), look.problem.image)


def duplicates(case: CheckedData) -> Iterator[Finding]:
    """The same file twice in a split."""
    for split in case.splits:
        first: dict[bytes, int] = {}
        for i, look in enumerate(split.looks):
            if look.digest and (j := first.setdefault(look.digest, i)) != i:
                other = split.dataset.images[j].path
                what = f"is the same picture as {other.name}: remove one of the two records"
                yield split.about("duplicate-picture", "warning", what, split.dataset.images[i], other=other)


def leaks(case: CheckedData) -> Iterator[Finding]:
    """The same file in two splits that should share none."""
    first: dict[bytes, tuple[Split, int]] = {}
    splits = [split for split in case.splits if split.name in case.separate]
    for split in reversed(splits):  # what is found is said of train, where it can go
        for i, look in enumerate(split.looks):
            if not look.digest:
                continue
            there, j = first.setdefault(look.digest, (split, i))
            if there is not split:
                other = there.dataset.images[j].path
                what = (
                    f"is the same picture as {other.name} in {there.name}, so {there.name} does not measure "
                    f"what was learnt: remove it from {split.name}"
                )
                yield split.about("leak", "warning", what, split.dataset.images[i], other=other)


def near_duplicates(case: CheckedData) -> Iterator[Finding]:
    """Pictures of one split that look nearly the same."""
    for split, i, there, j in _near(case):
        if split is there:
            other = split.dataset.images[j].path
            what = f"looks nearly the same as {other.name}: keep one, unless both are meant"
            yield split.about("near-duplicate", "warning", what, split.dataset.images[i], other=other)


def near_leaks(case: CheckedData) -> Iterator[Finding]:
    """Pictures that look nearly like one of another split, where the two should share none."""
    for split, i, there, j in _near(case):
        if split is not there and {split.name, there.name} <= case.separate:
            other = there.dataset.images[j].path
            what = (
                f"looks nearly the same as {other.name} in {there.name}: keep pictures of one scene in one "
                "split, or the figures flatter"
            )
            yield split.about("near-leak", "warning", what, split.dataset.images[i], other=other)


def _near(case: CheckedData) -> Iterator[tuple[Split, int, Split, int]]:
    """(split, index, other split, other index) of nearly equal pictures: each picture with one of its own
    split before it, and with one of every later split. Equal files do not count.
    """
    places = [(number, i) for number, split in enumerate(case.splits) for i in range(len(split.looks))]
    for a, b in case.alike:
        (m, i), (n, j) = places[a], places[b]
        # Within a split the later picture is named, across splits the one in the earlier split.
        yield (case.splits[m], j, case.splits[n], i) if m == n else (case.splits[m], i, case.splits[n], j)
