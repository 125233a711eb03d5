"""What a call of `predict` or `propose` asks for, checked before torch is imported and the model is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from instancefcn.errors import ConfigError
from instancefcn.files import check_output_folder
from instancefcn.images.pages import with_page
from instancefcn.inference.coco_source import read_coco_source
from instancefcn.inference.sources import Sources, find_sources

KINDS = ("overlay", "coco", "yolo", "labelme", "cutouts", "labelmap", "csv")
IMAGES_ONLY = ("yolo", "labelme")
"""Kinds that describe an image file, which the frames of a video do not have."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a call asks for; see `predict` for the fields.

    Attributes:
        save: of KINDS.
        top: the maximum number of proposals in an image, which are outlined without names; None for objects.
        classes: names; the model has yet to be asked whether it knows them.
    """

    out: Path
    save: tuple[str, ...]
    score: float
    batch: int
    tile: int | Literal["auto"] | None
    explain: bool
    frames: int | None
    resume: bool
    top: int | None = None
    max_objects: int | None = None
    classes: tuple[str, ...] | None = None
    page: int | Literal["all"] | None = None

    @property
    def writes(self) -> bool:
        """Whether anything is written."""
        return bool(self.save) or self.explain


def kinds_of(save: str | Iterable[str]) -> tuple[str, ...]:
    """The kinds that `save` names, each once. Raises ConfigError for an unknown kind."""
    parts = save.split(",") if isinstance(save, str) else save
    kinds = tuple(dict.fromkeys(kind for kind in (part.strip() for part in parts) if kind))
    if kinds == ("none",):
        return ()
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or (isinstance(save, str) and not kinds):
        raise ConfigError(
            f"save: {', '.join(wrong) or repr(save)} is not a kind of result; known are {', '.join(KINDS)},"
            " or 'none'"
        )
    return kinds


def names_of(classes: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """The names in `classes`, each once; None for all classes."""
    if classes is None:
        return None
    names = classes.split(",") if isinstance(classes, str) else classes
    return tuple(dict.fromkeys(name for name in (part.strip() for part in names) if name))


def page_of(page: int | str | None) -> int | Literal["all"] | None:
    """A page as it is typed. Raises ConfigError unless it is "all", None, or a number from 1."""
    if page is None or page == "all":
        return page  # type: ignore[return-value]
    text = str(page)
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(f"page must be a number from 1, or 'all', got {page!r}")
    return int(text)


def find_and_check(sources: str | Path | Iterable[str | Path], request: Request) -> Sources:
    """The sources, after everything that can be checked without the model."""
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if (coco := read_coco_source(given)) is not None:
        found = Sources(coco[1], coco=coco[0])
    else:
        found = find_sources(given, request.out)
    for name in ("batch", "frames", "top", "max_objects"):
        if (value := getattr(request, name)) is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if request.explain and isinstance(request.tile, int):
        raise ConfigError("explain shows what the network sees of a whole image: leave out tile")
    if request.page is not None:
        found = _with_pages(found, request)
    if request.writes:
        check_output_folder(request.out)
    elif request.resume:
        raise ConfigError("resume completes results that were written, but save is none: name what to write")
    if not found.videos and found.webcam is None:
        return found
    if request.resume:
        raise ConfigError("resume is for images, a video is segmented in one go: leave out the videos")
    if request.explain:
        raise ConfigError("explain is for images: leave out the videos")
    if alone := [kind for kind in IMAGES_ONLY if kind in request.save]:
        raise ConfigError(
            f"save: {','.join(alone)} describes image files: save the video's frames as images first"
        )
    from instancefcn.inference.video import load_av

    load_av()
    return found


def _with_pages(found: Sources, request: Request) -> Sources:
    """The sources with the pages that are asked for instead of the files."""
    from instancefcn.images.decoding import pages_of

    files = [image for image in found.images if isinstance(image, Path)]
    if found.videos or found.webcam is not None or len(files) < len(found.images):
        raise ConfigError("page is for image files: leave out addresses, videos and single pages")
    if "yolo" in request.save:
        raise ConfigError("save: yolo describes image files: save the pages as images first")
    pages: list[Path | str] = []
    for path in files:
        if request.page != "all":
            pages.append(with_page(path, request.page or 1))
        elif (count := pages_of(path)) > 1:
            pages += [with_page(path, page) for page in range(1, count + 1)]
        else:
            pages.append(path)
    return replace(found, images=tuple(pages))
