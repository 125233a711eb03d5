"""LabelMe: a JSON file of shapes beside each picture."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, folders_of_splits, gather, has_splits, outlined
from instancefcn.data.formats.index_masks import annotations_of, crops_of
from instancefcn.data.formats.output import Losses, OutputFolder
from instancefcn.data.paths import ImageFinder, folders_in, images_below, is_hidden
from instancefcn.data.text_files import read_json
from instancefcn.errors import DataError, ImageError
from instancefcn.geometry.outlines import Segmentation, outline_problem, to_rle, united
from instancefcn.geometry.rle import decode_crop
from instancefcn.geometry.tracing import trace_pixel_edges
from instancefcn.images.decoding import read_image_size
from instancefcn.images.opening import check_image_size, describe_error, open_image
from instancefcn.limits import MAX_CLASSES
from instancefcn.safe_text import is_name, shown

CROWD = "crowd"
"""The flag of a shape that covers many objects: LabelMe has none of its own, but flags may have any name."""
_BULGE = 0.02
"""Pixels by which a circle's polygon may lie inside the circle."""
_KEYS = (b'"shapes"', b'"imagePath"', b'"imageData"')


class LabelmeFolder:
    """A folder with LabelMe's JSON files, in it or below it; splits are train/ and val/, in it or in a folder
    of it such as images/. Pictures without a file are left out: nobody has annotated them. The classes are
    the labels of all splits, sorted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = folders_of_splits(_above_splits(root), _holds_shapes, _holds_shapes_itself)

    @classmethod
    def at(cls, data: Path) -> LabelmeFolder | None:
        """The folder at `data`; None when no file of LabelMe is there."""
        return cls(data) if data.is_dir() and _holds_shapes(data) else None

    @property
    def title(self) -> str:
        """With the number of pictures that nobody has annotated."""
        files = [path for folder in self.folders.values() for path in _json_files(folder)]
        images = [path for folder in self.folders.values() for path in images_below(folder)]
        rest = len({p.with_suffix("") for p in images} - {p.with_suffix("") for p in files})
        left = f"; {rest} pictures without a file are left out" if rest else ""
        return f"LabelMe ({len(files)} JSON files{left})"

    def splits(self) -> list[str]:
        """train/ and val/, or "train" alone."""
        return list(self.folders)

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest. No picture is opened, but for its size
        where the file does not say it.
        """
        labels = {label: number for number, label in enumerate(self._class_names)}
        finder = ImageFinder(self.root)

        def read(path: Path) -> tuple[ImageRecord | None, list[str]]:
            content = self._contents[path]
            if isinstance(content, str):
                return None, [content]
            return _Reader(path, finder, labels).image(content)

        files = list(_json_files(self.folders[split]))
        return gather(name, (self._class_names, range(1, len(labels) + 1)), files, read, progress)

    @cached_property
    def _contents(self) -> dict[Path, dict[str, Any] | str]:
        """What the files of all splits hold, without the pictures in them, or what is wrong."""
        return {path: _load(path) for folder in self.folders.values() for path in _json_files(folder)}

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        shapes = (
            s for content in self._contents.values() if isinstance(content, dict) for s in content["shapes"]
        )
        labels = (shape.get("label") for shape in shapes if isinstance(shape, dict))
        names = sorted({label for label in labels if isinstance(label, str) and is_name(label)})
        if len(names) > MAX_CLASSES:
            raise DataError(
                f"{self.root}: the shapes have {len(names):,} labels, {MAX_CLASSES:,} are the most"
            )
        return tuple(names)


def _json_files(folder: Path) -> Iterator[Path]:
    """The JSON files of a folder and its subfolders, sorted; hidden places left out."""
    for path in sorted(folder.rglob("*.json")):
        if not is_hidden(path, folder):
            yield path


def _holds_shapes(folder: Path) -> bool:
    return any(map(_is_labelme, _json_files(folder)))


def _holds_shapes_itself(folder: Path) -> bool:
    return any(map(_is_labelme, folder.glob("*.json")))


