"""LabelMe: one JSON file of shapes per image.

    data/
      train/a.jpg           or images/train/a.jpg, or a.jpg without splits
      train/a.json
      val/b.jpg
      val/b.json

A file holds the image's path, from the file's folder, and the shapes:

    {"imagePath": "a.jpg", "imageHeight": 480, "imageWidth": 640,
     "shapes": [{"label": "cat", "shape_type": "polygon", "points": [[x, y], [x, y], [x, y]],
                 "group_id": null, "flags": {}}]}

Polygons, rectangles (also rotated), quadrilaterals, circles and masks are read. Shapes with equal label and
group_id are one object. Where the image's file is missing, the image inside (`imageData`) is read.

Results that `instancefcn predict` wrote, and JSON files of other kinds, are left out.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, annotation_from_outline, gather
from instancefcn.data.formats.index_masks import annotations_of, crops_of
from instancefcn.data.formats.output import Losses, OutputFolder
from instancefcn.data.formats.split_names import (
    folders_of_splits,
    has_splits,
    looks_like_split,
    split_of,
)
from instancefcn.data.paths import ImageFinder, files_below, folders_in, images_below
from instancefcn.data.text_files import names, read_json
from instancefcn.data.unusable import Unusable, ignored_region
from instancefcn.errors import DataError, ImageError
from instancefcn.geometry.outlines import Segmentation, outline_problem, to_rle, united
from instancefcn.geometry.rle import decode_crop
from instancefcn.geometry.tracing import trace_pixel_edges
from instancefcn.images.decoding import read_image_size
from instancefcn.images.embedded import is_embedded
from instancefcn.images.opening import check_image_size, describe_error, open_image
from instancefcn.limits import MAX_CLASSES
from instancefcn.safe_text import is_name, shown

CROWD = "crowd"
"""The flag of a shape that covers many objects. LabelMe has no such flag, but allows flags of any name."""
VERSION = "5.5.0"
"""The LabelMe version that written files name."""
RESULT_VERSION = f"{VERSION}+instancefcn"
"""The version in files with results, by which they are told from annotations. LabelMe replaces it by its own
when a person saves the file."""
_OLD_RESULT = re.compile(r"score [01]\.\d{3}")
"""The description of every shape in results without this mark, as they were written at first."""
_CLOSED = ("polygon", "rotation", "quadrilateral", "oriented_rectangle", "rotated_rectangle", "rotbox")
"""Kinds of shapes that are polygons."""
_OPEN = ("line", "linestrip", "point", "points")
"""Kinds without an area."""
_BULGE = 0.02
"""Maximum distance between a circle and its polygon, in pixels."""
_KEYS = ("shapes", "imagePath", "imageData")


@dataclass(frozen=True)
class _LeftOut:
    """A JSON file that holds no annotations: what it is."""

    what: str


_RESULTS = _LeftOut(
    "files with results of `instancefcn predict` are left out: save them in LabelMe once they are right"
)
_OTHERS = _LeftOut("JSON files without LabelMe's shapes are left out")


class LabelmeFolder:
    """A folder with LabelMe's JSON files in it or below it.

    Splits are train/ and val/, in the folder or in one of its folders, such as images/. Images without a
    JSON file are not annotated and are left out. The classes are the sorted labels of all splits.
    """

    reads = (".json",)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = folders_of_splits(_above_splits(root), _holds_shapes, _holds_shapes_itself)

    @classmethod
    def at(cls, data: Path) -> LabelmeFolder | None:
        """The layout of the folder `data`, or None if it has no LabelMe file."""
        if not data.is_dir():
            return None
        # Results alone are refused by `read`, which says why.
        found = _holds_shapes(data) or any(_has(path, RESULT_VERSION) for path in _json_files(data))
        return cls(data) if found else None

    @property
    def title(self) -> str:
        """The format, with the number of images that are not annotated."""
        files = [path for folder in self.folders.values() for path in self._files(folder)]
        images = [path for folder in self.folders.values() for path in images_below(folder)]
        rest = len({p.with_suffix("") for p in images} - {p.with_suffix("") for p in files})
        left = f"; {rest} images without a JSON file are left out" if rest else ""
        return f"LabelMe ({len(files)} JSON files{left})"

    def splits(self) -> list[str]:
        """train/ and val/, or "train" alone."""
        return list(self.folders)

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest.

        An image is opened only if its JSON file does not state its size.
        """
        labels = {label: number for number, label in enumerate(self._class_names)}
        finder = ImageFinder(self.root)
        files_of: dict[str, list[Path]] = {}

        def read(path: Path) -> tuple[ImageRecord | None, list[str]]:
            content = self._contents[path]
            if not isinstance(content, dict):
                return None, [str(content)]
            image, problems = _Reader(path, finder, labels).image(content)
            if image is not None:
                files_of.setdefault(os.path.abspath(image.path), []).append(path)
            return image, problems

        files = self._files(self.folders[split])
        classes = (self._class_names, range(1, len(labels) + 1))
        dataset, problems = gather(name, classes, files, read, progress)
        notes = (*finder.notes(), *self._left_out(self.folders[split]), *_embedded(dataset))
        if not files:
            return dataset, [f"{self.root}: {note}" for note in notes]
        problems += _several_files(dataset, files_of)
        return replace(dataset, notes=notes), problems

    def _left_out(self, folder: Path) -> Iterator[str]:
        """A line about each kind of file that is left out."""
        for kind in (_RESULTS, _OTHERS):
            files = [path for path in _json_files(folder) if self._contents[path] is kind]
            if files:
                which = ", ".join(str(path.relative_to(self.root)) for path in files[:2])
                more = ", .." * (len(files) > 2)
                yield f"{len(files)} {kind.what} ({which}{more})"

    def _files(self, folder: Path) -> list[Path]:
        """The LabelMe files of a folder, and files that may be damaged ones."""
        return [path for path in _json_files(folder) if not isinstance(self._contents[path], _LeftOut)]

    @cached_property
    def _contents(self) -> dict[Path, dict[str, Any] | str | _LeftOut]:
        """The content of every file without its embedded image, or what is wrong with the file."""
        return {path: _load(path) for folder in self.folders.values() for path in _json_files(folder)}

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        shapes = (
            s for content in self._contents.values() if isinstance(content, dict) for s in content["shapes"]
        )
        labels = (_label(shape) for shape in shapes if isinstance(shape, dict))
        names = sorted({label for label in labels if isinstance(label, str) and is_name(label)})
        if len(names) > MAX_CLASSES:
            raise DataError(
                f"{self.root}: the shapes have {len(names):,} labels, at most {MAX_CLASSES:,} are allowed"
            )
        return tuple(names)


