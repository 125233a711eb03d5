"""Repairs of a whole split, before those of its images and annotations."""

from __future__ import annotations

from dataclasses import replace

from instancefcn.data.doctor.checked_data import Split
from instancefcn.data.doctor.examine import Report
from instancefcn.data.doctor.merged_objects import merged_labels
from instancefcn.data.doctor.repairs import Repairs
from instancefcn.data.separate_parts import with_separate_parts


def renewed(report: Report, split: Split, repairs: Repairs) -> Split:
    """The split with one annotation for each separate part, where one seems to hold all objects of an image.

    What its reader decided is noted, too: the copy names the files that were read.
    """
    for note in split.dataset.notes:
        repairs.add("reading", f"written as it was read: {note}")
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
