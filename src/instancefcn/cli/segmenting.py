"""The work that `predict` and `propose` share: read, run the network, write and report, all at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from instancefcn.cli.reporting import as_json, describe, reporter
from instancefcn.errors import ConfigError, ImageError
from instancefcn.files import writable

if TYPE_CHECKING:
    from instancefcn.inference.formats import Item, Writer
    from instancefcn.inference.predictor import FileResult, Predictor
    from instancefcn.inference.sources import Sources

KINDS = ("overlay", "coco", "yolo", "labelme", "cutouts", "labelmap", "csv")
PICTURES_ONLY = ("yolo", "labelme")
"""Kinds that stand beside a picture file, which the frames of a video have not."""

AHEAD = 4
"""Pictures that are read before their turn, and as many that are written behind; with large batches more."""


@dataclass(frozen=True)
class Wanted:
    """What the options ask for: see `predict`.

    Attributes:
        out: the folder.
        kinds: of KINDS.
        score, batch, tile: as for `Predictor.files`.
        frames: the most frames of a video.
        explain: draw the score maps of the best object of every picture.
        json: print the results on standard output.
        proposals: how many of them, for InstanceFCN: they are outlined and have no names. None for objects.
    """

    out: Path
    kinds: tuple[str, ...]
    score: float
    batch: int = 1
    tile: int | None = None
    frames: int | None = None
    explain: bool = False
    json: bool = False
    proposals: int | None = None


@dataclass
class _Tally:
    """What was done so far; `numbers` counts pictures and frames in their order."""

    pictures: int = 0
    frames: int = 0
    objects: int = 0
    failed: int = 0
    numbers: Iterator[int] = field(default_factory=count)


def chosen_kinds(save: str) -> tuple[str, ...]:
    """What `--save` asks for. Raises ConfigError for a kind that does not exist."""
    kinds = tuple(dict.fromkeys(kind for kind in (part.strip() for part in save.split(",")) if kind))
    if kinds == ("none",):
        return ()
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or not kinds:
        known = ", ".join(KINDS)
        raise ConfigError(
            f"--save knows {known} (several with commas between: 'overlay,coco') or 'none', not {save!r}"
        )
    return kinds


def check(found: Sources, wanted: Wanted) -> None:
    """Find what does not go together before a model is read. Raises ConfigError."""
    if wanted.explain and wanted.tile is not None:
        raise ConfigError("--explain shows what the network sees of a whole picture: leave out --tile")
    if not found.videos and found.webcam is None:
        return
    if wanted.explain:
        raise ConfigError("--explain is for pictures: leave out the videos")
    alone = [kind for kind in PICTURES_ONLY if kind in wanted.kinds]
    if alone:
        raise ConfigError(
            f"--save {','.join(alone)} describes picture files: save the video's frames as pictures first"
        )
    from instancefcn.inference.video import load_av

    load_av()


def segment(predictor: Predictor, found: Sources, wanted: Wanted) -> None:
    """Segment all sources, write the results and sum up.

    Raises:
        typer.Exit: with status 1, at the end, when something was no picture or video.
    """
    from instancefcn.inference.download import path_of
    from instancefcn.inference.formats import Table
    from instancefcn.inference.writers import finish, output_names

    start = time.perf_counter()
    tally = _Tally()
    moving: list[Path | int] = [*found.videos, *([] if found.webcam is None else [found.webcam])]
    paths = [*map(path_of, found.pictures), *(Path("webcam") if isinstance(s, int) else s for s in moving)]
    names = output_names(paths)
    known = predictor.class_names, predictor.category_ids
    table = [Table(wanted.out, *known)] if "csv" in wanted.kinds else []
    if found.pictures:
        _pictures(predictor, found.pictures, names, wanted, table, tally)
    for source, name in zip(moving, names[len(found.pictures) :], strict=True):
        _video(predictor, source, name, wanted, table, tally)
    finish(table)
    _sum_up(tally, len(found.pictures), wanted, time.perf_counter() - start)


def _pictures(
    predictor: Predictor,
    sources: tuple[Path | str, ...],
    names: list[str],
    wanted: Wanted,
    table: list[Any],
    tally: _Tally,
) -> None:
    from instancefcn.inference.explain import Explanation, explain, write_explanation
    from instancefcn.inference.overlap import overlapped
    from instancefcn.inference.writers import WRITERS, Outlines, finish, write_item

    kinds = WRITERS if wanted.proposals is None else {**WRITERS, "overlay": Outlines}
    known = predictor.class_names, predictor.category_ids
    writers = [kinds[kind](wanted.out, *known) for kind in wanted.kinds if kind != "csv"] + table
    ahead = max(AHEAD, 2 * wanted.batch)

    def explained(result: FileResult) -> tuple[int, FileResult, Explanation | None]:
        # Here and not in the writers' threads: the network runs in one thread alone.
        found = None
        if wanted.explain and result.picture is not None and result.instances:
            found = explain(predictor, result.picture, result.instances)
        return next(tally.numbers), result, found

    def write(work: tuple[int, FileResult, Explanation | None]) -> FileResult:
        number, result, explanation = work
        if (item := _item(number, names[number], result)) is not None:
            write_item(writers, item)
            if explanation is not None:
                with writable():
                    path = wanted.out / "explained" / f"{item.name}.png"
                    write_explanation(path, item.picture, item.instances, explanation, 0)
        return result

    results = predictor.files(
        sources,
        score=wanted.score,
        batch_size=wanted.batch,
        ahead=ahead,
        tile=wanted.tile,
        top=wanted.proposals,
    )
    with ExitStack() as stack:
        stack.enter_context(closing(results))
        report = stack.enter_context(reporter(len(sources)))
        todo = (explained(result) for result in results)
        for result in stack.enter_context(closing(overlapped(write, todo, ahead))):
            report.advance()
            if result.instances is None:
                tally.failed += 1
                report.line(f"error: {result.error}")
            else:
                tally.pictures += 1
                tally.objects += len(result.instances)
                report.line(f"{result.path}: {describe(result.instances)} ({result.seconds:.2f} s)")
            if wanted.json:
                typer.echo(json.dumps(as_json(result)))
    finish([writer for writer in writers if writer not in table])


def _video(
    predictor: Predictor,
    source: Path | int,
    name: str,
    wanted: Wanted,
    table: list[Any],
    tally: _Tally,
) -> None:
    from instancefcn.inference.overlap import overlapped
    from instancefcn.inference.video import FrameResults, Movie, Video
    from instancefcn.inference.writers import WRITERS, finish, write_item

    try:
        video = Video(source)
    except ImageError as error:
        typer.echo(f"error: {error}", err=True)
        tally.failed += 1
        return
    known = predictor.class_names, predictor.category_ids
    objects, start, before = tally.objects, time.perf_counter(), tally.frames
    with ExitStack() as stack:
        named = wanted.proposals is None
        special: dict[str, Callable[[], Writer]] = {
            "overlay": lambda: stack.enter_context(Movie(wanted.out, name, video, labels=named, fill=named)),
            "coco": lambda: FrameResults(wanted.out, name, *known),
            "csv": lambda: table[0],
        }
        writers = [special[k]() if k in special else WRITERS[k](wanted.out, *known) for k in wanted.kinds]

        def write(result: FileResult) -> FileResult:
            item = _item(next(tally.numbers), f"{name}-{result.frame:06d}", result)
            if item is not None:
                write_item(writers, item)
            return result

        frames = stack.enter_context(closing(video.frames(wanted.frames)))
        results = predictor.decoded(
            frames, score=wanted.score, batch_size=wanted.batch, tile=wanted.tile, top=wanted.proposals
        )
        total = min(video.count, wanted.frames or video.count) if video.count else wanted.frames or 0
        report = stack.enter_context(reporter(total))
        # One thread: a video is written frame after frame.
        done = stack.enter_context(closing(overlapped(write, results, AHEAD, threads=1)))
        # A webcam has no end but the person who says so.
        with suppress(*([KeyboardInterrupt] if isinstance(source, int) else [])):
            for result in done:
                report.advance()
                report.still(str(video.name))
                if result.instances is None:
                    tally.failed += 1
                    report.line(f"error: {result.error}")
                else:
                    tally.frames += 1
                    tally.objects += len(result.instances)
                if wanted.json:
                    typer.echo(json.dumps(as_json(result)))
        done.close()
        finish([writer for writer in writers if writer not in table])
        seconds = time.perf_counter() - start
        objects, frames_done = tally.objects - objects, tally.frames - before
        report.line(f"{video.name}: {objects} objects in {frames_done} frames ({seconds:.2f} s)")


def _item(number: int, name: str, result: FileResult) -> Item | None:
    from instancefcn.inference.formats import Item

    if result.picture is None or result.instances is None:
        return None
    return Item(number, name, result.path, result.picture, result.instances, result.frame)


def _sum_up(tally: _Tally, total: int, wanted: Wanted, seconds: float) -> None:
    where = []
    if total:
        where.append(f"{tally.pictures} of {total} pictures")
    if tally.frames or not total:
        where.append(f"{tally.frames} frames")
    written = wanted.kinds or wanted.explain
    done = tally.frames or tally.pictures
    place = f"; written to {wanted.out}" if written and done else ""
    typer.echo(f"{tally.objects} objects in {' and '.join(where)}, {seconds:.1f} s{place}", err=True)
    if tally.failed:
        raise typer.Exit(1)