def _json_files(folder: Path) -> list[Path]:
    """The JSON files of a folder and its subfolders, see `files_below`."""
    return files_below(folder, {".json"})


def _holds_shapes(folder: Path) -> bool:
    return any(map(_is_labelme, _json_files(folder)))


def _holds_shapes_itself(folder: Path) -> bool:
    return any(map(_is_labelme, folder.glob("*.json")))


def _above_splits(root: Path) -> Path:
    """The folder whose train/ and val/ are the splits: the root, or one in it, such as images/.

    Raises:
        DataError: more data lies beside the latter, so that its split is unknown.
    """
    if has_splits(root, _holds_shapes):
        return root
    folders = folders_in(root)
    above = [folder for folder in folders if has_splits(folder, _holds_shapes)]
    if not above:
        return root
    if len(above) > 1 or _holds_shapes_itself(root) or any(map(_holds_shapes, set(folders) - set(above))):
        raise DataError(
            f"{root}: has annotated images in the splits of {above[0]} and beside them: move all of them "
            f"to {root / 'train'} and {root / 'val'}, or give the folder of one dataset"
        )
    return above[0]


def _is_labelme(path: Path) -> bool:
    """Whether a file has LabelMe's keys, and is not one of our results."""
    return any(_has(path, key) for key in _KEYS) and not _has(path, RESULT_VERSION)


def _has(path: Path, text: str) -> bool:
    """Whether the start or end of a file has a text in quotes: the image between them can be large."""
    try:
        with path.open("rb") as file:
            content = file.read(4096)
            file.seek(max(0, file.seek(0, io.SEEK_END) - 4096))
            content += file.read()
    except OSError:
        return False
    return names(content, text)


