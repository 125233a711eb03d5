"""What `predict` and `propose` are asked for, and what they have done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instancefcn.inference.predictor import FileResult
    from instancefcn.inference.result_formats import ResultItem
    from instancefcn.inference.resume_log import Done

KINDS = ("overlay", "coco", "yolo", "labelme", "cutouts", "labelmap", "csv")
IMAGES_ONLY = ("yolo", "labelme")
"""Kinds that stand beside a picture file, which the frames of a video have not."""

AHEAD = 4
"""Pictures that are read before their turn, and as many that are written behind; with large batches more."""


@dataclass(frozen=True)
class PredictionRequest:
    """What the options ask for: see `predict`.

    Attributes:
        out: the folder.
        kinds: of KINDS.
        score, batch, tile: as for `Predictor.files`.
        frames: the most frames of a video.
        explain: draw the score maps of the best object of every picture.
        json: print the results on standard output.
        proposals: how many of them, for InstanceFCN: they are outlined and have no names. None for objects.
        resume: go on with a call that was stopped.
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
    resume: bool = False

    @property
    def writes(self) -> bool:
        """Whether anything is written."""
        return bool(self.kinds) or self.explain


@dataclass
class Tally:
    """What was done so far; `numbers` counts frames, after the pictures."""

    images: int = 0
    frames: int = 0
    objects: int = 0
    failed: int = 0
    numbers: Iterator[int] = field(default_factory=count)

    def add(self, done: Done | None) -> None:
        """One more picture: what was found in it, or None when it could not be read."""
        if done is None:
            self.failed += 1
        else:
            self.images += 1
            self.objects += done.objects


def item_of(number: int, name: str, result: FileResult) -> ResultItem | None:
    """A result for the writers; None when there is nothing to write."""
    from instancefcn.inference.result_formats import ResultItem

    if result.image is None or result.instances is None:
        return None
    return ResultItem(number, name, result.path, result.image, result.instances, result.frame)
