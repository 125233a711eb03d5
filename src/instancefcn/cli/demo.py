"""`instancefcn demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from instancefcn.instances import Instances


PROPOSALS = "instancefcn-objects"
PROPOSALS_IN, TOP = "terrapins", 10
"""The bundled photograph that proposals are drawn for, and how many."""


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("demo-output"),
    model: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="Another model than the bundled one.")
    ] = "fcis-animals7",
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out objects below this score.")] = 0.5,
) -> None:
    """Segment the bundled photographs with the bundled model, propose masks of objects of any class in one of
    them, and show what comes out.
    """
    from importlib.resources import as_file, files

    from rich.console import Console

    from instancefcn.inference.predictor import load
    from instancefcn.inference.result_formats import ResultItem
    from instancefcn.inference.sources import find_images
    from instancefcn.inference.writers import WRITERS, finish, write_item

    console = Console()
    predictor = load(model)
    with as_file(files("instancefcn") / "assets" / "demo") as folder:
        paths = find_images([folder])
        known = predictor.class_names, predictor.category_ids
        writers = [WRITERS[kind](out, *known) for kind in ("overlay", "coco")]
        table = _table()
        written: list[Path] = []
        seconds = []
        for number, result in enumerate(predictor.files(paths, score=score)):
            if result.image is None or result.instances is None:
                raise RuntimeError(f"a bundled photograph is damaged: {result.error}")
            path = paths[number]
            written += write_item(
                writers, ResultItem(number, path.stem, path, result.image, result.instances)
            )
            seconds.append(result.seconds)
            _add_rows(table, path.name, result.instances)
        proposed = _propose(out, next(path for path in paths if path.stem == PROPOSALS_IN))
    finish(writers)
    console.print(table)
    # The first picture also pays for compiling the kernels and for the first allocations.
    rest = sorted(seconds[1:])
    console.print(
        f"{len(paths)} photographs, {rest[len(rest) // 2]:.2f} s each (the first {seconds[0]:.2f} s)"
    )
    console.print("\nOverlays and COCO results:")
    for overlay, coco in zip(written[::2], written[1::2], strict=True):
        console.print(f"  {overlay}  {coco.name}", highlight=False, soft_wrap=True)
    console.print(f"The {TOP} best proposals of any class, without names (InstanceFCN):")
    console.print(f"  {proposed}", highlight=False, soft_wrap=True)
    console.print("\nYour own pictures: [bold]instancefcn predict PHOTO... --out DIR[/bold]")


def _propose(out: Path, photograph: Path) -> Path:
    """Draw the best proposals for one picture; return the overlay's path."""
    from instancefcn.inference.predictor import load
    from instancefcn.inference.writers import write_overlay

    (result,) = load(PROPOSALS).files([photograph], score=0.0, top=TOP)
    assert result.image is not None
    assert result.instances is not None
    name = f"{photograph.stem}.proposals"
    return write_overlay(out, name, result.image, result.instances, labels=False, fill=False)


def _table() -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("picture")
    table.add_column("class")
    table.add_column("score", justify="right")
    table.add_column("box: x1, y1, x2, y2 (px)", justify="right")
    table.add_column("area (px)", justify="right")
    return table


def _add_rows(table: Any, image: str, instances: Instances) -> None:
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
        place = " ".join(f"{side:5.0f}" for side in corners)
        table.add_row("" if number else image, name, f"{score:.2f}", place, f"{area:,}")
