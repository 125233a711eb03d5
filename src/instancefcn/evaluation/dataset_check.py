"""`check`: the dataset doctor's report on a dataset, and its repaired copy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from instancefcn.console import Progress
from instancefcn.data.doctor.examine import Report, examine
from instancefcn.data.doctor.fix import write_repaired_copy
from instancefcn.data.doctor.report import report_as_json
from instancefcn.errors import OutputError
from instancefcn.evaluation.findings_sheet import write_sheet
from instancefcn.files import check_output_folder, write_json


@dataclass(frozen=True)
class Checked:
    """What `check` found and did.

    Attributes:
        report: on the dataset.
        left: on the repaired copy; without one, the same as `report`.
        repairs: what was changed in the copy, as in its repairs.json.
        shown: number of images in suspicious.png.
    """

    report: Report
    left: Report
    repairs: list[dict[str, Any]]
    shown: int


def check(
    data: str | Path,
    *,
    fix: str | Path | None = None,
    out: str | Path | None = None,
    model: str | None = None,
    crowds_as_objects: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Look for errors and doubts in a dataset; docs/check.md explains every check.

    Args:
        data: folder of a dataset in any layout of docs/data.md, or its YAML file.
        fix: write a repaired copy to this new folder, with repairs.json.
        out: folder for report.json and suspicious.png, a sheet of suspicious images.
        model: the model to train, for which sizes of objects are judged; None for a training that follows its
            plan, which takes care of sizes.
        crowds_as_objects: take every crowd (iscrowd 1) as one object, also in the copy.
        progress: receives the progress.

    Raises:
        DataError: there is no such dataset, or it has no splits.
        ConfigError: there is no such model.
        OutputError: the folder `fix` exists, or a result cannot be written.
    """
    progress = progress or Progress()
    if out is not None:
        check_output_folder(out)
    if fix is not None and Path(fix).exists():
        raise OutputError(f"{fix}: exists already: choose a new folder for the copy")
    report = examine(
        data,
        model=model,
        crowds_as_objects=crowds_as_objects,
        progress=partial(progress, "checking images"),
    )
    shown = 0
    if out is not None:
        write_json(Path(out) / "report.json", report_as_json(report))
        shown = write_sheet(report, Path(out) / "suspicious.png")
    if fix is None:
        return Checked(report, report, [], shown)
    repairs, left = write_repaired_copy(
        report, fix, model=model, progress=partial(progress, "checking the copy")
    )
    return Checked(report, left, repairs, shown)
