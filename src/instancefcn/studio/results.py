"""What the page keeps of an image between the network's run and the downloads, and what it makes of it."""

from __future__ import annotations

import re
import secrets
import threading
import zipfile
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.drawing import colour_of
from instancefcn.instances import Instances
from instancefcn.studio.service import decode_upload

SHOWN_SIDE = 1280
"""The longer side, in pixels, of the image that the page shows. Outlines are traced at this size."""

KEPT_BYTES = 256_000_000
"""How much is kept for downloads. The oldest go first."""


@dataclass(frozen=True)
class PageResult:
    """One image and what was found in it.

    Attributes:
        name: the file's name, without its suffix.
        data: the file as it was sent.
        document: as `instancefcn.inference.writers.prediction` gives it; masks as run lengths are small.
    """

    name: str
    data: bytes
    document: dict[str, Any]

    def chosen(self, keep: Sequence[int]) -> dict[str, Any]:
        """The document with only the instances at these places. Raises IndexError for one that is missing."""
        return {**self.document, "instances": [self.document["instances"][index] for index in keep]}


class Kept:
    """The latest results, each under a token that only its page knows."""

    def __init__(self, budget: int = KEPT_BYTES) -> None:
        self._results: OrderedDict[str, PageResult] = OrderedDict()
        self._budget, self._used = budget, 0
        self._lock = threading.Lock()

    def add(self, result: PageResult) -> str:
        """Keep a result; return its token."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._results[token] = result
            self._used += _cost(result)
            while self._used > self._budget and len(self._results) > 1:
                self._used -= _cost(self._results.popitem(last=False)[1])
        return token

    def get(self, token: str) -> PageResult | None:
        """The result, unless newer ones have taken its place."""
        with self._lock:
            return self._results.get(token)


def _cost(result: PageResult) -> int:
    masks = sum(len(one["segmentation"]["counts"]) for one in result.document["instances"])
    return len(result.data) + masks + 1000 * (1 + len(result.document["instances"]))


def view(image: Tensor, instances: Instances, document: dict[str, Any]) -> dict[str, Any]:
    """What the browser draws.

    Args:
        image: uint8 [3, H, W], RGB.
        instances: what was found in it.
        document: the same, as JSON.

    Returns:
        width and height, in pixels of the image as it is shown; the image as a data URL (browsers cannot
        show every format that we read); for every instance its class, score, area (in the original's
        pixels), colour, and outline as the "d" of an SVG path in the shown image's pixels.
    """
    original = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    scale = min(1.0, SHOWN_SIDE / max(original.size))
    shown = original.resize((max(1, round(original.width * scale)), max(1, round(original.height * scale))))
    file = BytesIO()
    shown.save(file, "JPEG", quality=88)
    return {
        "width": shown.width,
        "height": shown.height,
        "image": "data:image/jpeg;base64," + b64encode(file.getvalue()).decode("ascii"),
        "instances": [
            {
                "class": row["class"],
                "score": row["score"],
                "area": row["area"],
                "colour": "#{:02x}{:02x}{:02x}".format(*colour_of(index)),
                "outline": outline(instances.masks, index, scale),
            }
            for index, row in enumerate(document["instances"])
        ],
    }


def outline(masks: CroppedMasks, index: int, scale: float) -> str:
    """The outlines of one mask, holes and parts and all, as the "d" of an SVG path (fill rule: even-odd).

    Args:
        scale: shown pixels per pixel, at most 1. Coordinates are shown pixels, to a tenth.
    """
    crop = masks.crop(index).cpu().numpy()
    if not crop.size:
        return ""
    x1, y1, *_ = masks.rects[index].tolist()
    small = Image.fromarray(crop * np.uint8(255)).resize(
        (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))), Image.Resampling.BOX
    )
    margin = 3
    padded = np.pad(np.asarray(small), margin)
    # A slight blur takes the stairs from the edge; what is too thin for it is traced as it is.
    lines = _trace(np.asarray(Image.fromarray(padded).filter(ImageFilter.GaussianBlur(0.8)))) or _trace(
        padded
    )
    per = (crop.shape[1] / small.width * scale, crop.shape[0] / small.height * scale)
    pieces = []
    for line in lines:
        points = (line - margin + 0.5) * per + (x1 * scale, y1 * scale)
        points = points[: -1 if len(points) > 1 else None]
        if len(points) > 24:
            points = points[::2]  # they lie about 0.7 pixels apart
        pieces.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points.tolist()) + "Z")
    return "".join(pieces)


def _trace(values: NDArray[np.uint8]) -> list[NDArray[Any]]:
    generator = contourpy.contour_generator(
        z=values.astype(np.float32), line_type=contourpy.LineType.Separate
    )
    return [np.asarray(line) for line in generator.lines(127.5)]


def write_cutouts(file: IO[bytes], result: PageResult, keep: Sequence[int]) -> None:
    """Write a ZIP of PNG files, one for each chosen instance: the image inside its mask, transparent
    elsewhere, cut to the mask's tight box.

    Raises:
        IndexError: an instance is not there.
    """
    rows = result.chosen(keep)["instances"]
    image = decode_upload(result.data).permute(1, 2, 0).numpy()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for index, row in zip(keep, rows, strict=True):
            masks = CroppedMasks.from_rles([row["segmentation"]], image.shape[:2])
            x1, y1, x2, y2 = masks.rects[0].tolist()
            if x1 == x2:
                continue
            alpha = masks.crop(0).numpy()[:, :, None] * np.uint8(255)
            cut = np.concatenate((image[y1:y2, x1:x2] * (alpha > 0), alpha), axis=2)
            png = BytesIO()
            Image.fromarray(cut).save(png, "PNG", compress_level=3)
            archive.writestr(
                f"{index + 1:03}-{safe_name(row['class'])}-{row['score']:.2f}.png", png.getvalue()
            )


def safe_name(name: str) -> str:
    """A name that is safe in a file's name and in an HTTP header."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:80] or "image"


def stem(path: str | Path) -> str:
    """The name of an uploaded file without its folder and suffix."""
    return Path(path).stem[:200]
