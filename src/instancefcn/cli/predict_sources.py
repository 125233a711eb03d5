"""The work that `predict` and `propose` share: read, run the network, write and report, all at once."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from instancefcn.cli.predict_images import open_journal, segment_images
from instancefcn.cli.prediction_request import AHEAD, IMAGES_ONLY, KINDS, PredictionRequest, Tally, item_of
from instancefcn.cli.progress_report import reporter, result_as_json
from instancefcn.errors import ConfigError, ImageError
from instancefcn.files import check_place

if TYPE_CHECKING:
    from instancefcn.inference.predictor import FileResult, Predictor
    from instancefcn.inference.result_formats import Writer
    from instancefcn.inference.sources import Sources


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


def check_request(found: Sources, wanted: PredictionRequest) -> None:
    """Find what does not go together before a model is read. Raises ConfigError."""
    if wanted.explain and wanted.tile is not None:
        raise ConfigError("--explain shows what the network sees of a whole picture: leave out --tile")
    if wanted.writes:
        check_place(wanted.out)
    elif wanted.resume:
        raise ConfigError("--resume completes what was written: leave out --save none")
    if not found.videos and found.webcam is None:
        return
    if wanted.resume:
        raise ConfigError("--resume is for pictures, a video is segmented in one go: leave out the videos")
    if wanted.explain:
        raise ConfigError("--explain is for pictures: leave out the videos")
    alone = [kind for kind in IMAGES_ONLY if kind in wanted.kinds]
    if alone:
        raise ConfigError(
            f"--save {','.join(alone)} describes picture files: save the video's frames as pictures first"
        )
    from instancefcn.inference.video import load_av

    load_av()


def apart_from_frames(names: list[str], images: int) -> list[str]:
    """The names of results: of so many pictures as they are; of the videos behind them changed where a
    picture has the name of one of their frames (`clip-000012`).
    """
    taken = [name.casefold() for name in names[:images]]

    def clashes(name: str) -> bool:
        frame = re.compile(re.escape(name.casefold()) + r"-\d{6,}")
        return any(map(frame.fullmatch, taken))

    result = names[:images]
    for name in names[images:]:
        others = (f"{name}-video{number}" for number in count(1))
        result.append(next(other for other in others if not clashes(other)) if clashes(name) else name)
    return result


def segment(predictor: Predictor, found: Sources, wanted: PredictionRequest) -> None:
    """Segment all sources, write the results and sum up.

    Raises:
        typer.Exit: with status 1, at the end, when something was no picture or video.
    """
    from instancefcn.data.paths import output_names
    from instancefcn.images.download import path_of
    from instancefcn.inference.result_formats import Table
    from instancefcn.inference.writers import WRITERS, Outlines, finish

    start = time.perf_counter()
    tally = Tally()
    moving: list[Path | int] = [*found.videos, *([] if found.webcam is None else [found.webcam])]
    paths = [*map(path_of, found.images), *(Path("webcam") if isinstance(s, int) else s for s in moving)]
    names = apart_from_frames(output_names(paths), len(found.images))
    known = predictor.class_names, predictor.category_ids
    table = [Table(wanted.out, *known)] if "csv" in wanted.kinds else []
    with ExitStack() as stack:
        journal = None
        if found.images:
            kinds = WRITERS if wanted.proposals is None else {**WRITERS, "overlay": Outlines}
            writers = [kinds[kind](wanted.out, *known) for kind in wanted.kinds if kind != "csv"]
            journal = open_journal(predictor, found, wanted, writers + table)
            if journal is not None:
                stack.enter_context(closing(journal))
            try:
                segment_images(predictor, found.images, names, wanted, writers + table, tally, journal)
            except KeyboardInterrupt:
                if journal is not None:
                    typer.echo("stopped; the same command with --resume goes on from here", err=True)
                else:
                    finish(writers + table)  # nothing goes on from here
                raise
            finish(writers + table)
        tally.numbers = count(len(found.images))
        for source, name in zip(moving, names[len(found.images) :], strict=True):
            _video(predictor, source, name, wanted, table, tally)
            finish(table)  # already now: the next one may be stopped
        if journal is not None:
            journal.remove()
    _sum_up(tally, len(found.images), wanted, time.perf_counter() - start)


def _video(
    predictor: Predictor,
    source: Path | int,
    name: str,
    wanted: PredictionRequest,
    table: list[Any],
    tally: Tally,
) -> None:
    from instancefcn.inference.predictor import FileResult
    from instancefcn.inference.threaded_map import threaded_map
    from instancefcn.inference.video import FrameResults, Movie, Video
    from instancefcn.inference.writers import WRITERS, finish, write_item

    try:
        video = Video(source)
    except ImageError as error:
        typer.echo(f"error: {error}", err=True)
        if wanted.json:
            path = source if isinstance(source, Path) else Path("webcam")
            typer.echo(json.dumps(result_as_json(FileResult(path, None, None, error))))
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
            item = item_of(next(tally.numbers), f"{name}-{result.frame:06d}", result)
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
        done = stack.enter_context(closing(threaded_map(write, results, AHEAD, threads=1)))
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
                    typer.echo(json.dumps(result_as_json(result)))
        done.close()
        finish([writer for writer in writers if writer not in table])
        seconds = time.perf_counter() - start
        objects, frames_done = tally.objects - objects, tally.frames - before
        report.line(f"{video.name}: {objects} objects in {frames_done} frames ({seconds:.2f} s)")


def _sum_up(tally: Tally, total: int, wanted: PredictionRequest, seconds: float) -> None:
    where = []
    if total:
        where.append(f"{tally.images} of {total} pictures")
    if tally.frames or not total:
        where.append(f"{tally.frames} frames")
    done = tally.frames or tally.images
    place = f"; written to {wanted.out}" if wanted.writes and done else ""
    typer.echo(f"{tally.objects} objects in {' and '.join(where)}, {seconds:.1f} s{place}", err=True)
    if tally.failed:
        raise typer.Exit(1)
