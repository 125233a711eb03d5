"""The list of all checks, and running them on a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instancefcn.data.dataset import Dataset
from instancefcn.data.doctor import classes, images, objects, sizes
from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split
from instancefcn.data.formats.layouts import read_split, splits_of
from instancefcn.data.image_checks import inspect_images
from instancefcn.errors import DataError, Problem
from instancefcn.models.zoo import AnySpec, spec_of


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: its code in findings, reports and docs/check.md.
        find: yields its findings; None if only a format's reader reports them.
    """

    name: str
    find: Callable[[CheckedData], Iterator[Finding]] | None


CHECKS = (
    Check("format", None),
    Check("missing-image", images.missing),
    Check("unreadable-image", images.unreadable),
    Check("exif-rotation", images.rotation),
    Check("size-mismatch", images.wrong_size),
    Check("several-pages", images.several_pages),
    Check("duplicate-id", objects.duplicate_ids),
    Check("unknown-category", objects.labels),
    Check("unknown-image", None),
    Check("outline", objects.outlines),
    Check("polygon-points", objects.polygon_points),
    Check("out-of-bounds", objects.out_of_bounds),
    Check("zero-area", objects.zero_area),
    Check("class-names", classes.class_names),
    Check("no-objects", classes.no_objects),
    Check("self-intersection", objects.self_intersection),
    Check("box-mask", objects.box_against_mask),
    Check("area-mask", objects.area_against_mask),
    Check("duplicate-object", objects.duplicate_objects),
    Check("duplicate-image", images.duplicates),
    Check("near-duplicate", images.near_duplicates),
    Check("leak", images.leaks),
    Check("near-leak", images.near_leaks),
    Check("unused-category", classes.unused),
    Check("few-examples", classes.few),
    Check("empty-image", classes.empty_images),
    Check("crowd", classes.crowds),
    Check("object-size", sizes.unsuitable_sizes),
)
"""In the order of the report: first what prevents training."""


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        data: the dataset's path or name.
        splits: what was checked.
        findings: in the order of `CHECKS`.
        seconds: how long it took.
    """

    data: str
    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def errors(self) -> list[Finding]:
        """The findings that prevent training."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def of(self, check: str) -> list[Finding]:
        """The findings of one check."""
        return [finding for finding in self.findings if finding.check == check]


def examine(
    data: Path | str,
    splits: Sequence[str] | None = None,
    *,
    model: str | AnySpec = "fcis_lite",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a dataset, decode every image once and run every check.

    Args:
        data: a folder or a YAML file, see `open_dataset`.
        splits: their names; by default all of the dataset.
        model: the objects' sizes are compared with its input size and anchors.
        progress: called with (images done, images in total) while formats with one annotation file per image
            are read, and again while images are decoded.

    Raises:
        DataError: the dataset does not exist, or has no splits.
        ConfigError: the model is unknown.
    """
    spec = spec_of(model) if isinstance(model, str) else model
    start = time.perf_counter()
    names = splits_of(data) if splits is None else list(splits)
    if not names:
        raise DataError(_read(data, "train")[1] or f"{data}: no split found")
    read = [(name, *_read(data, name, progress)) for name in names]
    inspections = iter(inspect_images([p for _, dataset, _ in read for p in dataset.images], progress))
    checked = tuple(
        Split(name, dataset, tuple(problems), tuple(next(inspections) for _ in dataset.images))
        for name, dataset, problems in read
    )
    report = Report(str(data), checked, tuple(findings_of(CheckedData(checked, spec))), 0.0)
    return replace(report, seconds=time.perf_counter() - start)


def _read(
    data: Path | str, split: str, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, list[str]]:
    """Like `read_split`, but a split that cannot be read is empty, so that the others are still checked."""
    try:
        return read_split(data, split, progress)
    except DataError as error:
        return Dataset(f"{Path(data).resolve().stem}/{split}", (), (), ()), list(error.problems)


def examine_dataset(
    dataset: Dataset, name: str = "train", model: str | AnySpec = "fcis_lite"
) -> list[Finding]:
    """Run every check on one dataset in memory, as the split `name`."""
    split = Split(name, dataset, (), tuple(inspect_images(dataset.images)))
    return list(findings_of(CheckedData((split,), spec_of(model) if isinstance(model, str) else model)))


def findings_of(data: CheckedData) -> Iterator[Finding]:
    """The readers' problems, sorted by check, and the findings of the checks, in the order of `CHECKS`."""
    known = {check.name for check in CHECKS}
    reported: dict[str, list[Finding]] = {}
    for split in data.splits:
        for problem in split.problems:
            found = problem if isinstance(problem, Problem) and problem.check in known else Problem(problem)
            finding = Finding(found.check, "error", split.name, str(found), found.image, found.annotation)
            reported.setdefault(found.check, []).append(finding)
    for check in CHECKS:
        yield from reported.get(check.name, ())
        if check.find is not None:
            yield from check.find(data)
