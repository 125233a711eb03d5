"""`instancefcn predict`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instancefcn.errors import ConfigError

if TYPE_CHECKING:
    from instancefcn.inference.predictor import FileResult
    from instancefcn.inference.writers import CocoSummary
    from instancefcn.instances import Instances

KINDS = ("overlay", "coco")

# Options that `propose` has too.
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Picture files, folders (the pictures directly in them) and quoted patterns such as "
        "'photos/**/*.jpg'.",
        show_default=False,
    ),
]
Save = Annotated[
    str,
    typer.Option(
        metavar="KINDS",
        help="What to write: 'overlay' (a PNG a picture), 'coco' (COCO results a picture, and "
        "predictions.json with all of them), both with a comma between, or 'none'.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object a picture on standard output; all else goes to standard error."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="'cpu', 'cuda' or 'cuda:1'; a GPU is taken when there is one.", show_default=False),
]


def predict(
    sources: Sources,
    model: Annotated[
        str,
        typer.Option(metavar="NAME|PATH", help="A bundled model, a checkpoint file or the folder of a run."),
    ] = "fcis-animals7",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("predictions"),
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out objects below this score.")] = 0.5,
    save: Save = "overlay,coco",
    json_: Json = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that run at once (worth it on a GPU).")] = 1,
    device: Device = None,
) -> None:
    """Segment pictures: every object found, named and outlined.

    A file that is no picture is reported and the rest goes on; the exit status is then 1.
    """
    kinds = chosen_kinds(save)
    # Mistakes in the sources show before torch is imported and the model read.
    from instancefcn.inference.sources import find_pictures

    paths = find_pictures(sources)
    from instancefcn.inference.predictor import load
    from instancefcn.inference.writers import CocoSummary, output_names

    predictor = load(model, device=device)
    writer = Writer(
        out, kinds, output_names(paths), CocoSummary(predictor.class_names, predictor.category_ids)
    )
    write_all(predictor.files(paths, score=score, batch_size=batch), len(paths), writer, json_)


def write_all(results: Iterable[FileResult], total: int, writer: Writer, json_: bool) -> None:
    """Write the results of `total` pictures as they come, with progress, and sum up.

    Raises:
        typer.Exit: with status 1, at the end, when a file was no picture.
    """
    failed = found = 0
    start = time.perf_counter()
    with reporter(total) as report:
        for number, result in enumerate(results):
            if result.instances is None:
                failed += 1
                report(f"error: {result.error}")
            else:
                found += len(result.instances)
                writer.write(number, result)
                report(f"{result.path}: {describe(result.instances)} ({result.seconds:.2f} s)")
            if json_:
                typer.echo(json.dumps(_as_json(result)))
    writer.finish()
    seconds = time.perf_counter() - start
    done = total - failed
    where = f"; written to {writer.out}" if writer.kinds and done else ""
    typer.echo(f"{found} objects in {done} of {total} pictures, {seconds:.1f} s{where}", err=True)
    if failed:
        raise typer.Exit(1)


class Writer:
    """Writes the chosen kinds of results, picture by picture.

    Args:
        out: the folder.
        kinds: of "overlay" and "coco".
        names: a name for each picture's files.
        summary: gathers everything for predictions.json.
        labels: overlays say class and score of every object.
    """

    def __init__(
        self,
        out: Path,
        kinds: tuple[str, ...],
        names: list[str],
        summary: CocoSummary,
        labels: bool = True,
    ) -> None:
        self.out, self.kinds, self.names, self.summary, self.labels = out, kinds, names, summary, labels

    def write(self, number: int, result: FileResult) -> list[Path]:
        """Write the results of picture `number` (from 0; its COCO image id is one more); return the files."""
        from instancefcn.inference.writers import write_coco_results, write_overlay

        assert result.picture is not None
        assert result.instances is not None
        written = []
        if "overlay" in self.kinds:
            written.append(
                write_overlay(
                    self.out, self.names[number], result.picture, result.instances, labels=self.labels
                )
            )
        if "coco" in self.kinds:
            written.append(write_coco_results(self.out, self.names[number], number + 1, result.instances))
            self.summary.add(number + 1, result.path, result.instances)
        return written

    def finish(self) -> None:
        """Write predictions.json, when COCO results are wanted."""
        if "coco" in self.kinds:
            self.summary.write(self.out)


def describe(instances: Instances) -> str:
    """For example "2 deer, 1 tiger", the most frequent first; "nothing" for none."""
    return ", ".join(f"{n} {name}" for name, n in Counter(instances.names).most_common()) or "nothing"


@contextmanager
def reporter(total: int) -> Iterator[Any]:
    """Yield a function that prints one line for each finished picture, on standard error.

    On a terminal a bar with the time left stays below the lines; elsewhere there are only the lines.
    """
    if not sys.stderr.isatty():
        yield lambda line: typer.echo(line, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: Iterable[Any] = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def report(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            bar.advance(task)

        yield report


def chosen_kinds(save: str) -> tuple[str, ...]:
    """What `--save` asks for. Raises ConfigError for a kind that does not exist."""
    kinds = tuple(kind for kind in (part.strip() for part in save.split(",")) if kind)
    if kinds == ("none",):
        return ()
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or not kinds:
        raise ConfigError(f"--save knows 'overlay' and 'coco' (both: 'overlay,coco') or 'none', not {save!r}")
    return kinds


def _as_json(result: FileResult) -> dict[str, Any]:
    if result.instances is None:
        return {"file": str(result.path), "error": str(result.error)}
    from instancefcn.inference.writers import prediction

    return prediction(str(result.path), result.instances)
