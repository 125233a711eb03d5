"""Images of plain rectangles to label, and a reader that sees them without a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks

GROUND = (40, 44, 52)
COLOURS = ((220, 60, 60), (60, 200, 90), (70, 110, 230), (230, 200, 60))
BOXES = ((20, 20, 80, 70), (100, 30, 150, 110), (40, 90, 90, 130))
"""x1, y1, x2, y2 of the rectangles in every image."""


def save_image(
    path: Path, boxes: Sequence[tuple[int, int, int, int]] = BOXES, size: tuple[int, int] = (200, 150)
) -> Path:
    """A PNG file with one rectangle of its own colour a box."""
    array = np.empty((size[1], size[0], 3), np.uint8)
    array[:] = GROUND
    for colour, (x1, y1, x2, y2) in zip(COLOURS, boxes, strict=False):
        array[y1:y2, x1:x2] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def photos(folder: Path, count: int = 3) -> Path:
    """A folder with images 0.png, 1.png, ..; each shows BOXES but the first `number % 3`."""
    for number in range(count):
        save_image(folder / f"{number}.png", BOXES[number % 3 :])
    return folder


@dataclass(frozen=True)
class Seen:
    """A candidate."""

    box: tuple[float, float, float, float]
    mask: CroppedMasks
    score: float
    label: int | None


class RectangleReader:
    """Sees the rectangles of an image, the first with score 0.9, the next with 0.7, 0.5 and 0.3.

    Args:
        model: its name; "blind" sees nothing.
        class_names: with some, rectangles are of these classes in turn.
    """

    def __init__(self, model: str, class_names: tuple[str, ...] = ()) -> None:
        self.model, self.class_names = model, class_names
        self.looked = 0

    def maps(self, image: Tensor) -> Any:
        self.looked += 1
        masks = [
            (image == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0) for colour in COLOURS
        ]
        return [] if self.model == "blind" else [mask for mask in masks if mask.any()]

    def _seen(self, mask: Tensor, number: int) -> Seen:
        # In a rectangle larger than the mask, as networks give them.
        masks = CroppedMasks.from_crops([mask], [(0, 0)], (mask.shape[0], mask.shape[1]))
        x1, y1, x2, y2 = masks.tight_boxes()[0].tolist()
        label = number % len(self.class_names) if self.class_names else None
        return Seen((x1, y1, x2, y2), masks, 0.9 - 0.2 * number, label)

    def proposals(self, maps: Any, *, score: float, count: int) -> list[Seen]:
        found = [self._seen(mask, number) for number, mask in enumerate(maps)]
        return [one for one in found if one.score >= score][:count]

    def at_point(self, maps: Any, x: float, y: float, count: int) -> list[Seen]:
        """The rectangle there, then its left half."""
        found = []
        for number, mask in enumerate(maps):
            if mask[int(y), int(x)]:
                half = mask.clone()
                columns = mask.any(0).nonzero()[:, 0]
                half[:, int(columns.float().mean()) :] = False
                found += [self._seen(mask, number), self._seen(half, number)]
        return found[:count]

    def in_box(
        self,
        maps: Any,
        box: Sequence[float],
        positive: Sequence[tuple[float, float]],
        negative: Sequence[tuple[float, float]],
    ) -> Seen:
        """The largest rectangle's part in the box, with those of the positive points, without the others."""
        x1, y1, x2, y2 = (int(side) for side in box)
        inside = [mask.clone() for mask in maps] or [torch.zeros((150, 200), dtype=torch.bool)]
        for mask in inside:
            window = torch.zeros_like(mask)
            window[y1:y2, x1:x2] = True
            mask &= window
        best = max(range(len(inside)), key=lambda number: int(inside[number].sum()))
        mask = inside[best]
        for x, y in positive:
            for other in maps:
                mask |= other if other[int(y), int(x)] else torch.zeros_like(mask)
        for x, y in negative:
            for other in maps:
                mask &= ~other if other[int(y), int(x)] else torch.ones_like(mask)
        return self._seen(mask, best)


if __name__ == "__main__":
    # python tests/labelling.py SOURCE OUT PORT: the page that labels, in a process that can be killed.
    import sys

    from instancefcn.studio import site
    from instancefcn.studio.labelling.opening import open_labels
    from instancefcn.studio.labelling.session import Session

    session = Session(open_labels(sys.argv[1], sys.argv[2], ["cat"]), None, RectangleReader)
    with site._listen("127.0.0.1", int(sys.argv[3])) as listener:
        site._run(site.build_app(*site.workers(None), session), listener, "127.0.0.1", "")


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """The condition's first true value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come true")
