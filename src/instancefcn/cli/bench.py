"""`instancefcn bench`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from instancefcn.inference.timing import Timing

bench = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@bench.callback()
def _common() -> None:
    """With a callback a single verb keeps its name."""


@bench.command()
def predict(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...", help="Pictures; the bundled ones when left out.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(metavar="NAME|PATH", help="A bundled model, a checkpoint file or the folder of a run."),
    ] = "fcis-animals7",
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out objects below this score.")] = 0.5,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each picture; the median counts.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the CPU; all cores when left out.", show_default=False)
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print every stage.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, with every stage.")] = False,
    device: Annotated[str | None, typer.Option(help="'cpu' or 'cuda'.", show_default=False)] = None,
) -> None:
    """Time `predict`: from a decoded picture to masks at its size, medians after a warm-up."""
    from importlib.resources import as_file, files

    from instancefcn.inference.sources import find_images

    with as_file(files("instancefcn") / "assets" / "demo") as bundled:
        paths = find_images(sources or [bundled])
        import torch

        from instancefcn.inference.predictor import load
        from instancefcn.inference.timing import time_predict

        if threads is not None:
            torch.set_num_threads(threads)
        predictor = load(model, device=device)
        timing = time_predict(predictor, paths, score, repeats)
    if json_:
        import json

        sides = predictor.preprocessing
        setting = {
            "model": model,
            "device": str(predictor.device),
            "threads": torch.get_num_threads(),
            "short_side": sides.short_side,
            "long_side": sides.long_side,
        }
        typer.echo(json.dumps({**setting, **asdict(timing)}))
        return
    typer.echo(f"{model} on {predictor.device}, {torch.get_num_threads()} threads, {timing.images} pictures")
    for line in lines(timing, profile):
        typer.echo(line)


def lines(timing: Timing, profile: bool) -> list[str]:
    """The report, with or without every stage."""
    found = [f"{1000 * timing.predict:.1f} ms a picture (median objects: {timing.instances:g})"]
    found.append(f"after the convolutions: {timing.share:.3f} of their time")
    if profile:
        found += [f"  {name:<24}{1000 * seconds:9.2f} ms" for name, seconds in timing.stages.items()]
    return found