def _above_splits(root: Path) -> Path:
    """The folder whose train/ and val/ are the splits: the root, or one in it, such as images/.

    Raises:
        DataError: more data lies beside the latter, of which nothing says to which split it belongs.
    """
    if has_splits(root, _holds_shapes):
        return root
    places = folders_in(root)
    above = [place for place in places if has_splits(place, _holds_shapes)]
    if not above:
        return root
    if len(above) > 1 or _holds_shapes_itself(root) or any(map(_holds_shapes, set(places) - set(above))):
        raise DataError(
            f"{root}: holds annotated pictures in and beside the splits of {above[0]}: put all of them into "
            f"{root / 'train'} and {root / 'val'}, or give the folder of one dataset"
        )
    return above[0]


def _is_labelme(path: Path) -> bool:
    """By the beginning and the end of the file: the picture in the middle can be large."""
    try:
        with path.open("rb") as file:
            text = file.read(4096)
            file.seek(max(0, file.seek(0, io.SEEK_END) - 4096))
            text += file.read()
    except OSError:
        return False
    return any(key in text for key in _KEYS)


def _load(path: Path) -> dict[str, Any] | str:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        return f"{path}: is no JSON file ({error}): save the annotations again"
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return f'{path}: has no list "shapes": it is no file of LabelMe. Move it elsewhere'
    content.pop("imageData", None)
    return content


class _Reader:
    """Makes a picture of one file, and notes what is wrong."""

    def __init__(self, path: Path, finder: ImageFinder, labels: Mapping[str, int]) -> None:
        self.path, self.finder, self.labels = path, finder, labels
        self.problems: list[str] = []

    def image(self, content: dict[str, Any]) -> tuple[ImageRecord | None, list[str]]:
        """The picture with its objects, or None, and everything that is wrong."""
        path = self._find(content.get("imagePath"))
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
                "write the picture's size in pixels"
            )
            return None, self.problems
        try:
            check_image_size(int(height), int(width))
        except ImageError as error:
            self.problems.append(f"{self.path}: the picture {error}")
            return None, self.problems
        annotations = self._objects(content["shapes"], int(height), int(width))
        if path is None:
            return None, self.problems
        return ImageRecord(0, path, int(height), int(width), annotations), self.problems

    def _find(self, name: object) -> Path | None:
        if not isinstance(name, str) or not name:
            self.problems.append(f"{self.path}: has no imagePath: write the picture's path from this folder")
            return None
        # Files may lie apart from their pictures ("../images/a.jpg"), all below the dataset's folder.
        below = name
        if not name.startswith(("/", "\\")) and not PureWindowsPath(name).drive:
            below = (self.path.parent.relative_to(self.finder.folder) / name.replace("\\", "/")).as_posix()
        path, problem = self.finder.find(below)
        if problem:
            self.problems.append(f"{self.path}: imagePath {shown(name)}: {problem}")
        return path

    def _objects(self, shapes: list[Any], height: int, width: int) -> tuple[Annotation, ...]:
        """Shapes of one label and group_id are parts of one object."""
        groups: dict[object, list[tuple[int, Segmentation, bool]]] = {}
        for number, shape in enumerate(shapes):
            label = shape.get("label") if isinstance(shape, dict) else None
            where = f"{self.path}: shape {number}" + (f" ({shown(label)})" if label else "")
            try:
                if not isinstance(shape, dict):
                    raise ValueError(f"is a {type(shape).__name__}, not an object")
                if not isinstance(label, str) or label not in self.labels:
                    raise ValueError("has no label: give it one, of visible characters")
                outline = _outline(shape, height, width)
                if problem := outline_problem(outline, height, width):
                    raise ValueError(problem)
            except ValueError as error:
                self.problems.append(f"{where}: {error}")
                continue
            flags = shape.get("flags")
            crowd = bool(isinstance(flags, dict) and flags.get(CROWD))
            group = shape.get("group_id")
            key = ("alone", number) if group is None else (label, str(group))
            groups.setdefault(key, []).append((self.labels[label], outline, crowd))
        return tuple(
            outlined(
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
    """Raises ValueError with what is wrong."""
    kind = shape.get("shape_type") or "polygon"
    points = shape.get("points")
    if not isinstance(points, list) or not all(
        isinstance(p, list)
        and len(p) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in p)
        for p in points
    ):
        raise ValueError("points are not a list of finite [x, y]: draw it again")
    if kind == "polygon":
        return [[float(v) for point in points for v in point]]
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"is a {shown(kind)}, which has no area: draw a polygon, or remove it")
    if len(points) < 2 or (len(points) > 2 and kind != "rectangle"):
        raise ValueError(f"has {len(points)} points, a {kind} has 2: draw it again")
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


