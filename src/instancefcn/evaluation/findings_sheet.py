"""A sheet of the images that the dataset doctor suspects, each with what is wrong with it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from instancefcn.data.dataset import Annotation, ImageRecord, rasterize
from instancefcn.data.doctor.checked_data import Box, Finding
from instancefcn.data.doctor.examine import CHECKS, Report
from instancefcn.errors import ImageError
from instancefcn.files import atomic_write
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.self_crossing import crossing
from instancefcn.images.decoding import read_image
from instancefcn.images.drawing import draw
from instancefcn.images.fonts import lettering
from instancefcn.instances import Instances

TILES, COLUMNS = 24, 4
WIDTH, HEIGHT, CAPTION, GAP = 380, 270, 92, 14
"""Size of a tile's image, height of the text below it, and gap between tiles, in pixels."""
ZOOM = 4.0
"""Side of the shown area, in multiples of the object's larger side; at most the whole image."""
PAPER, INK, FAINT, EMPTY = "#ffffff", "#1c1f23", "#6b7280", "#e5e7eb"
COLOURS = {"error": "#c62828", "warning": "#b26a00", "note": "#2563a8"}
MARK = "#ff2d95"
"""Colour of stated boxes and crossings, drawn over the outline."""

Window = tuple[int, int, int, int]


