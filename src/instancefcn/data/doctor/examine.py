"""All checks, and a dataset's way through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instancefcn.data.dataset import Dataset
from instancefcn.data.doctor import classes, images, objects, sizes
from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split
from instancefcn.data.formats.layouts import read_split, splits_of
from instancefcn.data.image_checks import look_at_all
from instancefcn.errors import DataError, Problem
from instancefcn.models.zoo import AnySpec, spec_of


@dataclass(frozen=True)
class Check:
    """One named check.

    Attributes:
        name: as findings, reports and docs/check.md call it.
        find: what it finds; None when only the reader of the format can.
    """

    name: str
    find: Callable[[CheckedData], Iterator[Finding]] | None


CHECKS = (
    Check("format", None),
    Check("missing-picture", images.missing),
    Check("unreadable-picture", images.unreadable),
    Check("exif-rotation", images.rotation),
    Check("size-mismatch", images.wrong_size),
    Check("duplicate-id", objects.duplicate_ids),
    Check("unknown-category", objects.labels),
    Check("unknown-picture", None),
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
    Check("duplicate-picture", images.duplicates),
    Check("near-duplicate", images.near_duplicates),
    Check("leak", images.leaks),
    Check("near-leak", images.near_leaks),
    Check("unused-category", classes.unused),
    Check("few-examples", classes.few),
    Check("empty-picture", classes.empty_images),
    Check("crowd", classes.crowds),
    Check("object-size", sizes.unsuitable_sizes),
)
"""In the order of the report: first what nobody can train on."""


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        data: the dataset's place, or its name.
        splits: what was examined.
        findings: all of them, in the order of `CHECKS`.
        seconds: how long it took.
    """

    data: str
    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def errors(self) -> list[Finding]:
        """What keeps training from starting."""
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
    """Read a dataset, decode every picture once and run every check.

    Args:
        data: a folder or a YAML file, see `open_dataset`.
        splits: which; by default all that are there.
        model: whose input size and anchors the objects' sizes are held against.
        progress: called with (pictures, all), while annotations are read from a file a picture and while the
            pictures are looked at.

    Raises:
        DataError: there is no such dataset, or it has no splits.
        ConfigError: there is no such model.
    """
    spec = spec_of(model) if isinstance(model, str) else model
    start = time.perf_counter()
    names = splits_of(data) if splits is None else list(splits)
    if not names:
        raise DataError(_read(data, "train")[1] or f"{data}: has no splits")
    read = [(name, *_read(data, name, progress)) for name in names]
    looks = iter(look_at_all([p for _, dataset, _ in read for p in dataset.images], progress))
    examined = tuple(
        Split(name, dataset, tuple(problems), tuple(next(looks) for _ in dataset.images))
        for name, dataset, problems in read
    )
    report = Report(str(data), examined, tuple(findings_of(CheckedData(examined, spec))), 0.0)
    return replace(report, seconds=time.perf_counter() - start)


def _read(
    data: Path | str, split: str, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, list[str]]:
    """A split of which nothing can be read is an empty one with problems: the other splits go on."""
    try:
        return read_split(data, split, progress)
    except DataError as error:
        return Dataset(f"{Path(data).resolve().stem}/{split}", (), (), ()), list(error.problems)


def examine_dataset(
    dataset: Dataset, name: str = "train", model: str | AnySpec = "fcis_lite"
) -> list[Finding]:
    """Run every check on one dataset that is already in memory, as the split `name`."""
    split = Split(name, dataset, (), tuple(look_at_all(dataset.images)))
    return list(findings_of(CheckedData((split,), spec_of(model) if isinstance(model, str) else model)))


def findings_of(case: CheckedData) -> Iterator[Finding]:
    """What the readers said, sorted into the checks, and what the checks find, in the order of `CHECKS`."""
    known = {check.name for check in CHECKS}
    said: dict[str, list[Finding]] = {}
    for split in case.splits:
        for problem in split.problems:
            found = problem if isinstance(problem, Problem) and problem.check in known else Problem(problem)
            finding = Finding(found.check, "error", split.name, str(found), found.image, found.annotation)
            said.setdefault(found.check, []).append(finding)
    for check in CHECKS:
        yield from said.get(check.name, ())
        if check.find is not None:
            yield from check.find(case)
