"""YOLO segmentation: a data.yaml, and one text file of outlines per image.

    data/
      data.yaml
      images/train/a.jpg    or train/images/a.jpg
      labels/train/a.txt    or train/labels/a.txt; no file means no objects

data.yaml names the splits and the classes:

    path: .                 # folder that the splits start in; by default that of data.yaml
    train: images/train     # a folder, a .txt list of images below the list's folder, or a list of these
    val: images/val
    names: [cat, dog]       # or {0: cat, 1: dog}; or `nc: 2` alone

Without a data.yaml, classes.txt names the classes, one per line, and the splits are the folders that hold
images. Of paths of another machine, in data.yaml and in lists, the end is found below the file's folder.

A line of a label file is `class x1 y1 x2 y2 ..`, with coordinates as shares of the image's sides.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, annotation_from_outline, gather, read_lines
from instancefcn.data.formats.output import OutputFolder
from instancefcn.data.formats.split_names import folders_of_splits, name_splits, sort_splits, split_of
from instancefcn.data.paths import ImageFinder, existing_end, images_below, images_in, is_there
from instancefcn.data.text_files import read_text, read_yaml
from instancefcn.errors import DataError, ImageError
from instancefcn.geometry.outlines import outline_problem
from instancefcn.geometry.tracing import one_outline
from instancefcn.images.decoding import read_image_size
from instancefcn.limits import MAX_CLASSES
from instancefcn.safe_text import is_name, shown

CLASS_LIST = "classes.txt"
"""The file that names the classes, one per line, where there is no YAML file."""
EDGE = 0.01
"""How far outside the image a point may lie, as a share of the side: tools round. It is moved to the edge."""
_NO_SPLITS = frozenset(
    {"path", "names", "nc", "channels", "download", "yaml_file"}
    | {"author", "date", "description", "docs", "license", "task", "version"}
)
"""Keys that never name images, even if their value is the name of an existing file or folder."""


class YoloFolder:
    """The dataset that a data.yaml describes, or a folder with classes.txt.

    Args:
        file: the YAML file, or classes.txt.
        content: what the YAML file holds, or would hold.
    """

    reads = (".txt", ".yaml", ".yml")

    def __init__(self, file: Path, content: Mapping[str, Any]) -> None:
        self.file, self.content = file, content
        self.title = f"YOLO segmentation ({file.name})"
        keys = [key for key, value in content.items() if self._is_split(key, value)]
        names = name_splits(keys, sole=False)
        self.entries: dict[str, Any] = {names[key]: content[key] for key in keys}

    @classmethod
    def at(cls, data: Path) -> YoloFolder | None:
        """The layout of the YAML file `data`, or of one in the folder `data`; None if there is none.

        Raises:
            DataError: it names no splits, and the folders leave them uncertain (see `folders_of_splits`).
        """
        for file in [data] if data.is_file() else sorted(data.iterdir()):
            if file.suffix.lower() not in (".yaml", ".yml"):
                continue
            try:
                content = read_yaml(file)
            except (OSError, ValueError):
                continue
            if isinstance(content, dict) and (content.keys() & {"names", "nc"}):
                found = cls(file, content)
                return found if found.entries else cls(file, {**content, **_splits_by_folder(file.parent)})
        return None

    @classmethod
    def at_class_list(cls, data: Path) -> YoloFolder | None:
        """The layout of a folder with classes.txt, in itself or in labels/, and label files; None without.

        Raises:
            DataError: the folders leave the splits uncertain (see `folders_of_splits`).
        """
        for file in (data / CLASS_LIST, data / "labels" / CLASS_LIST):
            if file.is_file() and (splits := _splits_by_folder(data)):
                return cls(file, {**splits, "names": _class_list(file)})
        return None

    def splits(self) -> list[str]:
        """The keys that name images; "valid" is "val"."""
        return sort_splits(list(self.entries))

    def _is_split(self, key: object, value: object) -> bool:
        """Whether a key of the YAML file names images."""
        if not isinstance(key, str) or key in _NO_SPLITS or value is None:
            return False
        if key in ("train", "val", "test"):
            return True
        if split_of(key):
            return isinstance(value, str | list)
        return isinstance(value, str) and is_there(self._path(value))

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest. Only image headers are read.

        Raises:
            DataError: the YAML file is wrong, or a folder or list that it names does not exist.
        """
        classes = self._classes()
        entry = self.entries[split]
        entries = entry if isinstance(entry, list) else [entry]
        if not entries or not all(isinstance(e, str) for e in entries):
            raise DataError(f"{self.file}: {split} must be a folder of images or a .txt list of images")
        labels = {number: label for label, number in enumerate(classes)}
        images: list[Path] = []
        problems: list[str] = []
        notes: list[str] = []
        for written, path in ((e, self._path(e)) for e in entries):
            if path != self._as_written(written):
                there = self._as_written(written)
                notes.append(f"{self.file}: {split}: {there} does not exist: {path} is read instead")
            found, wrong, moved = _images_at(path, self.file, split)
            images += found
            problems += wrong
            notes += moved
        if images and not any(_labels_of(path).is_file() for path in images):
            problems.append(
                f"{label_file(images[0])}: label file not found, and no other image of {split} has one: "
                "put the labels there"
            )

        def read(path: Path) -> tuple[ImageRecord | None, list[str]]:
            return _read_image(path, labels)

        names = (list(classes.values()), list(classes))
        dataset, wrong = gather(name, names, images, read, progress)
        return replace(dataset, notes=tuple(notes)), problems + wrong

    def _as_written(self, entry: str) -> Path:
        """A folder or list. Some exports write ../train/images for a train/ beside the file."""
        root = self.file.parent / str(self.content.get("path") or ".")
        path = root / entry
        if not is_there(path) and entry.startswith("../") and is_there(root / entry[3:]):
            return root / entry[3:]
        return path

    def _path(self, entry: str) -> Path:
        """A folder or list, where it is written or, for a path of another machine, beside the YAML file."""
        path = self._as_written(entry)
        if is_there(path):
            return path
        whole = f"{self.content.get('path') or '.'}/{entry}"
        return existing_end(whole, self.file.parent) or path

    def _classes(self) -> dict[int, str]:
        """Names by class number, in ascending order."""
        names, count = self.content.get("names"), self.content.get("nc")
        if isinstance(count, str) and count.strip().isdecimal():
            count = int(count)
        if names is None and isinstance(count, int) and 0 < count <= MAX_CLASSES:
            names = [f"class_{i}" for i in range(count)]
        if isinstance(names, str):
            names = self._names_of_text(names)
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict):  # {"0": cat}
            names = {_number(key): name for key, name in names.items()}
        if not isinstance(names, dict) or not names or len(names) > MAX_CLASSES:
            raise DataError(
                f"{self.file}: names must be a list of classes or {{0: NAME, 1: NAME, ..}}, with at most "
                f"{MAX_CLASSES:,} classes"
            )
        problems = []
        for number, name in names.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                problems.append(
                    f"{self.file}: names: {shown(number)} is not a valid class number: write 0, 1, .."
                )
            if isinstance(name, bool) or not (isinstance(name, int) or is_name(name)):
                problems.append(
                    f"{self.file}: names: class {shown(number)} is {shown(name)}: write a name in quotes"
                )
        if isinstance(count, int) and count != len(names):
            problems.append(
                f"{self.file}: nc is {shown(count)}, but there are {len(names)} names: correct one of them"
            )
        if problems:
            raise DataError(problems)
        return {number: str(names[number]) for number in sorted(names)}

    def _names_of_text(self, text: str) -> list[str]:
        """The names in a text: "[cat, dog]", "cat, dog", a line each, or the path of a file of lines."""
        path = existing_end(text.strip(), self.file.parent)
        if path is not None and path.is_file():
            return _class_list(path)
        return [name.strip().strip("'\"") for name in re.split(r"[,\n]", text.strip().strip("[]"))]