def _load(path: Path) -> dict[str, Any] | str | _LeftOut:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        return f"{path}: is not a valid JSON file ({error}): save the annotations again"
    if not isinstance(content, dict) or not content.keys() & set(_KEYS):
        return _OTHERS
    if not isinstance(content.get("shapes"), list):
        return f'{path}: is not a valid LabelMe file (no list "shapes" found): save the annotations again'
    if _is_result(content):
        return _RESULTS
    content["imageData"] = bool(content.get("imageData"))
    return content


def _is_result(content: dict[str, Any]) -> bool:
    """Whether `instancefcn predict` wrote a file, and nobody has saved it in LabelMe since."""
    version, shapes = content.get("version"), content["shapes"]
    if version != VERSION or not shapes:
        return bool(version == RESULT_VERSION)
    texts = [shape.get("description") if isinstance(shape, dict) else None for shape in shapes]
    return all(isinstance(text, str) and _OLD_RESULT.fullmatch(text) for text in texts)


def _label(shape: dict[str, Any]) -> object:
    """The label of a shape; a number counts as its text."""
    label = shape.get("label")
    return str(label) if isinstance(label, int | float) and not isinstance(label, bool) else label


def _several_files(dataset: Dataset, files_of: Mapping[str, list[Path]]) -> Iterator[Unusable]:
    """The problem of each image that several files annotate."""
    for image in {image.path: image for image in dataset.images}.values():
        files = sorted(files_of[os.path.abspath(image.path)])
        if len(files) > 1:
            what = f"{' and '.join(map(str, files))} annotate one image, {image.path}: keep one of them"
            yield Unusable(what, image=image.path, image_id=image.id)


def _embedded(dataset: Dataset) -> Iterator[str]:
    """A line about images that are read from their LabelMe files."""
    inside = [image.path for image in dataset.images if is_embedded(image.path)]
    if inside:
        which = f"{inside[0].name}{', ..' * (len(inside) > 1)}"
        what = "images are read from imageData, because their files are missing"
        yield f"{len(inside)} {what} ({which})"


class _Reader:
    """Reads the image and objects of one file and collects its problems."""

    def __init__(self, path: Path, finder: ImageFinder, labels: Mapping[str, int]) -> None:
        self.path, self.finder, self.labels = path, finder, labels
        self.problems: list[str] = []

    def image(self, content: dict[str, Any]) -> tuple[ImageRecord | None, list[str]]:
        """The image with its objects, or None if it cannot be used, and the problems."""
        path = self._find(content.get("imagePath"), bool(content["imageData"]))
        size: tuple[Any, Any] = content.get("imageHeight"), content.get("imageWidth")
        if size == (None, None) and path is not None:
            try:
                size = read_image_size(path)
            except ImageError as error:
                self.problems.append(str(error))
                return None, self.problems
        height, width = size
        if not _is_side(height) or not _is_side(width):
            self.problems.append(
                f"{self.path}: imageWidth x imageHeight is {shown(width)} x {shown(height)}: "
                "write the image's size in pixels"
            )
            return None, self.problems
        try:
            check_image_size(int(height), int(width))
        except ImageError as error:
            self.problems.append(f"{self.path}: its image {error}")
            return None, self.problems
        annotations = self._objects(content["shapes"], int(height), int(width))
        if path is None:
            return None, self.problems
        return ImageRecord(0, path, int(height), int(width), annotations), self.problems

    def _find(self, name: object, embedded: bool) -> Path | None:
        """The image's file, this file if the image is in it, or None with a problem."""
        problem: str | None = "has no imagePath: write the image's path, from the folder of this file"
        if isinstance(name, str) and name:
            # An image may lie in another folder ("../images/a.jpg") below the dataset's.
            below = name
            if not name.startswith(("/", "\\")) and not PureWindowsPath(name).drive:
                folder = self.path.parent.relative_to(self.finder.folder)
                below = (folder / name.replace("\\", "/")).as_posix()
            path, problem = self.finder.find(below, beside=self.path.parent)
            if path is not None:
                return path
            said = str(problem).replace(f"file_name {shown(below)} ", "").replace("file_name", "imagePath")
            problem = f"imagePath {shown(name)}: {said}"
        if embedded:
            return self.path
        self.problems.append(f"{self.path}: {problem}")
        return None

    def _objects(self, shapes: list[Any], height: int, width: int) -> tuple[Annotation, ...]:
        """The objects: shapes of one label and group_id are parts of one object."""
        groups: dict[object, list[tuple[int, Segmentation, bool]]] = {}
        for number, shape in enumerate(shapes):
            label = _label(shape) if isinstance(shape, dict) else None
            where = f"{self.path}: shape {number}" + (f" ({shown(label)})" if label else "")
            try:
                if not isinstance(shape, dict):
                    raise ValueError(f"is a {type(shape).__name__}, not an object")
                if label is None or label == "":
                    raise ValueError("has no label: give it one of visible characters")
                if not isinstance(label, str) or label not in self.labels:
                    raise ValueError(f"its label is {shown(label)}: give it one of visible characters")
                outline = _outline(shape, height, width)
                if problem := outline_problem(outline, height, width):
                    raise ValueError(problem)
            except ValueError as error:
                region = _region(shape, self.labels.get(str(label), 0), height, width)
                self.problems.append(Unusable(f"{where}: {error}", region=region))
                continue
            flags = shape.get("flags")
            crowd = bool(isinstance(flags, dict) and flags.get(CROWD))
            group = shape.get("group_id")
            key = ("alone", number) if group is None else (label, str(group))
            groups.setdefault(key, []).append((self.labels[label], outline, crowd))
        return tuple(
            annotation_from_outline(
                parts[0][0],
                _united([outline for _, outline, _ in parts], height, width),
                height,
                width,
                crowd,
            )
            for parts in groups.values()
            for crowd in [any(crowd for _, _, crowd in parts)]
        )


