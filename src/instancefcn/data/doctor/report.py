"""The doctor's report as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from instancefcn.data.doctor.checked_data import Finding
from instancefcn.data.doctor.examine import CHECKS, Report
from instancefcn.errors import grouped, kind_of

EXAMPLES = 3
"""How many warnings and notes of one check the summary shows; of errors, a few of each kind."""
SEVERITIES = ("error", "warning", "note")
BEFORE_TRAINING = frozenset({"single-image", "empty-image", "crowd"})
"""Checks whose notes change what a model learns."""


def summary(report: Report) -> str:
    """The splits, each check's findings with a few examples, and the verdict, as plain text."""
    images, objects = _totals(report)
    lines = [f"{report.data}: {images} images, {objects} objects, {report.seconds:.1f} s"]
    for split in report.splits:
        count = sum(len(p.annotations) for p in split.dataset.images)
        classes = len(split.dataset.class_names)
        lines.append(f"  {split.name}: {len(split.dataset)} images, {count} objects, {classes} classes")
    for severity, check, findings in _groups(report):
        lines += ["", f"{severity}  {check}  {len(findings)}"]
        if severity == "error":
            lines += grouped([finding.message for finding in findings])
            continue
        lines += [f"  - {finding.message}" for finding in findings[:EXAMPLES]]
        if len(findings) > EXAMPLES:
            lines.append(f"  .. and {len(findings) - EXAMPLES} more")
    return "\n".join([*lines, "", verdict(report)])


def verdict(report: Report) -> str:
    """For example "2 errors, 1 warning, no notes: fix the errors before training"."""
    counts = [sum(f.severity == severity for f in report.findings) for severity in SEVERITIES]
    parts = [
        f"{count or 'no'} {severity}{'' if count == 1 else 's'}"
        for count, severity in zip(counts, SEVERITIES, strict=True)
    ]
    end = "ready for training"
    if report.of("merged-objects"):
        end = "ready for training, but as groups of objects: see merged-objects"
    if "train" not in [split.name for split in report.splits]:
        end = (
            "but training needs a split called train: rename one, or make train and val with "
            "`instancefcn convert IN OUT --to coco --val-share 0.2`"
        )
    if counts[0]:
        end = "fix the errors before training"
    return f"{', '.join(parts)}: {end}"


def brief(report: Report) -> list[str]:
    """One line per check with warnings, or with notes that change what a model is trained on, and one on how
    to see all; empty if there are none.
    """
    lines = []
    for severity, check, findings in _groups(report):
        if severity == "warning" or (severity == "note" and check in BEFORE_TRAINING):
            more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
            lines.append(f"{severity}: {check}: {findings[0].message}{more}")
    return [*lines, f"run `instancefcn check {report.data}` for details"] if lines else []


def left_out(report: Report) -> list[str]:
    """What `skip_bad` left out, as lines of text: counts, and a few examples; empty if there is nothing."""
    if not report.skipped:
        return []
    lines = grouped([finding.message for finding in report.skipped])
    return [f"left out what cannot be used: {len(report.skipped):,} problems", *lines]


def counts_of_repairs(repairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The repairs of `write_repaired_copy`, counted by check and by what was done."""
    groups: dict[tuple[str, str], list[str]] = {}
    for repair in repairs:
        what = repair["what"].split(":")[0]
        groups.setdefault((repair["check"], kind_of(what)), []).append(what)
    return [f"  {len(done):,} {check}: {done[0]}" for (check, _), done in groups.items()]


def report_as_json(report: Report) -> dict[str, Any]:
    """The numbers of each split, counts by severity and check, and all findings."""
    splits = {
        split.name: {
            "images": len(split.dataset),
            "objects": sum(len(p.annotations) for p in split.dataset.images),
            "classes": len(split.dataset.class_names),
        }
        for split in report.splits
    }
    counts = {severity: sum(f.severity == severity for f in report.findings) for severity in SEVERITIES}
    checks = {check.name: len(report.of(check.name)) for check in CHECKS if report.of(check.name)}
    return {
        "data": report.data,
        "seconds": round(report.seconds, 2),
        "splits": splits,
        "severities": counts,
        "checks": checks,
        "findings": [finding.as_json() for finding in report.findings],
    }


def _totals(report: Report) -> tuple[int, int]:
    images = [image for split in report.splits for image in split.dataset.images]
    return len(images), sum(len(image.annotations) for image in images)


def _groups(report: Report) -> list[tuple[str, str, list[Finding]]]:
    """(severity, check, findings): errors first, the checks in the order of `CHECKS`."""
    groups = []
    for severity in SEVERITIES:
        for check in CHECKS:
            found = [f for f in report.of(check.name) if f.severity == severity]
            if found:
                groups.append((severity, check.name, found))
    return groups
