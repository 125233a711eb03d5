"""How `predict` and `propose` go through pictures, and go on after they were stopped."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from instancefcn.cli.prediction_request import AHEAD, PredictionRequest, Tally, item_of
from instancefcn.cli.progress_report import count_by_class, reporter, result_as_json
from instancefcn.files import writable

if TYPE_CHECKING:
    from instancefcn.inference.explain import Explanation
    from instancefcn.inference.predictor import FileResult, Predictor
    from instancefcn.inference.result_formats import ResultItem
    from instancefcn.inference.resume_log import Done, ResumeLog
    from instancefcn.inference.sources import Sources


DARK = 64
"""Pictures whose brightest sample is below this, of 255, get a hint."""


def segment_images(
    predictor: Predictor,
    sources: tuple[Path | str, ...],
    names: list[str],
    wanted: PredictionRequest,
    writers: list[Any],
    tally: Tally,
    journal: ResumeLog | None,
) -> None:
    """Segment the pictures that the journal does not know as done, write and report."""
    from instancefcn.inference.explain import explain, write_explanation
    from instancefcn.inference.threaded_map import threaded_map
    from instancefcn.inference.writers import write_item

    ahead = max(AHEAD, 2 * wanted.batch)
    before = {} if journal is None else journal.done
    waiting = [number for number in range(len(sources)) if number not in before]
    numbers = iter(waiting)

    def explained(result: FileResult) -> tuple[int, FileResult, Explanation | None]:
        # Here and not in the writers' threads: the network runs in one thread alone.
        found = None
        if wanted.explain and result.image is not None and result.instances:
            found = explain(predictor, result.image, result.instances)
        return next(numbers), result, found

    def write(work: tuple[int, FileResult, Explanation | None]) -> tuple[FileResult, Done | None]:
        number, result, explanation = work
        item = item_of(number, names[number], result)
        if item is None:
            return result, None
        files = write_item(writers, item)
        if explanation is not None:
            files.append(wanted.out / "explained" / f"{item.name}.png")
            with writable():
                write_explanation(files[-1], item.image, item.instances, explanation, 0)
        return result, _done(item, files, writers, wanted, result)

    results = predictor.files(
        [sources[number] for number in waiting],
        score=wanted.score,
        batch_size=wanted.batch,
        ahead=ahead,
        tile=wanted.tile,
        top=wanted.proposals,
    )
    with ExitStack() as stack:
        stack.enter_context(closing(results))
        report = stack.enter_context(reporter(len(sources)))
        if before:
            report.line(f"going on: {len(before)} of {len(sources)} pictures were done before")
        todo = (explained(result) for result in results)
        written = stack.enter_context(closing(threaded_map(write, todo, ahead, pixels=_pixels)))
        for number in range(len(sources)):
            if number in before:
                done: Done | None = before[number]
            else:
                result, done = next(written)
                if done is None:
                    report.line(f"error: {result.error}")
                else:
                    if journal is not None:
                        journal.add(done)
                    assert result.instances is not None
                    said = f"{count_by_class(result.instances)} ({result.seconds:.2f} s){_darkness(result)}"
                    report.line(f"{result.path}: {said}")
            report.advance()
            tally.add(done)
            if wanted.json:
                typer.echo(json.dumps(result_as_json(result) if done is None else done.said))


def _darkness(result: FileResult) -> str:
    """A hint for pictures such as a camera's 12 bits that were stored in 16 as they came."""
    # In the order that it lies in memory: twenty times as fast.
    most = 255 if result.image is None else int(result.image.permute(1, 2, 0).max())
    return (
        "" if most >= DARK else f"; nearly black, at most {most} of 255: see docs/predict.md, Dark pictures"
    )


def _pixels(work: tuple[int, FileResult, Explanation | None]) -> int:
    image = work[1].image
    return 0 if image is None else image.shape[1] * image.shape[2]


def _done(
    item: ResultItem, files: list[Path], writers: list[Any], wanted: PredictionRequest, result: FileResult
) -> Done:
    from instancefcn.inference.resume_log import Done, stamp_of

    return Done(
        item.number,
        str(item.source),
        stamp_of(item.source),
        [file.relative_to(wanted.out).as_posix() for file in files],
        len(item.instances),
        {type(writer).__name__: writer.kept(item.number) for writer in writers},
        result_as_json(result) if wanted.json else None,
    )


def open_journal(
    predictor: Predictor, found: Sources, wanted: PredictionRequest, writers: list[Any]
) -> ResumeLog | None:
    """The journal of a call whose results can be completed later, after what it holds was taken up."""
    if found.videos or not wanted.writes:
        return None
    from instancefcn.inference.resume_log import NAME, ResumeLog, identity

    asked = {
        "score": wanted.score,
        "save": sorted(wanted.kinds),
        "tile": wanted.tile,
        "explain": wanted.explain,
        "top": wanted.proposals,
        "json": wanted.json,
    }
    if not wanted.resume and (wanted.out / NAME).exists():
        typer.echo(f"a stopped call was in {wanted.out}; this one starts anew, without --resume", err=True)
    journal = ResumeLog(wanted.out, {**identity(predictor), **asked}, found.images, wanted.resume)
    for number, done in journal.done.items():
        for writer in writers:
            writer.restore(number, done.kept[type(writer).__name__])
    return journal