def _is_side(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 1 <= value < float("inf")
        and value == int(value)
    )


def _outline(shape: dict[str, Any], height: int, width: int) -> Segmentation:
    """The outline of one shape. Raises ValueError saying what is wrong."""
    kind = shape.get("shape_type") or "polygon"
    points = shape.get("points")
    if not isinstance(points, list) or not all(map(_is_point, points)):
        raise ValueError("points must be a list of finite [x, y]: draw it again")
    if kind in _CLOSED:
        return [[float(v) for point in points for v in point]]
    if kind in _OPEN:
        raise ValueError(f"is a {shown(kind)}, which has no area: draw a polygon, or remove it")
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"is a {shown(kind)}, a kind that is not read: draw a polygon, or remove it")
    if kind == "rectangle" and len(points) == 4:  # perhaps rotated
        return [[float(v) for point in points for v in point]]
    if len(points) != 2:
        raise ValueError(f"has {len(points)} points, but a {kind} needs 2: draw it again")
    if kind == "mask":
        return _mask(shape.get("mask"), points[0], height, width)
    if kind == "circle":
        (x, y), (px, py) = points
        radius = math.hypot(px - x, py - y)
        corners = max(16, math.ceil(math.pi / math.acos(1 - _BULGE / radius))) if radius > _BULGE else 16
        turns = [2 * math.pi * i / corners for i in range(corners)]
        return [[v for t in turns for v in (x + radius * math.cos(t), y + radius * math.sin(t))]]
    xs, ys = [float(p[0]) for p in points], [float(p[1]) for p in points]
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def _is_point(value: object) -> bool:
    """Whether a value is a list of two finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in value)
    )


def _region(shape: object, label: int, height: int, width: int) -> Annotation | None:
    """The region to ignore instead of a shape that cannot be read: the box of its points."""
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(points, list) or not points or not all(map(_is_point, points)):
        return None
    xs, ys = ([float(point[axis]) for point in points] for axis in (0, 1))
    return ignored_region(0, label, (min(xs), min(ys), max(xs), max(ys)), height, width)


def _mask(text: object, corner: list[float], height: int, width: int) -> Segmentation:
    """The RLE of a mask: a PNG in base64 whose top left corner lies at `corner` (x, y)."""
    if not isinstance(text, str):
        raise ValueError("is a mask without pixels: draw it again")
    try:
        with open_image(base64.b64decode(text), ("PNG",)) as image:
            values = np.array(image)
    except Exception as error:
        raise ValueError(f"its mask {describe_error(error)}: draw it again") from error
    x, y = int(corner[0]), int(corner[1])
    if values.ndim != 2 or not (0 <= x < width and 0 <= y < height):
        raise ValueError("its mask is not a gray image that starts inside the image: draw it again")
    if y + values.shape[0] > height or x + values.shape[1] > width:
        raise ValueError(f"its mask reaches outside the {width} x {height} image: draw it again")
    found = crops_of((values != 0).astype(np.uint8)).get(1)
    if found is None:
        raise ValueError("its mask has no pixel: draw it again or remove it")
    crop, (left, top) = found
    return annotations_of([(crop, (x + left, y + top))], [0], (height, width))[0].segmentation


def _united(outlines: list[Segmentation], height: int, width: int) -> Segmentation:
    """One outline of an object's parts: all polygons, or one RLE of the union."""
    if len(outlines) == 1:
        return outlines[0]
    polygons = [polygon for outline in outlines if isinstance(outline, list) for polygon in outline]
    if len(polygons) == len(outlines):
        return polygons
    return united([to_rle(outline, height, width) for outline in outlines], height, width)


