"""`instancefcn plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from instancefcn.cli.train import parse_assignments


def plan(
    data: Annotated[Path, typer.Argument(help="Annotated images, as for `train`.")],
    minutes: Annotated[float | None, typer.Option(help="Length of the run; epochs when left out.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting that you choose, as for `train`."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the plan as JSON on standard output.")] = False,
) -> None:
    """Print how `train` would train on a dataset, with a reason for each setting.

    `train` without --model follows this plan; --set overrides any line.
    """
    from instancefcn.training.setup import plan as run

    made = run(data, minutes=minutes, **parse_assignments(set_ or []))
    typer.echo(json.dumps(made.as_json()) if json_ else str(made))
