"""Repairs of a whole split, before those of its images and annotations."""

from __future__ import annotations

from dataclasses import replace

from instancefcn.data.doctor.checked_data import Split
from instancefcn.data.doctor.examine import Report
from instancefcn.data.doctor.merged_objects import merged_labels
from instancefcn.data.doctor.repairs import Repairs
from instancefcn.data.separate_parts import with_separate_parts

_DONE = {"reading": "written as it was read", "unread-file": "not in the copy"}
"""What a copy does about the checks of how the dataset was read."""


def renewed(report: Report, split: Split, repairs: Repairs) -> Split:
    """The split with one annotation for each separate part, where one seems to hold all objects of an image.

    What the copy changes by being written anew is noted, too: paths, and files that are not read.
    """
    for finding in report.findings:
        if finding.split == split.name and finding.check in _DONE:
            repairs.add(finding.check, f"{_DONE[finding.check]}: {finding.message}")
    if not report.of("merged-objects"):
        return split
    labels = {label for other in report.splits for label in merged_labels(other.dataset.images)}
    dataset = with_separate_parts(
        split.dataset,
        labels,
        lambda image, annotation, parts: repairs.add(
            "merged-objects",
            f"split into {parts} annotations, one for each separate part",
            image,
            annotation.id,
        ),
    )
    return replace(split, dataset=dataset)