def _number(key: object) -> object:
    """A class number that is written as text."""
    return int(key) if isinstance(key, str) and key.strip().isdecimal() else key


def _class_list(file: Path) -> list[str]:
    """The class names in a file with one per line. A blank line is a class without a name."""
    try:
        return [line.strip() for line in read_text(file).rstrip().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}): write one class name per line") from error


def _splits_by_folder(data: Path) -> dict[str, str]:
    """The folder of images of each split where no file names them; none without label files.

    Raises:
        DataError: see `folders_of_splits`.
    """
    if not any(_labels_of(image).is_file() for image in images_below(data)):
        return {}
    root = data / "images" if (data / "images").is_dir() else data
    folders = folders_of_splits(
        root, lambda folder: bool(images_below(folder)), lambda folder: bool(images_in(folder))
    )
    return {split: str(folder.absolute()) for split, folder in folders.items()}


def label_file(image: Path) -> Path:
    """The label file of an image: the last folder "images" of its path becomes "labels"."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def _labels_of(image: Path) -> Path:
    """The label file of an image. That of a link may lie beside the folder that the link leads to."""
    file = label_file(image)
    linked = label_file(Path(os.path.realpath(image)))
    return linked if not file.is_file() and linked.is_file() else file


def _images_at(path: Path, file: Path, split: str) -> tuple[list[Path], list[str], tuple[str, ...]]:
    """The images of a folder, or of a list whose lines are paths below the list's folder; problems; notes."""
    if not is_there(path):
        raise DataError(f"{file}: {split}: folder or list {shown(str(path))} not found: correct the path")
    if path.is_dir():
        images = images_below(path)
        known = {label_file(image) for image in images}
        orphans = sorted(p for folder in {k.parent for k in known} for p in folder.glob("*.txt"))
        problems = [
            f"{p}: no image found for these labels in {path}: add the image or remove the labels"
            for p in orphans
            if p not in known
            and p.parent != path
            and p.name != CLASS_LIST
            and not p.name.startswith(".")  # macOS puts "._a.txt" into archives
        ]
        nothing = [f"{path}: no image found: add images or correct {split}"]
        return images, problems if images else nothing, ()
    if path.suffix != ".txt" or not path.is_file():
        raise DataError(f"{file}: {split}: {path} is neither a folder nor a .txt list: correct the path")
    finder = ImageFinder(path.parent)
    images, problems = [], []
    for number, line in enumerate(read_lines(path), start=1):
        image, problem = finder.find(line)
        if image is None:
            problems.append(f"{path}: line {number}: {line}: {problem}")
        else:
            images.append(image)
    return images, problems, finder.notes()


