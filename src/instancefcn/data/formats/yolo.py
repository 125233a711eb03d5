"""YOLO segmentation: data.yaml, pictures, and a text file of outlines for each picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, gather, in_order, outlined, read_lines
from instancefcn.data.formats.output import OutputFolder
from instancefcn.data.paths import ImageFinder, images_below, is_there
from instancefcn.data.text_files import read_text, read_yaml
from instancefcn.errors import DataError, ImageError
from instancefcn.geometry.outlines import outline_problem
from instancefcn.geometry.tracing import one_outline
from instancefcn.images.decoding import read_image_size
from instancefcn.limits import MAX_CLASSES
from instancefcn.safe_text import is_name, shown

EDGE = 0.01
"""How far (in shares of the side) a point may leave the picture: tools round. It is put on the edge."""
_NO_SPLITS = frozenset(
    {"path", "names", "nc", "channels", "download", "yaml_file"}
    | {"author", "date", "description", "docs", "license", "task", "version"}
)
"""Keys that never name pictures, though what they say may be the name of a file or folder that is there."""


class YoloFolder:
    """What a data.yaml names: `path` (the folder that the others start from; by default that of the YAML
    file), `train`, `val` and others (folders of pictures, or .txt lists of them, or lists of either), and
    `names` (a list or {number: name}), or `nc` alone.

    Args:
        file: the YAML file.
        content: what it holds.
    """

    title = "YOLO segmentation"

    def __init__(self, file: Path, content: Mapping[str, Any]) -> None:
        self.file, self.content = file, content
        self.title = f"YOLO segmentation ({file.name})"

    @classmethod
    def at(cls, data: Path) -> YoloFolder | None:
        """The YAML file `data`, or the one in the folder `data`; None when there is none of this kind."""
        for file in [data] if data.is_file() else sorted(data.iterdir()):
            if file.suffix.lower() not in (".yaml", ".yml"):
                continue
            try:
                content = read_yaml(file)
            except (OSError, ValueError):
                continue
            if isinstance(content, dict) and (content.keys() & {"names", "nc"}):
                return cls(file, content)
        return None

    def splits(self) -> list[str]:
        """The keys that name pictures."""
        usual = [key for key in ("train", "val", "test") if self.content.get(key) is not None]
        others = [
            key
            for key, value in self.content.items()
            if isinstance(key, str)
            and isinstance(value, str)
            and key not in _NO_SPLITS
            and is_there(self._place(value))
        ]
        return in_order([*usual, *others])

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest. Of the pictures only the heads are
        read.

        Raises:
            DataError: the YAML file is wrong, or its places are not there.
        """
        classes = self._classes()
        entry = self.content[split]
        entries = entry if isinstance(entry, list) else [entry]
        if not entries or not all(isinstance(e, str) for e in entries):
            raise DataError(f"{self.file}: {split} must be a folder of pictures or a .txt list of them")
        labels = {number: label for label, number in enumerate(classes)}
        images: list[Path] = []
        problems: list[str] = []
        for place in (self._place(e) for e in entries):
            found, wrong = _images_at(place, self.file, split)
            images += found
            problems += wrong
        if images and not any(label_file(path).is_file() for path in images):
            problems.append(
                f"{label_file(images[0])}: there is no such file, nor one for any other picture of "
                f"{split}: put the labels there"
            )

        def read(path: Path) -> tuple[ImageRecord | None, list[str]]:
            return _read_image(path, labels)

        names = (list(classes.values()), list(classes))
        dataset, wrong = gather(name, names, images, read, progress)
        return dataset, problems + wrong

    def _place(self, entry: str) -> Path:
        """A folder or list. Some exports write ../train/images for a train/ beside the file."""
        root = self.file.parent / str(self.content.get("path") or ".")
        place = root / entry
        if not is_there(place) and entry.startswith("../"):
            return root / entry[3:]
        return place

    def _classes(self) -> dict[int, str]:
        """Names by number, in the order of the numbers."""
        names, count = self.content.get("names"), self.content.get("nc")
        if names is None and isinstance(count, int) and 0 < count <= MAX_CLASSES:
            names = [f"class_{i}" for i in range(count)]
        if isinstance(names, list):
            names = dict(enumerate(names))
        if not isinstance(names, dict) or not names or len(names) > MAX_CLASSES:
            raise DataError(
                f"{self.file}: names must be a list of the classes, or {{0: NAME, 1: NAME, ..}}, and at most "
                f"{MAX_CLASSES:,} are read"
            )
        problems = []
        for number, name in names.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                problems.append(f"{self.file}: names: {shown(number)} is no number of a class (0, 1, ..)")
            if isinstance(name, bool) or not (isinstance(name, int) or is_name(name)):
                problems.append(
                    f"{self.file}: names: class {shown(number)} is {shown(name)}: write a name, in quotes"
                )
        if isinstance(count, int) and count != len(names):
            problems.append(
                f"{self.file}: nc is {shown(count)}, but there are {len(names)} names: mend one of them"
            )
        if problems:
            raise DataError(problems)
        return {number: str(names[number]) for number in sorted(names)}