def write_labelme(splits: Mapping[str, Dataset], output: OutputFolder) -> None:
    """Write one folder per split, with a JSON file beside each image.

    The parts of an object share a group_id, and crowds have the flag "crowd". RLEs with holes become shapes
    of the type "mask", other RLEs become polygons along the edges of their pixels.

    Raises:
        DataError: no split is train, val or test, and several would be read back as one, or one not at all.
    """
    if not any(map(split_of, splits)):
        if len(splits) > 1 or looks_like_split(next(iter(splits))):
            raise DataError(
                f"the splits {', '.join(splits)} would not be read back, because LabelMe's splits are the "
                "folders train/, val/ and test/: rename them, or name them in a YAML file (train: {..}, "
                "val: {..}) and convert that"
            )
        output.losses.note("a single split of another name is read back as train", of="splits")
    class_names = next(iter(splits.values())).class_names
    used: set[int] = set()
    for split, dataset in splits.items():
        for name, image in zip(output.names[split], dataset.images, strict=True):
            path = output.add_image(image, name, split)
            shapes: list[dict[str, Any]] = []
            for group, annotation in enumerate(image.annotations, start=1):
                found = _shapes(annotation, class_names[annotation.label], group, image, output.losses)
                used |= {annotation.label} if found else set()
                shapes += found
            content: dict[str, Any] = {
                "version": VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": path.name,
                "imageData": None,
                "imageHeight": image.height,
                "imageWidth": image.width,
            }
            output.write(Path(split, f"{name}.json"), json.dumps(content, indent=2, allow_nan=False))
    output.losses.note("classes without an object are left out", len(class_names) - len(used), "classes")
    same = len(class_names) - len(set(class_names))
    output.losses.note("classes of equal name are merged", same, "classes")
    kept = [class_names[label] for label in sorted(used)]
    moved = sum(a != b for a, b in zip(kept, sorted(kept), strict=True))
    output.losses.note("classes are sorted by name", moved, "classes")


def _shapes(
    a: Annotation, label: str, group: int, image: ImageRecord, losses: Losses
) -> list[dict[str, Any]]:
    """The shapes of one object; several of them share the group_id `group`."""
    rings = a.segmentation
    extra: dict[str, Any] = {}
    kind = "polygon"
    if isinstance(rings, dict):
        crop, (x, y) = decode_crop(rings["counts"], image.height)
        rings, holes = trace_pixel_edges(crop.numpy(), (x, y))
        if not rings:
            losses.note("outlines without a pixel are left out")
        elif holes:
            kind, extra = "mask", {"mask": _encode_mask(crop.numpy())}
            rings = [[x, y, x + crop.shape[1] - 1, y + crop.shape[0] - 1]]  # up to the last pixel
        else:
            losses.note("RLE masks become polygons around the same pixels")
    return [
        {
            "label": label,
            "points": [list(point) for point in zip(ring[0::2], ring[1::2], strict=True)],
            "group_id": group if len(rings) > 1 else None,
            "description": "",
            "shape_type": kind,
            "flags": {CROWD: True} if a.crowd else {},
            **extra,
        }
        for ring in rings
    ]


def _encode_mask(crop: NDArray[np.uint8]) -> str:
    """The pixels of a shape of the type "mask", [h, w], as a PNG in base64."""
    stream = io.BytesIO()
    Image.fromarray(crop.astype(np.uint8)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