def _read_image(path: Path, labels: Mapping[int, int]) -> tuple[ImageRecord | None, list[str]]:
    """One image and its outlines; without a label file it has no objects."""
    try:
        height, width = read_image_size(path)
    except ImageError as error:
        return None, [str(error)]
    file = _labels_of(path)
    annotations: list[Annotation] = []
    problems: list[str] = []
    try:
        lines = read_text(file).splitlines() if file.is_file() else []
    except (OSError, ValueError) as error:
        return None, [f"{file}: cannot be read ({error}): write the file again"]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                annotations.append(_annotation(line.split(), labels, height, width))
            except ValueError as error:
                problems.append(f"{file}: line {number}: {error}")
    return ImageRecord(0, path, height, width, tuple(annotations)), problems


def _annotation(words: list[str], labels: Mapping[int, int], height: int, width: int) -> Annotation:
    """The annotation of one line. Raises ValueError saying what is wrong."""
    try:
        kind, *shares = map(float, words)
    except ValueError:
        raise ValueError("has a value that is not a number: write CLASS X Y X Y ..") from None
    if kind not in labels:
        known = ", ".join(map(str, list(labels)[:20])) + (", .." if len(labels) > 20 else "")
        raise ValueError(f"class {words[0][:80]} is unknown: use one of {known}, or add a name")
    if len(shares) == 4:
        raise ValueError("is a box (five numbers): draw an outline (boxes alone cannot train masks)")
    if len(shares) % 2 or len(shares) < 6:
        raise ValueError(f"has {len(shares)} numbers after the class: write at least 3 pairs of x and y")
    if not all(map(math.isfinite, shares)):
        raise ValueError("has a coordinate that is not a finite number: draw the outline again")
    if min(shares) < -EDGE or max(shares) > 1 + EDGE:
        raise ValueError(
            f"has coordinates from {min(shares):g} to {max(shares):g}: "
            "write them as shares of the image's sides, from 0 to 1"
        )
    # Rounding to a millionth of a pixel removes the error of dividing and multiplying by the side.
    sides = (width, height)
    polygon = [round(min(max(v, 0.0), 1.0) * sides[i & 1], 6) for i, v in enumerate(shares)]
    if problem := outline_problem([polygon], height, width):
        raise ValueError(problem)
    return annotation_from_outline(labels[int(kind)], [polygon], height, width)


def write_yolo(splits: Mapping[str, Dataset], output: OutputFolder) -> None:
    """Write data.yaml, images/SPLIT/ and labels/SPLIT/.

    Crowds are left out. The parts and holes of an object are joined to one outline with the same pixels.

    Raises:
        DataError: a split is named like a key of data.yaml with another meaning.
    """
    if unfit := sorted(splits.keys() & _NO_SPLITS):
        raise DataError(f"the key {unfit[0]!r} has another meaning in YOLO's data.yaml: rename the split")
    class_names = next(iter(splits.values())).class_names
    for split, dataset in splits.items():
        for name, image in zip(output.names[split], dataset.images, strict=True):
            output.add_image(image, name, f"images/{split}")
            lines = [_line(a, image, output) for a in image.annotations]
            text = "".join(f"{line}\n" for line in lines if line)
            output.write(Path("labels", split, f"{name}.txt"), text)
    content = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(class_names))}
    output.write(Path("data.yaml"), yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _line(annotation: Annotation, image: ImageRecord, output: OutputFolder) -> str | None:
    """An annotation's line, or None if YOLO cannot hold it."""
    note = output.losses.note
    if annotation.crowd:
        note("crowd regions are left out")
        return None
    try:
        outline = one_outline(annotation.segmentation, image.height, image.width)
    except DataError as error:
        raise DataError(f"{image.path}: annotation {annotation.id} {error}") from error
    if outline is None:
        note("outlines without a pixel are left out")
        return None
    note("parts are joined by lines of zero width", outline.parts > 1)
    note("holes are joined to the outline by lines of zero width", outline.holes > 0)
    if isinstance(annotation.segmentation, dict):
        note("RLE masks become outlines around the same pixels")
    else:
        note("outlines are redrawn around the same pixels", outline.redrawn)
    sides = (image.width, image.height)
    shares = (f"{v / sides[i & 1]:.12g}" for i, v in enumerate(outline.ring))
    return " ".join((str(annotation.label), *shares))
