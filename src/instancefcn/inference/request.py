"""What a call of `predict` or `propose` asks for, checked before torch is imported and the model is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from instancefcn.errors import ConfigError
from instancefcn.files import check_output_folder
from instancefcn.inference.sources import Sources, find_sources

KINDS = ("overlay", "coco", "yolo", "labelme", "cutouts", "labelmap", "csv")
IMAGES_ONLY = ("yolo", "labelme")
"""Kinds that describe an image file, which the frames of a video do not have."""


@dataclass(frozen=True)
class Request:
    """What a call asks for; see `predict` for the fields.

    Attributes:
        save: of KINDS.
        top: the maximum number of proposals in an image, which are outlined without names; None for objects.
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


def find_and_check(sources: str | Path | Iterable[str | Path], request: Request) -> Sources:
    """The sources, after everything that can be checked without the model."""
    found = find_sources([sources] if isinstance(sources, str | Path) else sources, request.out)
    for name, value in (("batch", request.batch), ("frames", request.frames), ("top", request.top)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if request.explain and isinstance(request.tile, int):
        raise ConfigError("explain shows what the network sees of a whole image: leave out tile")
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
