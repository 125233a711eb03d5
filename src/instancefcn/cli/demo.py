"""`instancefcn demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instancefcn.cli.options import Score

if TYPE_CHECKING:
    from rich.table import Table

    from instancefcn.instances import Instances

PROPOSALS_IN, TOP = "terrapins", 10
"""The bundled photograph that proposals are drawn for, and how many."""


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("demo-output"),
    model: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="Another model than the bundled one.")
    ] = "fcis-animals7",
    score: Score = 0.5,
) -> None:
    """Segment the bundled photographs with the bundled model, propose masks of objects of any class in one of
    them, and show the results.
    """
    from importlib.resources import as_file, files

    from rich.console import Console

    from instancefcn.inference.predict import predict, propose
    from instancefcn.inference.writers import write_overlay

    console = Console()
    table = _table()
    with as_file(files("instancefcn") / "assets" / "demo") as folder:
        results = list(predict(folder, model, out=out, score=score))
        (proposed,) = propose(folder / f"{PROPOSALS_IN}.jpg", top=TOP, save=())
    for result in results:
        assert result.instances is not None, result.error
        _add_rows(table, Path(result.path).name, result.instances)
    assert proposed.image is not None
    assert proposed.instances is not None
    name = f"{PROPOSALS_IN}.proposals"
    overlay = write_overlay(out, name, proposed.image, proposed.instances, labels=False, fill=False)
    console.print(table)
    # The first image also pays for compiling the kernels and for the first allocations.
    first, *rest = (result.seconds for result in results)
    console.print(
        f"{len(results)} photographs, {sorted(rest)[len(rest) // 2]:.2f} s each (the first {first:.2f} s)"
    )
    console.print("\nOverlays and COCO results:")
    for result in results:
        drawn, coco = result.files
        console.print(f"  {drawn}  {coco.name}", highlight=False, soft_wrap=True)
    console.print(f"The {TOP} best proposals of any class, without names (InstanceFCN):")
    console.print(f"  {overlay}", highlight=False, soft_wrap=True)
    console.print("\nYour own images: [bold]instancefcn predict PHOTO... --out DIR[/bold]")


def _table() -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image")
    table.add_column("class")
    table.add_column("score", justify="right")
    table.add_column("box: x1, y1, x2, y2 (px)", justify="right")
    table.add_column("area (px)", justify="right")
    return table


def _add_rows(table: Table, image: str, instances: Instances) -> None:
    if not len(instances):
        table.add_row(image, "nothing", "", "", "")
    rows = zip(
        instances.names,
        instances.scores.tolist(),
        instances.boxes.tolist(),
        instances.masks.areas().tolist(),
        strict=True,
    )
    for number, (name, score, corners, area) in enumerate(rows):
        box = " ".join(f"{side:5.0f}" for side in corners)
        table.add_row("" if number else image, name, f"{score:.2f}", box, f"{area:,}")
