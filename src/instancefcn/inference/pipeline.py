"""The one way from images and videos to results: read ahead, segment, write behind, in order."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from instancefcn.console import Progress
from instancefcn.data.paths import output_names
from instancefcn.errors import ImageError
from instancefcn.files import writable
from instancefcn.folder_lock import only_writer
from instancefcn.images.download import path_of
from instancefcn.inference.coco_source import CocoSource
from instancefcn.inference.explain import Explanation, explain, write_explanation
from instancefcn.inference.predictor import FileResult, Predictor
from instancefcn.inference.reduced import reduced
from instancefcn.inference.request import Request
from instancefcn.inference.result_formats import LabelMap, ResultItem, Table, Writer
from instancefcn.inference.resume_log import NAME, Done, ResumeLog, done_of, identity, restored
from instancefcn.inference.sources import Sources, describe_left_out, unread_error
from instancefcn.inference.threaded_map import threaded_map
from instancefcn.inference.video import FrameResults, Movie, Video, video_name
from instancefcn.inference.writers import WRITERS, CocoResults, Outlines, Overlays, finish, write_item
from instancefcn.safe_text import one_line

AHEAD = 4
"""Images that are read ahead, and as many that are written behind; with large batches more."""


def run(
    predictor: Predictor, sources: Sources, request: Request, progress: Progress
) -> Generator[FileResult, None, None]:
    """Segment all sources, write what is asked for, and yield the results in order.

    Raises:
        ConfigError: the call cannot be resumed: see `ResumeLog`.
        OutputError: a result cannot be written, or another process is writing to the folder.
    """
    with only_writer(request.out) if request.writes else nullcontext():
        yield from _run(predictor, sources, request, progress)


def _run(
    predictor: Predictor, sources: Sources, request: Request, progress: Progress
) -> Generator[FileResult, None, None]:
    pipeline = _Pipeline(predictor, request, progress, sources.coco)
    if others := describe_left_out(sources.left_out):
        progress.line(one_line(others))
    videos: list[Path | int] = [*sources.videos, *([] if sources.webcam is None else [sources.webcam])]
    paths = [*map(path_of, sources.images), *(Path("webcam") if isinstance(v, int) else v for v in videos)]
    first = len(sources.images)
    names = apart_from_frames(output_names(paths), first)
    if sources.images:
        yield from pipeline.images(sources.images, names[:first], resumable=request.writes and not videos)
    numbers = count(first)
    for source, name in zip(videos, names[first:], strict=True):
        yield from pipeline.video(source, name, numbers)
    for path in sources.unread:
        yield FileResult(path, None, None, unread_error(path))


@dataclass(frozen=True, eq=False)
class _Work:
    """A segmented image on its way to the writers."""

    number: int
    name: str
    result: FileResult
    explanation: Explanation | None = None

    @property
    def pixels(self) -> int:
        """Of the image, 0 without one."""
        image = self.result.image
        return 0 if image is None else image.shape[1] * image.shape[2]


class _Pipeline:
    """What the images and videos of one call share.

    The objects of all of them go into one table, which is written after each video: the next may be stopped.
    """

    def __init__(
        self, predictor: Predictor, request: Request, progress: Progress, coco: CocoSource | None
    ) -> None:
        self.predictor, self.request, self.progress, self.coco = predictor, request, progress, coco
        self.known: tuple[tuple[str, ...], tuple[Any, ...]] = predictor.class_names, predictor.category_ids
        if coco is not None:
            self.known = predictor.class_names, coco.category_ids(predictor.class_names)
            if unknown := coco.unknown(predictor.class_names):
                new = (f"{name} ({self.known[1][predictor.class_names.index(name)]})" for name in unknown)
                progress.line(
                    one_line(f"{coco.path}: has no category of these names, new ids: {', '.join(new)}")
                )
        self.table = [Table(request.out, *self.known)] if "csv" in request.save else []
        self.settings: dict[str, Any] = {
            "score": request.score,
            "batch_size": request.batch,
            "tile": None if request.explain and request.tile == "auto" else request.tile,
            "max_objects": request.max_objects if request.top is None else request.top,
            "classes": request.classes,
        }

    def images(
        self, paths: Sequence[Path | str], names: Sequence[str], resumable: bool
    ) -> Generator[FileResult, None, None]:
        """Segment and write images, except those that a resumed call has done."""
        kinds: dict[str, Callable[..., Writer]]
        kinds = {**WRITERS} if self.request.top is None else {**WRITERS, "overlay": Outlines}
        if self.coco is not None:
            kinds = {**kinds, "coco": partial(CocoResults, image_ids=self.coco.image_ids)}
        writers = [kinds[kind](self.request.out, *self.known) for kind in self.request.save if kind != "csv"]
        writers += self.table
        with ExitStack() as stack:
            log = stack.enter_context(closing(self._open_log(paths))) if resumable else None
            try:
                yield from self._images(paths, names, writers, log)
            except (KeyboardInterrupt, GeneratorExit):
                if log is None:
                    finish(writers)
                else:
                    self.progress.line("stopped; the same command with --resume continues from here")
                raise
            finish(writers)
            if log is not None:
                log.remove()

    def _images(
        self,
        paths: Sequence[Path | str],
        names: Sequence[str],
        writers: Sequence[Writer],
        log: ResumeLog | None,
    ) -> Generator[FileResult, None, None]:
        before = {} if log is None else log.done
        if before:
            self.progress.line(f"continuing: {len(before)} of {len(paths)} images were done before")
        todo = [number for number in range(len(paths)) if number not in before]
        self.progress("images", 0, len(paths))
        ahead = max(AHEAD, 2 * self.request.batch)
        results = self.predictor.files([paths[number] for number in todo], ahead=ahead, **self.settings)

        def works() -> Iterator[_Work]:
            for number, result in zip(todo, results, strict=True):
                found = None
                if self.coco is not None and result.instances is not None:
                    result = replace(result, instances=replace(result.instances, category_ids=self.known[1]))
                # Not in the writers' threads: the network runs in one thread alone.
                if self.request.explain and result.image is not None and result.instances:
                    found = explain(self.predictor, result.image, result.instances)
                yield _Work(number, names[number], result, found)

        def write(work: _Work) -> tuple[FileResult, Done | None]:
            result = self._write(work, writers)
            if log is None or result.instances is None:
                return result, None
            return result, done_of(work.number, result, self.request.out)

        with (
            closing(results),
            closing(threaded_map(write, works(), ahead, pixels=lambda work: work.pixels)) as written,
        ):
            for number, path in enumerate(paths):
                if number in before:
                    result = restored(before.pop(number), path, self.request.out, *self.known)
                    result = replace(result, precision=self.predictor.precision)
                    assert result.instances is not None
                    for writer in writers:
                        writer.collect(number, path, result.instances)
                else:
                    result, done = next(written)
                    if log is not None and done is not None:
                        log.add(done)
                self.progress("images", number + 1, len(paths))
                yield result

    def video(
        self, source: Path | int, name: str, numbers: Iterator[int]
    ) -> Generator[FileResult, None, None]:
        """Segment and write one video, its frames numbered by `numbers`. A webcam ends at an interrupt."""
        request, start = self.request, time.perf_counter()
        try:
            video = Video(source)
        except ImageError as error:
            yield FileResult(video_name(source), None, None, error, frame=0)
            return
        with ExitStack() as stack:
            named = request.top is None
            special: dict[str, Callable[[], Writer]] = {
                "overlay": lambda: stack.enter_context(
                    Movie(request.out, name, video, labels=named, fill=named)
                ),
                "coco": lambda: FrameResults(request.out, name, *self.known),
                "csv": lambda: self.table[0],
            }
            writers = [
                special[kind]() if kind in special else WRITERS[kind](request.out, *self.known)
                for kind in request.save
            ]

            def write(result: FileResult) -> FileResult:
                return self._write(_Work(next(numbers), f"{name}-{result.frame:06d}", result), writers)

            frames = stack.enter_context(closing(video.frames(request.frames)))
            results = self.predictor.decoded(frames, **self.settings)
            # One thread: a video is written frame after frame.
            written = stack.enter_context(closing(threaded_map(write, results, AHEAD, threads=1)))
            total = min(video.count, request.frames or video.count) or request.frames or 0
            objects = done = 0
            self.progress(one_line(str(video.name)), 0, total)
            try:
                for frame, result in enumerate(written, 1):
                    if result.instances is not None:
                        done, objects = done + 1, objects + len(result.instances)
                    self.progress(one_line(str(video.name)), frame, total)
                    yield result
            except (KeyboardInterrupt, GeneratorExit):
                if isinstance(source, Path):
                    raise
            written.close()
            finish(writers)
            seconds = time.perf_counter() - start
            said = f"{video.name}: {objects} objects in {done} frames ({seconds:.2f} s)"
            self.progress.line(one_line(said))

    def _write(self, work: _Work, writers: Sequence[Writer]) -> FileResult:
        """Write one result, if there is one, and note the files in it."""
        result = work.result
        if result.instances is None or result.pixels is None:
            return result
        if result.image is None:
            return self._write_large(work, writers)
        item = ResultItem(work.number, work.name, result.path, result.image, result.instances, result.frame)
        files = write_item(writers, item)
        if work.explanation is not None:
            files.append(self.request.out / "explained" / f"{item.name}.png")
            with writable():
                write_explanation(files[-1], item.image, item.instances, work.explanation, 0)
        return replace(result, files=tuple(files))

    def _write_large(self, work: _Work, writers: Sequence[Writer]) -> FileResult:
        """As `_write`, for an image that does not fit into memory: a smaller overlay, no label map."""
        result = work.result
        files: list[Path] = []
        assert result.large is not None
        assert result.instances is not None
        small, seen = reduced(result.large, result.instances)
        for writer in writers:
            if isinstance(writer, LabelMap):
                self.progress.line(one_line(f"{result.path}: is too large for a label map: left out"))
                continue
            found = seen if isinstance(writer, (Overlays, Outlines)) else result.instances
            item = ResultItem(
                work.number, work.name, result.path, small, found, result.frame, large=result.large
            )
            files += write_item([writer], item)
        return replace(result, files=tuple(files))

    def _open_log(self, paths: Sequence[Path | str]) -> ResumeLog:
        """The log of this call, or of the one that it resumes."""
        request = self.request
        asked: dict[str, Any] = {
            "score": request.score,
            "save": sorted(request.save),
            "tile": request.tile,
            "explain": request.explain,
            "top": request.top,
            "max_objects": request.max_objects,
            "classes": None if request.classes is None else sorted(request.classes),
            "precision": self.predictor.precision,
        }
        if self.coco is not None:
            asked["ids"] = [*self.coco.image_ids, *self.known[1]]
        if not request.resume and (request.out / NAME).exists():
            self.progress.line(
                one_line(f"{request.out} holds a stopped call; this one starts anew, without --resume")
            )
        return ResumeLog(request.out, {**identity(self.predictor), **asked}, paths, request.resume)


def apart_from_frames(names: Sequence[str], images: int) -> list[str]:
    """Names of results that no frame of a video shares: `clip-000012` may be an image and a frame of `clip`.

    Args:
        names: of `images` images, which stay as they are, and then of videos.
    """
    taken = [name.casefold() for name in names[:images]]

    def clashes(name: str) -> bool:
        frame = re.compile(re.escape(name.casefold()) + r"-\d{6,}")
        return any(map(frame.fullmatch, taken))

    result = list(names[:images])
    for name in names[images:]:
        others = (f"{name}-video{number}" for number in count(1))
        result.append(next(other for other in others if not clashes(other)) if clashes(name) else name)
    return result