def label_file(image: Path) -> Path:
    """Where the outlines of a picture are: the last folder "images" of its path becomes "labels"."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def _images_at(place: Path, file: Path, split: str) -> tuple[list[Path], list[str]]:
    """The pictures of a folder, or of a list whose lines are paths below the list's folder."""
    if not is_there(place):
        raise DataError(f"{file}: {split}: there is no folder or list {shown(str(place))}")
    if place.is_dir():
        images = list(images_below(place))
        known = {label_file(image) for image in images}
        orphans = sorted(p for folder in {k.parent for k in known} for p in folder.glob("*.txt"))
        problems = [
            f"{p}: there is no picture for these labels in {place}: add it or remove them"
            for p in orphans
            if p not in known
            and p.parent != place
            and p.name != "classes.txt"
            and not p.name.startswith(".")  # as of pictures: a Mac leaves "._a.txt" in archives
        ]
        return images, problems if images else [f"{place}: holds no picture"]
    if place.suffix != ".txt" or not place.is_file():
        raise DataError(f"{file}: {split}: there is no folder or list {place}")
    finder = ImageFinder(place.parent)
    images, problems = [], []
    for number, line in enumerate(read_lines(place), start=1):
        path, problem = finder.find(line)
        if path is None:
            problems.append(f"{place}: line {number}: {line}: {problem}")
        else:
            images.append(path)
    return images, problems


def _read_image(path: Path, labels: Mapping[int, int]) -> tuple[ImageRecord | None, list[str]]:
    """One picture and its outlines; without a label file it has no objects."""
    try:
        height, width = read_image_size(path)
    except ImageError as error:
        return None, [str(error)]
    file = label_file(path)
    annotations: list[Annotation] = []
    problems: list[str] = []
    try:
        lines = read_text(file).splitlines() if file.is_file() else []
    except (OSError, ValueError) as error:
        return None, [f"{file}: cannot be read ({error}): write it again"]
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                annotations.append(_annotation(line.split(), labels, height, width))
            except ValueError as error:
                problems.append(f"{file}: line {number}: {error}")
    return ImageRecord(0, path, height, width, tuple(annotations)), problems


def _annotation(words: list[str], labels: Mapping[int, int], height: int, width: int) -> Annotation:
    """Raises ValueError with what is wrong."""
    try:
        kind, *shares = map(float, words)
    except ValueError:
        raise ValueError("holds something that is no number: CLASS X Y X Y .. is wanted") from None
    if kind not in labels:
        known = ", ".join(map(str, list(labels)[:20])) + (", .." if len(labels) > 20 else "")
        raise ValueError(f"class {words[0][:80]} is unknown: use one of {known}, or add a name")
    if len(shares) == 4:
        raise ValueError("is a box (five numbers): draw an outline (boxes alone cannot train masks)")
    if len(shares) % 2 or len(shares) < 6:
        raise ValueError(
            f"has {len(shares)} numbers after the class: pairs of x and y, at least 3, are wanted"
        )
    if not all(map(math.isfinite, shares)):
        raise ValueError("has a coordinate that is not a finite number: draw the outline again")
    if min(shares) < -EDGE or max(shares) > 1 + EDGE:
        raise ValueError(
            f"runs from {min(shares):g} to {max(shares):g}: "
            "coordinates are shares of the picture's sides, from 0 to 1"
        )
    # A millionth of a pixel is what is left of a coordinate after division and multiplication.
    sides = (width, height)
    polygon = [round(min(max(v, 0.0), 1.0) * sides[i & 1], 6) for i, v in enumerate(shares)]
    if problem := outline_problem([polygon], height, width):
        raise ValueError(problem)
    return outlined(labels[int(kind)], [polygon], height, width)


def write_yolo(splits: Mapping[str, Dataset], target: OutputFolder) -> None:
    """Write data.yaml, images/SPLIT/ and labels/SPLIT/. Crowds are left out; parts and holes of an object are
    joined to one outline with the same pixels.

    Raises:
        DataError: a split has the name of a key that means something else.
    """
    if unfit := sorted(splits.keys() & _NO_SPLITS):
        raise DataError(f"YOLO's data.yaml has another use for {unfit[0]!r}: rename the split")
    class_names = next(iter(splits.values())).class_names
    for split, dataset in splits.items():
        for name, image in zip(target.names[split], dataset.images, strict=True):
            target.place(image, name, f"images/{split}")
            lines = [_line(a, image, target) for a in image.annotations]
            text = "".join(f"{line}\n" for line in lines if line)
            target.write(Path("labels", split, f"{name}.txt"), text)
    content = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(class_names))}
    target.write(Path("data.yaml"), yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _line(annotation: Annotation, image: ImageRecord, target: OutputFolder) -> str | None:
    """An annotation's line; None for one that YOLO cannot hold."""
    note = target.losses.note
    if annotation.crowd:
        note("crowd regions were left out")
        return None
    try:
        outline = one_outline(annotation.segmentation, image.height, image.width)
    except DataError as error:
        raise DataError(f"{image.path}: annotation {annotation.id} {error}") from error
    if outline is None:
        note("outlines without a pixel were left out")
        return None
    note("several parts were joined by lines without width", outline.parts > 1)
    note("holes were joined to the outline by lines without width", outline.holes > 0)
    if isinstance(annotation.segmentation, dict):
        note("run-length masks became outlines along the edges of the same pixels")
    else:
        note("points were replaced by an outline around the same pixels", outline.redrawn)
    sides = (image.width, image.height)
    shares = (f"{v / sides[i & 1]:.12g}" for i, v in enumerate(outline.ring))
    return " ".join((str(annotation.label), *shares))
