"""`instancefcn bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from instancefcn.cli.options import Model, Precision, Score

bench = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@bench.callback()
def _common() -> None:
    """With a callback a single verb keeps its name."""


@bench.command()
def predict(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Images; the bundled photographs when left out.",
            show_default=False,
        ),
    ] = None,
    model: Model = "fcis-animals7",
    score: Score = 0.5,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each image; the median counts.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores when left out.", show_default=False)
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print every stage.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, with every stage.")] = False,
    device: Annotated[str | None, typer.Option(help="'cpu' or 'cuda'.", show_default=False)] = None,
    precision: Precision = "auto",
) -> None:
    """Time `predict`: from a decoded image to masks at its size, medians after a warm-up."""
    from instancefcn.inference.timing import time_predict

    timing = time_predict(
        sources,
        model,
        score=score,
        repeats=repeats,
        threads=threads,
        device=device,
        precision=precision,
    )
    if json_:
        typer.echo(json.dumps(asdict(timing)))
        return
    typer.echo(
        f"{model} on {timing.device}, precision {timing.precision}, {timing.threads} threads, "
        f"{timing.images} images"
    )
    typer.echo(f"{1000 * timing.predict:.1f} ms per image (median objects: {timing.instances:g})")
    typer.echo(f"after the convolutions: {timing.share:.3f} of their time")
    if profile:
        for name, seconds in timing.stages.items():
            typer.echo(f"  {name:<24}{1000 * seconds:9.2f} ms")
