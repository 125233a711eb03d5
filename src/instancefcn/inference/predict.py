"""`predict` and `propose`: files, folders, URLs and videos in; results written and yielded."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from instancefcn.console import Progress
from instancefcn.errors import ConfigError
from instancefcn.inference.request import Request, find_and_check, kinds_of, names_of, page_of

if TYPE_CHECKING:
    from instancefcn.inference.predictor import FileResult, Predictor, Tile


def predict(
    sources: str | Path | Iterable[str | Path],
    model: str | Path | Predictor = "fcis-animals7",
    *,
    out: str | Path = "predictions",
    score: float = 0.5,
    save: str | Iterable[str] = ("overlay", "coco"),
    batch: int = 1,
    tile: Tile = "auto",
    explain: bool = False,
    frames: int | None = None,
    page: int | str | None = None,
    device: str | None = None,
    precision: str = "auto",
    resume: bool = False,
    max_objects: int | None = None,
    classes: str | Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Generator[FileResult, None, None]:
    """Segment images and videos, and write the results.

    The work is done while the results are iterated: `for result in predict(...)`. Images are read ahead and
    results written behind, in threads. Ending the iteration early keeps what is complete: a call over images
    can then be resumed.

    Args:
        sources: image files, folders (the images directly in them), patterns such as "photos/**/*.jpg",
            http(s) URLs, video files, or "webcam" ("webcam:1" for the second). Or one COCO file: its images
            are segmented, and results have its image ids and category ids.
        model: name of a bundled model, checkpoint file, folder of a run, or what `load` returned.
        out: folder for the results.
        score: instances below this score (0 to 1) are left out.
        save: what to write, of "overlay", "coco", "yolo", "labelme", "cutouts", "labelmap" and "csv"; also
            as one string with commas. Empty or "none" writes nothing.
        batch: images of the same size that run at once. On a CPU 1 is as fast as any.
        tile: segment images by overlapping tiles of this side, in pixels (at least 32). None reads them
            whole; "auto" chooses, see `Predictor`, and is None with `explain`.
        explain: also draw the score maps of the best object of every image, in `out/explained`.
        frames: maximum number of frames of a video or webcam; None for all.
        page: of image files with several pages or frames, from 1, or "all"; results are named IMAGE#page2.
            None reads the first page.
        device: "cpu", "cuda" or "cuda:1"; None takes a GPU when there is one. A loaded model keeps its own.
        precision: "32", "bf16" or "auto", see `load`. A loaded model keeps its own.
        resume: continue the same call that was stopped: images whose results are complete are not segmented
            again, and their results come without the image.
        max_objects: maximum number of objects in an image, the best; None for the model's own limit (with
            `tile`, of each tile). Results that reach the limit say so.
        classes: names of the classes to look for; also as one string with commas. None for all.
        progress: receives the progress, such as the value of `instancefcn.console.progress()`.

    Yields:
        one result per image or frame, in order. A file that cannot be read gives a result with an error.

    Raises:
        ImageError: a source gives nothing, or is not a valid address.
        DataError: images of a COCO file are missing.
        ConfigError: options are out of range or do not go together, the model does not know a class, or the
            stopped call was another one.
        CheckpointError: there is no such model, or it is damaged.
        OutputError: a result cannot be written, or another process is writing to `out`.
        MissingPackageError: a video needs the package av.
    """
    request = Request(
        out=Path(out),
        save=kinds_of(save),
        score=score,
        batch=batch,
        tile=tile,
        explain=explain,
        frames=frames,
        resume=resume,
        page=page_of(page),
        max_objects=max_objects,
        classes=names_of(classes),
    )
    found = find_and_check(sources, request)
    from instancefcn.inference import pipeline, predictor

    loaded = (
        model
        if isinstance(model, predictor.Predictor)
        else predictor.load(model, device=device, precision=precision)
    )
    if request.classes is not None:
        loaded.labels_of(request.classes)
    return pipeline.run(loaded, found, request, progress or Progress())


def propose(
    sources: str | Path | Iterable[str | Path],
    model: str | Path | Predictor = "instancefcn-objects",
    *,
    out: str | Path = "proposals",
    top: int = 100,
    score: float = 0.0,
    save: str | Iterable[str] = ("overlay", "coco"),
    tile: Tile = "auto",
    explain: bool = False,
    frames: int | None = None,
    page: int | str | None = None,
    device: str | None = None,
    precision: str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
) -> Generator[FileResult, None, None]:
    """Propose masks of objects of any class in images and videos, best first, and write them.

    Args:
        model: an InstanceFCN, named or loaded as for `predict`.
        top: maximum number of proposals in an image.
        sources, out, score, save, tile, explain, frames, page, device, precision, resume, progress: see
            `predict`.

    Yields:
        one result per image or frame, as `predict` does.

    Raises:
        ConfigError: also when the model finds objects of classes.
        ImageError, CheckpointError, OutputError, MissingPackageError: see `predict`.
    """
    request = Request(
        out=Path(out),
        save=kinds_of(save),
        score=score,
        batch=1,
        tile=tile,
        explain=explain,
        frames=frames,
        resume=resume,
        top=top,
        page=page_of(page),
    )
    found = find_and_check(sources, request)
    from instancefcn.inference import pipeline, predictor
    from instancefcn.models.instance_fcn import InstanceFCN

    loaded = (
        model
        if isinstance(model, predictor.Predictor)
        else predictor.load(model, device=device, precision=precision)
    )
    if not isinstance(loaded.network, InstanceFCN):
        raise ConfigError(
            f"{model} finds objects of classes, not proposals: use predict, or an InstanceFCN as the model"
        )
    return pipeline.run(loaded, found, request, progress or Progress())
