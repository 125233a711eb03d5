"""The formats of results that other tools read, one class each: the files of each image, and of the call.

Images come from several threads and in any order. What goes into one file for all of them is therefore
collected by the image's index and written by `finish`.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from instancefcn.data.formats.labelme import RESULT_VERSION
from instancefcn.data.paths import shortened
from instancefcn.errors import ConfigError
from instancefcn.files import atomic_write, write_json
from instancefcn.geometry.contours import Ring, join_rings, trace_contours
from instancefcn.images.large import LargeImage
from instancefcn.instances import Instances

LONGEST_CLASS = 60
"""Maximum bytes of a class in a file name."""


@dataclass(frozen=True, eq=False)
class ResultItem:
    """One image with what was found in it.

    Attributes:
        number: index of the image in the call.
        name: of its results, different for every image.
        source: the file or URL.
        image: uint8 [3, H, W], RGB, upright.
        instances: what was found.
        frame: index of the frame in the video `source`; None for an image.
        large: the whole image on the disk, where `image` is a smaller copy for overlays.
    """

    number: int
    name: str
    source: Path | str
    image: Tensor
    instances: Instances
    frame: int | None = None
    large: LargeImage | None = None


class Writer:
    """Writes one kind of result.

    Args:
        out: the folder.
        class_names, category_ids: the model's.
    """

    def __init__(self, out: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.out, self.class_names, self.category_ids = out, tuple(class_names), tuple(category_ids)

    def write(self, item: ResultItem) -> list[Path]:
        """Write the files of one image; return them. Called from several threads."""
        return []

    def collect(
        self, number: int, source: Path | str, instances: Instances, frame: int | None = None
    ) -> None:
        """Note what `finish` needs of one image, written by this call or an earlier one; see `ResultItem` for
        the arguments. Called from several threads.
        """

    def finish(self) -> list[Path]:
        """Write the files that belong to all images; return them."""
        return []


class YoloLabels(Writer):
    """`labels/NAME.txt` as Ultralytics reads segmentation labels: one line per object, with its class
    (0-based) and one polygon in fractions of the image's sides; `classes.txt` with the names. Parts and holes
    are joined into the one polygon. An image without objects has an empty file.
    """

    def write(self, item: ResultItem) -> list[Path]:
        height, width = item.instances.image_size
        lines = []
        for index, label in enumerate(item.instances.labels.tolist()):
            rings = [ring for outline in _outlines(item.instances, index) for ring in outline]
            shares = (join_rings(rings) / (width, height)).clip(0, 1).reshape(-1)
            lines.append(" ".join([str(label), *(f"{share:.6f}" for share in shares.tolist())]) + "\n")
        return [_write_text(self.out / "labels" / f"{item.name}.txt", "".join(lines))]

    def finish(self) -> list[Path]:
        names = "".join(" ".join(name.split()) + "\n" for name in self.class_names)
        return [_write_text(self.out / "classes.txt", names)]


class LabelMe(Writer):
    """`labelme/NAME.json`, which refers LabelMe to the image file (the image of a URL is stored inside). One
    polygon per part; the parts of one object share a group; holes are joined to their part. The version marks
    it as a result, which is not read as annotations until a person saves it in LabelMe.
    """

    def write(self, item: ResultItem) -> list[Path]:
        path = self.out / "labelme" / f"{item.name}.json"
        height, width = item.instances.image_size
        shapes = []
        for index, name in enumerate(item.instances.names):
            parts = [join_rings(outline) for outline in _outlines(item.instances, index)]
            for ring in parts:
                shapes.append(
                    {
                        "label": name,
                        "points": ring.round(2).tolist(),
                        "group_id": index + 1 if len(parts) > 1 else None,
                        "description": f"score {float(item.instances.scores[index]):.3f}",
                        "shape_type": "polygon",
                        "flags": {},
                        "mask": None,
                    }
                )
        stored = not isinstance(item.source, Path) and item.large is None
        inside = _png_text(item.image) if stored else None
        whole: dict[str, Any] = {
            "version": RESULT_VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": relative_path(item.source, path.parent) if inside is None else f"{item.name}.png",
            "imageData": inside,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(path, whole)
        return [path]


class CutOuts(Writer):
    """`cutouts/NAME-1-CLASS.png`, one RGBA image per object: its pixels inside the box of its mask, the rest
    transparent and black. Objects are numbered best first; one without pixels has no file. Cut-outs that an
    earlier call with the same classes wrote for an image of that name are removed.
    """

    def __init__(self, out: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        super().__init__(out, class_names, category_ids)
        kinds = "|".join(re.escape(_kind(name)) for name in self.class_names)
        self._before: dict[str, list[Path]] = defaultdict(list)
        for path in (out / "cutouts").glob("*.png"):
            if found := re.fullmatch(rf"(.+)-\d+-(?:{kinds})\.png", path.name, re.DOTALL):
                self._before[found[1]].append(path)

    def write(self, item: ResultItem) -> list[Path]:
        for path in self._before.pop(item.name, ()):
            path.unlink(missing_ok=True)
        written = []
        for index, name in enumerate(item.instances.names):
            crop = item.instances.masks.crop(index).cpu().numpy()
            if not crop.any():
                continue
            x, y, *_ = item.instances.masks.rects[index].tolist()
            colours = _part(item, x, y, x + crop.shape[1], y + crop.shape[0]).permute(1, 2, 0).cpu().numpy()
            alpha = crop[:, :, None] * np.uint8(255)
            cut = Image.fromarray(np.concatenate((colours * (alpha > 0), alpha), axis=2))
            cut = cut.crop(cut.getchannel("A").getbbox())
            path = self.out / "cutouts" / f"{item.name}-{index + 1}-{_kind(name)}.png"
            written.append(write_png(path, cut))
        return written


def _part(item: ResultItem, x1: int, y1: int, x2: int, y2: int) -> Tensor:
    """Pixels of the whole image."""
    return item.image[:, y1:y2, x1:x2] if item.large is None else item.large.crop(x1, y1, x2, y2)


def _kind(name: str) -> str:
    """A class as part of a file name."""
    return shortened(re.sub(r"[^\w-]+", "_", name), LONGEST_CLASS)


class LabelMap(Writer):
    """`labelmaps/NAME.png`, 16-bit gray: 0 for background, else the number of the object, from 1, best first;
    where masks overlap, the better one.
    """

    def write(self, item: ResultItem) -> list[Path]:
        return [
            write_png(self.out / "labelmaps" / f"{item.name}.png", Image.fromarray(label_map(item.instances)))
        ]


def label_map(instances: Instances) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """uint16 [H, W]: 0 for background, else the number of the instance, from 1, the better one where masks
    overlap. An instance that better ones hide by more than half is not drawn: what is left is the rim of an
    object that they show.

    Raises:
        ConfigError: there are more than 65,535 instances.
    """
    if len(instances) > 65_535:
        raise ConfigError(
            f"a 16-bit label map holds at most 65,535 objects, {instances.source or 'the image'} has"
            f" {len(instances):,}: raise --score"
        )
    numbers = np.zeros(instances.image_size, np.uint16)
    for index, (x1, y1, x2, y2) in enumerate(instances.masks.rects.tolist()):
        mask = instances.masks.crop(index).cpu().numpy() > 0
        area = numbers[y1:y2, x1:x2]
        visible = mask & (area == 0)
        if 2 * visible.sum() >= mask.sum():
            area[visible] = index + 1
    return numbers


class Table(Writer):
    """`objects.csv`, one row per object of all images: the file, the object's number in it (from 1, best
    first), class, score, box, area and centroid of the mask in pixels, and for a video the frame (from 0).
    Bytes of a file's name that are not valid UTF-8 are written escaped.
    """

    COLUMNS = (
        "file",
        "number",
        "class",
        "score",
        "x1",
        "y1",
        "x2",
        "y2",
        "area",
        "centroid_x",
        "centroid_y",
        "frame",
    )

    def __init__(self, out: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        super().__init__(out, class_names, category_ids)
        self.rows: dict[int, list[Sequence[object]]] = {}

    def collect(
        self, number: int, source: Path | str, instances: Instances, frame: int | None = None
    ) -> None:
        columns = (
            instances.names,
            instances.scores.tolist(),
            instances.boxes.tolist(),
            instances.masks.areas().tolist(),
            _centroids(instances),
        )
        self.rows[number] = [
            (
                str(source),
                index,
                name,
                f"{score:.6f}",
                *(f"{side:.2f}" for side in box),
                area,
                *centre,
                "" if frame is None else frame,
            )
            for index, (name, score, box, area, centre) in enumerate(zip(*columns, strict=True), 1)
        ]

    def finish(self) -> list[Path]:
        path = self.out / "objects.csv"
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            lines = csv.writer(file)
            lines.writerow(self.COLUMNS)
            for number in sorted(self.rows):
                lines.writerows(self.rows[number])
        return [path]


def _centroids(instances: Instances) -> list[tuple[str, str]]:
    """The mean of the pixels' centres of every mask, x and y, as text; empty for a mask without pixels.

    Sums of whole numbers: the text does not depend on the rectangle that a mask is stored in.
    """
    centres = []
    for index in range(len(instances)):
        rows, columns = np.nonzero(instances.masks.crop(index).cpu().numpy())
        x, y, *_ = instances.masks.rects[index].tolist()
        sums = [(offset * len(at) + int(at.sum()), len(at)) for offset, at in ((x, columns), (y, rows))]
        centre_x, centre_y = (f"{total / n + 0.5:.2f}" if n else "" for total, n in sums)
        centres.append((centre_x, centre_y))
    return centres


def _outlines(instances: Instances, index: int) -> list[list[Ring]]:
    """The parts of one instance, each as its outline and then its holes; the box of a mask without pixels."""
    x1, y1, x2, y2 = instances.masks.rects[index].tolist()
    parts = trace_contours(instances.masks.crop(index).cpu().numpy(), (x1, y1))
    if not parts:
        x1, y1, x2, y2 = instances.boxes[index].tolist()
        return [[np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])]]
    return [[part.outline, *part.holes] for part in parts]


def relative_path(source: Path | str, folder: Path) -> str:
    """Path of a file relative to a folder; the whole path where there is none (another drive)."""
    # A step up (..) from a linked folder leads to where the folder is, not to where the link lies.
    parent, name = os.path.split(source)
    try:
        return Path(
            os.path.relpath(os.path.join(os.path.realpath(parent), name), os.path.realpath(folder))
        ).as_posix()
    except ValueError:
        return str(Path(source).absolute())


def _png_text(image: Tensor) -> str:
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(content, format="PNG", compress_level=3)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _write_text(path: Path, text: str) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_png(path: Path, image: Image.Image) -> Path:
    with atomic_write(path) as temporary:
        # The default level takes four times as long and saves a tenth of the bytes of a photograph.
        image.save(temporary, format="PNG", compress_level=3)
    return path
