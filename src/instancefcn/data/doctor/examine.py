"""The list of all checks, and running them on a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instancefcn.data.dataset import Dataset
from instancefcn.data.doctor import classes, images, objects, reading, sizes
from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split
from instancefcn.data.doctor.merged_objects import merged_objects
from instancefcn.data.formats.layouts import read_split, splits_of, unread_files
from instancefcn.data.image_checks import Inspection, inspect_images
from instancefcn.data.unusable import without_unusable
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
    Check("merged-objects", merged_objects),
    Check("reading", reading.notes),
    Check("self-intersection", objects.self_intersection),
    Check("filled-hole", objects.filled_holes),
    Check("box-mask", objects.box_against_mask),
    Check("area-mask", objects.area_against_mask),
    Check("duplicate-object", objects.duplicate_objects),
    Check("duplicate-image", images.duplicates),
    Check("near-duplicate", images.near_duplicates),
    Check("leak", images.leaks),
    Check("near-leak", images.near_leaks),
    Check("unused-category", classes.unused),
    Check("few-examples", classes.few),
    Check("single-image", classes.single_images),
    Check("empty-image", classes.empty_images),
    Check("crowd", classes.crowds),
    Check("object-size", sizes.unsuitable_sizes),
    Check("unread-file", reading.unread_files),
)
"""In the order of the report: first what prevents training."""
FOR_FIGURES = frozenset(
    {"missing-image", "unreadable-image", "exif-rotation", "size-mismatch", "class-names", "reading", "crowd"}
)
"""The checks that an evaluation needs."""
WHOLE = frozenset({"class-names", "no-objects"})
"""Checks of a whole split: their errors cannot be left out."""


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        data: the dataset's path or name.
        splits: what was checked.
        findings: in the order of `CHECKS`.
        seconds: how long it took.
        skipped: the errors that `skip_bad` left out, each with what was done.
    """

    data: str
    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]
    seconds: float
    skipped: tuple[Finding, ...] = ()

    @property
    def errors(self) -> list[Finding]:
        """The findings that prevent training."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def of(self, check: str) -> list[Finding]:
        """The findings of one check."""
        return [finding for finding in self.findings if finding.check == check]

    def raise_errors(self) -> None:
        """Raise DataError with every error, and with what the user can do now."""
        if not self.errors:
            return
        problems = [Problem(f.message, f.check, image=f.image, annotation=f.annotation) for f in self.errors]
        readable = {split.name for split in self.splits if split.dataset.images}
        ways_on = ""
        if any(f.check not in WHOLE and f.split in readable for f in self.errors):
            ways_on = (
                f"Two ways on: `instancefcn check {self.data} --fix COPY` writes a repaired copy; "
                "--skip-bad (skip_bad=True) leaves out what is listed."
            )
        raise DataError(problems, ways_on)


def examine(
    data: Path | str,
    splits: Sequence[str] | None = None,
    *,
    model: str | AnySpec | None = None,
    crowds_as_objects: bool = False,
    skip_bad: bool = False,
    checks: Collection[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a dataset, decode every image once and run every check.

    Args:
        data: a folder or a YAML file, see `open_dataset`.
        splits: their names; by default all of the dataset.
        model: the objects' sizes are compared with its input size and anchors; None leaves this check out.
        crowds_as_objects: take every crowd (iscrowd 1) as one object.
        skip_bad: leave out what cannot be used: see `data.unusable`. The report lists it.
        checks: their names; by default all.
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
    read = []
    skipped: list[Finding] = []
    for name in names:
        dataset, problems = _read(data, name, progress)
        if crowds_as_objects:
            dataset = dataset.crowds_as_objects()
        if skip_bad and dataset.images:
            usable = without_unusable(dataset, problems)
            if usable.dataset.images:  # otherwise the problems stay errors
                skipped += [_finding(name, problem, f"{what}: {problem}") for what, problem in usable.done]
                dataset, problems = usable.dataset, []
        read.append((name, dataset, problems))
    inspections = iter(inspect_images([p for _, dataset, _ in read for p in dataset.images], progress))
    unread = unread_files(data, [dataset for _, dataset, _ in read])
    if splits is not None:  # other splits may use the files
        unread = [path for path in unread if not path.exists()]
    found = []
    for name, dataset, problems in read:
        split = Split(name, dataset, tuple(problems), tuple(next(inspections) for _ in dataset.images))
        found.append(_without_bad_images(split, skipped) if skip_bad else split)
    findings = findings_of(CheckedData(tuple(found), spec, tuple(unread)), checks)
    report = Report(str(data), tuple(found), tuple(findings), 0.0, tuple(skipped))
    return replace(report, seconds=time.perf_counter() - start)


def _without_bad_images(split: Split, skipped: list[Finding]) -> Split:
    """The split without images that cannot be decoded or have another size, which are added to `skipped`."""
    bad = {i: one.problem for i, one in enumerate(split.inspections) if one.problem is not None}
    if len(bad) == len(split.dataset):
        return split  # nothing would be left: they stay errors
    skipped += [_finding(split.name, problem, f"image left out: {problem}") for problem in bad.values()]
    kept = [i for i in range(len(split.dataset)) if i not in bad]
    inspections: tuple[Inspection, ...] = tuple(split.inspections[i] for i in kept)
    return replace(split, dataset=split.dataset.subset(kept), inspections=inspections)


def _read(
    data: Path | str, split: str, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, list[str]]:
    """Like `read_split`, but a split that cannot be read is empty, so that the others are still checked."""
    try:
        return read_split(data, split, progress)
    except DataError as error:
        return Dataset(f"{Path(data).resolve().stem}/{split}", (), (), ()), list(error.problems)


def examine_dataset(
    dataset: Dataset, name: str = "train", model: str | AnySpec | None = None
) -> list[Finding]:
    """Run every check on one dataset in memory, as the split `name`."""
    split = Split(name, dataset, (), tuple(inspect_images(dataset.images)))
    return list(findings_of(CheckedData((split,), spec_of(model) if isinstance(model, str) else model)))


def findings_of(data: CheckedData, checks: Collection[str] | None = None) -> Iterator[Finding]:
    """The readers' problems and the findings of the checks (by default of all), in the order of `CHECKS`."""
    known = {check.name for check in CHECKS}
    reported: dict[str, list[Finding]] = {}
    for split in data.splits:
        for problem in split.problems:
            found = problem if isinstance(problem, Problem) and problem.check in known else Problem(problem)
            reported.setdefault(found.check, []).append(_finding(split.name, found, str(found)))
    for check in CHECKS:
        yield from reported.get(check.name, ())
        if check.find is not None and (checks is None or check.name in checks):
            yield from check.find(data)


def _finding(split: str, problem: Problem, message: str) -> Finding:
    return Finding(problem.check, "error", split, message, problem.image, problem.annotation)
