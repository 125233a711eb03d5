"""`instancefcn check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.options import CrowdsAsObjects


def check(
    data: Annotated[
        Path,
        typer.Argument(help="Folder of a dataset in any layout of docs/data.md, or its YAML file."),
    ],
    fix: Annotated[
        Path | None,
        typer.Option(metavar="COPY", help="Write a repaired copy to this new folder, with repairs.json."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for report.json and suspicious.png.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Judge sizes of objects for this model; without it `train` takes care of them."),
    ] = None,
    crowds_as_objects: CrowdsAsObjects = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON on standard output.")
    ] = False,
) -> None:
    """Look for errors and doubts in a dataset; docs/check.md explains every check.

    The exit status is 1 when there are errors, which prevent training, and 0 otherwise. With --fix it is that
    of the copy.
    """
    import json

    from instancefcn.console import progress
    from instancefcn.data.doctor.report import counts_of_repairs, report_as_json, summary, verdict
    from instancefcn.evaluation.dataset_check import check as run
    from instancefcn.safe_text import plain

    with progress() as show:
        done = run(data, fix=fix, out=out, model=model, crowds_as_objects=crowds_as_objects, progress=show)
    result = report_as_json(done.report)
    if fix is not None:
        result |= {"copy": str(fix), "repairs": done.repairs, "left": report_as_json(done.left)}
    if json_:
        typer.echo(json.dumps(result))
    else:
        typer.echo(plain(summary(done.report)))
    if out is not None:
        sheet = f" and suspicious.png ({done.shown} images)" if done.shown else ""
        typer.echo(plain(f"{out}: report.json{sheet}"), err=True)
    if fix is not None and not json_:
        repairs = f"{fix}: {len(done.repairs)} repairs, listed in repairs.json; now {verdict(done.left)}"
        typer.echo(plain("\n".join(["", *counts_of_repairs(done.repairs), repairs])))
    if done.left.errors:
        raise typer.Exit(1)