def _mask(text: object, corner: list[float], height: int, width: int) -> Segmentation:
    """The RLE of a shape that comes as a PNG, in base64, of the rectangle from `corner` on."""
    if not isinstance(text, str):
        raise ValueError("is a mask without the pixels: draw it again")
    try:
        with open_image(base64.b64decode(text), ("PNG",)) as image:
            values = np.array(image)
    except Exception as error:
        raise ValueError(f"its mask {describe_error(error)}: draw it again") from error
    x, y = int(corner[0]), int(corner[1])
    if values.ndim != 2 or not (0 <= x < width and 0 <= y < height):
        raise ValueError("its mask is no gray picture inside the picture: draw it again")
    if y + values.shape[0] > height or x + values.shape[1] > width:
        raise ValueError(f"its mask leaves the {width} x {height} picture: draw it again")
    found = crops_of((values != 0).astype(np.uint8)).get(1)
    if found is None:
        raise ValueError("its mask has no pixel: remove it or draw it again")
    crop, (left, top) = found
    return annotations_of([(crop, (x + left, y + top))], [0], (height, width))[0].segmentation


def _united(outlines: list[Segmentation], height: int, width: int) -> Segmentation:
    """One outline of an object's parts: polygons together, or the RLE of all of them."""
    if len(outlines) == 1:
        return outlines[0]
    polygons = [polygon for outline in outlines if isinstance(outline, list) for polygon in outline]
    if len(polygons) == len(outlines):
        return polygons
    return united([to_rle(outline, height, width) for outline in outlines], height, width)


def encode_mask(crop: NDArray[np.uint8]) -> str:
    """The pixels of a shape of the kind "mask", [h, w], as LabelMe writes them."""
    stream = io.BytesIO()
    Image.fromarray(crop.astype(np.uint8)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


VERSION = "5.5.0"
"""The version of LabelMe whose files these are like."""


def write_labelme(splits: Mapping[str, Dataset], target: OutputFolder) -> None:
    """Write a folder for every split, with a JSON file beside each picture.

    Parts of an object share a group_id, crowds bear the flag "crowd"; masks with holes become shapes of the
    kind "mask", other masks polygons along the edges of their pixels.

    Raises:
        DataError: several splits, none of which is train or val: they would be read back as one.
    """
    if not splits.keys() & {"train", "val"}:
        if len(splits) > 1:
            raise DataError(
                f"LabelMe knows splits by the folders train/ and val/; these are {', '.join(splits)}, and "
                "would be read as one: name them in a YAML file (train: {..}, val: {..}) and convert that, "
                "or rename them"
            )
        target.losses.note("names of splits: one that is not val is read as train", of="splits")
    class_names = next(iter(splits.values())).class_names
    used: set[int] = set()
    for split, dataset in splits.items():
        for name, image in zip(target.names[split], dataset.images, strict=True):
            path = target.place(image, name, split)
            shapes: list[dict[str, Any]] = []
            for group, annotation in enumerate(image.annotations, start=1):
                found = _shapes(annotation, class_names[annotation.label], group, image, target.losses)
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
            target.write(Path(split, f"{name}.json"), json.dumps(content, indent=2, allow_nan=False))
    target.losses.note("classes without an object were left out", len(class_names) - len(used), "classes")
    same = len(class_names) - len(set(class_names))
    target.losses.note("classes that share a name became one", same, "classes")
    kept = [class_names[label] for label in sorted(used)]
    moved = sum(a != b for a, b in zip(kept, sorted(kept), strict=True))
    target.losses.note("order of the classes: it follows their names", moved, "classes")


def _shapes(
    a: Annotation, label: str, group: int, image: ImageRecord, losses: Losses
) -> list[dict[str, Any]]:
    """The shapes of one object, its parts in `group`."""
    rings = a.segmentation
    extra: dict[str, Any] = {}
    kind = "polygon"
    if isinstance(rings, dict):
        crop, (x, y) = decode_crop(rings["counts"], image.height)
        rings, holes = trace_pixel_edges(crop.numpy(), (x, y))
        if not rings:
            losses.note("outlines without a pixel were left out")
        elif holes:
            kind, extra = "mask", {"mask": encode_mask(crop.numpy())}
            rings = [[x, y, x + crop.shape[1] - 1, y + crop.shape[0] - 1]]  # its last pixel
        else:
            losses.note("run-length masks became polygons along the edges of the same pixels")
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
