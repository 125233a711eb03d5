"""`instancefcn check`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def check(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of a dataset in any known layout (see docs/data.md), or its YAML file.",
        ),
    ],
    fix: Annotated[
        Path | None,
        typer.Option(metavar="COPY", help="Write a mended copy to this new folder, with repairs.json."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for report.json and suspicious.png.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="The model that is to be trained: sizes are judged for it.")
    ] = "fcis_lite",
    json_: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON on standard output.")
    ] = False,
) -> None:
    """Look for what is wrong or doubtful in a dataset; what each check means is in docs/check.md.

    The exit status is 1 when there are errors, which keep training from starting, and 0 otherwise. With
    --fix it is the copy's.
    """
    import json

    from instancefcn.console import progress
    from instancefcn.data.doctor.examine import examine
    from instancefcn.data.doctor.report import report_as_json, summary, verdict
    from instancefcn.files import check_place, write_json
    from instancefcn.safe_text import plain

    if out is not None:
        check_place(out)
    with progress() as show:
        report = examine(data, model=model, progress=partial(show, "checking pictures"))
    result = report_as_json(report)
    if not json_:
        typer.echo(plain(summary(report)))
    if out is not None:
        from instancefcn.evaluation.findings_sheet import write_sheet

        write_json(out / "report.json", result)
        shown = write_sheet(report, out / "suspicious.png")
        sheet = f" and suspicious.png ({shown} pictures)" if shown else ""
        typer.echo(f"report.json{sheet} are in {out}" if sheet else f"report.json is in {out}", err=True)
    left = report
    if fix is not None:
        from instancefcn.data.doctor.fix import mend

        with progress() as show:
            repairs, left = mend(report, fix, model=model, progress=partial(show, "checking the copy"))
        result |= {"copy": str(fix), "repairs": repairs, "left": report_as_json(left)}
        if not json_:
            typer.echo(plain(f"\n{fix}: {len(repairs)} repairs, listed in repairs.json; now {verdict(left)}"))
    if json_:
        typer.echo(json.dumps(result))
    if left.errors:
        raise typer.Exit(1)