def write_sheet(report: Report, path: Path) -> int:
    """Write up to TILES suspicious images, taken in turn from the checks.

    Returns:
        how many; for 0 no file is written.
    """
    chosen = suspicious(report)
    if not chosen:
        return 0
    records = _Records.of(report)
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    size = (columns * (WIDTH + GAP) + GAP, rows * (HEIGHT + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    for number, finding in enumerate(chosen):
        row, column = divmod(number, columns)
        corner = (GAP + column * (WIDTH + GAP), GAP + row * (HEIGHT + CAPTION + GAP))
        sheet.paste(_tile(finding, records), corner)
    with atomic_write(path) as temporary:
        sheet.save(temporary)
    return len(chosen)


def suspicious(report: Report) -> list[Finding]:
    """Up to TILES findings about images, the checks in turn; notes only without errors and warnings."""
    groups = []
    for severities in (("error", "warning"), ("note",)):
        for check in CHECKS:
            found = [f for f in report.of(check.name) if f.image is not None and f.severity in severities]
            groups.append(found)
        chosen = [f for turn in zip_longest(*groups) for f in turn if f is not None][:TILES]
        if chosen:
            order = {check.name: index for index, check in enumerate(CHECKS)}
            return sorted(chosen, key=lambda f: order[f.check])
    return []


@dataclass(frozen=True)
class _Records:
    """Records and annotations by the names that findings use."""

    images: dict[tuple[str, Path], ImageRecord]
    annotations: dict[tuple[str, int], Annotation]

    @classmethod
    def of(cls, report: Report) -> _Records:
        images, annotations = {}, {}
        for split in report.splits:
            for image in split.dataset.images:
                images[split.name, image.path] = image
                annotations.update({(split.name, a.id): a for a in image.annotations})
        return cls(images, annotations)


def _tile(finding: Finding, records: _Records) -> Image.Image:
    assert finding.image is not None
    tile = Image.new("RGB", (WIDTH, HEIGHT + CAPTION), PAPER)
    if finding.other is None:
        record = records.images.get((finding.split, finding.image))
        annotation = None
        if finding.annotation is not None:
            annotation = records.annotations.get((finding.split, finding.annotation))
        tile.paste(_view(finding, record, annotation), (0, 0))
    else:
        half = (WIDTH - 4) // 2
        tile.paste(_fitted(finding.image, half), (0, 0))
        tile.paste(_fitted(finding.other, half), (half + 4, 0))
    _write_caption(tile, finding)
    return tile


def _write_caption(tile: Image.Image, finding: Finding) -> None:
    assert finding.image is not None
    pen, top = ImageDraw.Draw(tile), HEIGHT + 6
    bold = ImageFont.load_default(15)
    pen.rectangle((0, top + 1, 5, top + 15), COLOURS[finding.severity])
    pen.text((12, top), finding.check, COLOURS[finding.severity], bold)
    where = f"{finding.split}, {_short(finding.image.name, 30)}"
    if finding.annotation is not None:
        where += f", annotation {finding.annotation}"
    font, where = lettering(where, 12)
    pen.text((12, top + 19), where, FAINT, font)
    # Messages begin with the file and the record, which the line above names.
    font, what = lettering(finding.message.split(": ", 2)[-1], 12)
    for number, line in enumerate(_lines(what, font, WIDTH - 16)[:3]):
        pen.text((12, top + 36 + 16 * number), line, INK, font)


def _lines(text: str, font: Any, width: int) -> list[str]:
    """Text broken into lines of at most `width` pixels; long file names in it are shortened."""
    lines = [""]
    for word in text.split():
        word = _short(word, 34)
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _short(name: str, length: int) -> str:
    """A long file name without its middle."""
    return name if len(name) <= length else f"{name[: length // 2 - 1]}..{name[-(length // 2 - 1) :]}"


def _view(finding: Finding, record: ImageRecord | None, annotation: Annotation | None) -> Image.Image:
    """The image, or the part of it around the annotation, with the outline and what is wrong with it."""
    assert finding.image is not None
    if record is None or annotation is None or annotation.crowd:
        return _fitted(finding.image, WIDTH)
    try:
        tensor = read_image(finding.image)
    except ImageError as error:
        return _placeholder(error, WIDTH)
    if tuple(tensor.shape[1:]) != (record.height, record.width):
        return _fitted(finding.image, WIDTH)
    image = Image.fromarray(tensor.permute(1, 2, 0).contiguous().numpy())
    masks = rasterize(ImageRecord(record.id, record.path, record.height, record.width, (annotation,)))
    window = _window(annotation, record, masks, finding.check)
    scale = min(WIDTH / (window[2] - window[0]), HEIGHT / (window[3] - window[1]))
    size = (max(1, round((window[2] - window[0]) * scale)), max(1, round((window[3] - window[1]) * scale)))
    field = Image.new("RGB", (window[2] - window[0], window[3] - window[1]), EMPTY)
    field.paste(image, (-window[0], -window[1]))
    part = field.resize(size, Image.Resampling.BICUBIC)
    mask = Image.fromarray(masks.paste(0).byte().numpy() * 255).crop(window)
    mask = mask.resize(size, Image.Resampling.NEAREST)
    shown = _centred(_outlined(part, mask), WIDTH)
    corner = ((WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2)
    pen = ImageDraw.Draw(shown)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x - window[0]) * scale + corner[0], (y - window[1]) * scale + corner[1]

    if finding.check in ("box-mask", "zero-area"):
        (x1, y1), (x2, y2) = at(*annotation.box[:2]), at(*annotation.box[2:])
        pen.rectangle((x1, y1, x2, y2), outline=MARK, width=2)
        if finding.check == "zero-area":  # an empty box is not visible
            _circle(pen, (x1 + x2) / 2, (y1 + y2) / 2)
    if isinstance(annotation.segmentation, list):
        for polygon in annotation.segmentation:
            points = [at(x, y) for x, y in zip(polygon[0::2], polygon[1::2], strict=True)]
            if finding.check == "out-of-bounds":
                pen.line([*points, points[0]], MARK, 2)
            if finding.check == "self-intersection" and (point := crossing(polygon)):
                _circle(pen, *at(*point))
    return shown


def _circle(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """A ring that is visible on every background."""
    pen.ellipse((x - 11, y - 11, x + 11, y + 11), outline=PAPER, width=5)
    pen.ellipse((x - 10, y - 10, x + 10, y + 10), outline=MARK, width=3)


def _window(annotation: Annotation, record: ImageRecord, masks: CroppedMasks, check: str) -> Window:
    """What to show, in whole pixels: the object and its surroundings inside the image; for an outline that
    leaves the image, both whole.
    """
    x1, y1, x2, y2 = _around(annotation, masks)
    if check == "out-of-bounds":
        window = (min(x1, 0.0), min(y1, 0.0), max(x2, record.width), max(y2, record.height))
        return round(window[0]), round(window[1]), round(window[2]), round(window[3])
    side = max(x2 - x1, y2 - y1, 12.0) * ZOOM
    width, height = min(side * WIDTH / HEIGHT, record.width), min(side, record.height)
    left = min(max((x1 + x2 - width) / 2, 0.0), record.width - width)
    top = min(max((y1 + y2 - height) / 2, 0.0), record.height - height)
    return int(left), int(top), int(left + width), int(top + height)


def _around(annotation: Annotation, masks: CroppedMasks) -> Box:
    """The box around the stated box and the outline."""
    boxes = [annotation.box]
    if isinstance(annotation.segmentation, list):
        xs = [x for polygon in annotation.segmentation for x in polygon[0::2]]
        ys = [y for polygon in annotation.segmentation for y in polygon[1::2]]
        boxes.append((min(xs), min(ys), max(xs), max(ys)))
    elif int(masks.areas()[0]):
        x1, y1, x2, y2 = masks.tight_boxes()[0].tolist()
        boxes.append((x1, y1, x2, y2))
    lows, highs = zip(*[((b[0], b[1]), (b[2], b[3])) for b in boxes], strict=True)
    return (
        min(x for x, _ in lows),
        min(y for _, y in lows),
        max(x for x, _ in highs),
        max(y for _, y in highs),
    )


def _outlined(part: Image.Image, mask: Image.Image) -> Image.Image:
    """An image with one object drawn on it in the style of predictions. `mask` has its size."""
    pixels = torch.from_numpy(np.array(mask)) > 0
    masks = CroppedMasks.from_dense(pixels[None])
    one = Instances(
        masks.tight_boxes(), torch.ones(1), torch.zeros(1, dtype=torch.int64), masks, ("object",), (1,)
    )
    return draw(torch.from_numpy(np.array(part)).permute(2, 0, 1), one, labels=False)


def _fitted(path: Path, width: int) -> Image.Image:
    """A whole image inside `width` x HEIGHT."""
    try:
        tensor = read_image(path)
    except ImageError as error:
        return _placeholder(error, width)
    image = Image.fromarray(tensor.permute(1, 2, 0).contiguous().numpy())
    scale = min(width / image.width, HEIGHT / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return _centred(image.resize(size, Image.Resampling.BICUBIC), width)


def _centred(image: Image.Image, width: int) -> Image.Image:
    field = Image.new("RGB", (width, HEIGHT), EMPTY)
    field.paste(image, ((width - image.width) // 2, (HEIGHT - image.height) // 2))
    return field


def _placeholder(error: ImageError, width: int) -> Image.Image:
    """The reason why an image cannot be shown, instead of it."""
    field = Image.new("RGB", (width, HEIGHT), EMPTY)
    pen, font = ImageDraw.Draw(field), ImageFont.load_default(14)
    lines: Sequence[str] = textwrap.wrap(str(error).split(": ", 1)[-1], 36, max_lines=4)
    pen.multiline_text((width / 2, HEIGHT / 2), "\n".join(lines), FAINT, font, "mm", align="center")
    return field
