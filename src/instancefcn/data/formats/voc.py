"""Pascal VOC 2012 segmentation: palette PNGs of object numbers and of classes, and lists of names.

    VOC2012/
      ImageSets/Segmentation/train.txt    one name per line; val.txt, trainval.txt, ..
      JPEGImages/2007_000032.jpg
      SegmentationObject/2007_000032.png  each pixel the number of its object
      SegmentationClass/2007_000032.png   each pixel the number of its class, 1 to 20
      labelmap.txt                        only for classes other than VOC's

0 is background and 255 is void. An object's class is that of most of its pixels. CVAT's "Segmentation mask
1.1" has colours instead of numbers: labelmap.txt, in any order, gives those of the classes, and every colour
of an object mask is an object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.formats.gathering import OnProgress, gather, read_lines
from instancefcn.data.formats.index_masks import Crop, annotations_of, crops_of, painted, read_mask
from instancefcn.data.formats.output import Losses, OutputFolder
from instancefcn.data.formats.split_names import name_splits, sort_splits
from instancefcn.data.paths import IMAGE_SUFFIXES, ImageFinder, in_any_case
from instancefcn.errors import DataError, ImageError
from instancefcn.files import atomic_write
from instancefcn.geometry.outlines import to_rle
from instancefcn.geometry.rle import decode_crop

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""VOC's classes in the published order: the first one is class 1 in the PNGs."""

VOID = 255
"""The value of object borders and of what was not annotated: these pixels belong to no object."""
_VOID_COLOUR = 224 << 16 | 224 << 8 | 192
"""The colour of `VOID` in VOC's palette, a number as of `read_mask`."""
BACKGROUND = "background"
LABELMAP = "labelmap.txt"
"""The file of classes other than VOC's: one NAME:R,G,B:: per line, for masks of numbers background first."""
_ROOTS = (".", "VOC2012", "VOCdevkit/VOC2012")


class VocFolder:
    """A folder with ImageSets/Segmentation, JPEGImages, SegmentationObject and SegmentationClass."""

    title = "Pascal VOC segmentation (ImageSets/Segmentation)"
    reads = (".png", ".txt")

    def __init__(self, root: Path) -> None:
        self.root = root
        lists = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
        lists = [path for path in lists if not path.name.startswith(".")]  # macOS's ._val.txt
        names = name_splits([path.stem for path in lists])
        self.lists = {names[path.stem]: path for path in lists}

    @classmethod
    def at(cls, data: Path) -> VocFolder | None:
        """The VOC folder at `data`, or below it as in the published archives; None if there is none."""
        roots = (data / root for root in _ROOTS)
        return next((cls(root) for root in roots if (root / "ImageSets" / "Segmentation").is_dir()), None)

    def splits(self) -> list[str]:
        """The names of the lists; "valid" is "val", a single list such as CVAT's "default" is "train"."""
        return sort_splits(list(self.lists))

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest. No image is opened.

        Raises:
            DataError: the list or the class names cannot be read.
        """
        lines = read_lines(self.lists[split])
        classes = self._classes()
        finder = ImageFinder(self.root / "JPEGImages")

        def read(line: str) -> tuple[ImageRecord | None, list[str]]:
            path, problem = finder.find_stem(_without_suffix(line))
            if path is None:
                return None, [f"{self.root}: {self.lists[split].name}: {line}: {problem}"]
            return self._image(path, classes)

        names = (classes.names, range(1, len(classes.names) + 1))
        dataset, problems = gather(name, names, lines, read, progress)
        return replace(dataset, notes=finder.notes()), problems

    def _classes(self) -> _Classes:
        path = self.root / LABELMAP
        if not path.is_file():
            return _Classes(VOC_CLASSES, dict(zip(_packed(_PALETTE[1:]), range(1, 21), strict=False)), True)
        lines = [line for line in read_lines(path) if not line.startswith("#")]
        rows = [[*line.rsplit(":", 3), ""][:2] for line in lines]
        names = [name.strip() for name, _ in rows]
        if not all(names) or set(names) <= {BACKGROUND}:
            raise DataError(f"{path}: must have one line NAME:R,G,B:: per class, and one of {BACKGROUND!r}")
        kinds = [(name, colour) for name, (_, colour) in zip(names, rows, strict=True) if name != BACKGROUND]
        colours: dict[int, int] = {}
        for number, (_, colour) in enumerate(kinds, start=1):
            if match := re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", colour):
                red, green, blue = map(int, match.groups())
                colours.setdefault(red << 16 | green << 8 | blue, number)
        return _Classes(tuple(name for name, _ in kinds), colours, names[0] == BACKGROUND)

    def _image(self, path: Path, classes: _Classes) -> tuple[ImageRecord | None, list[str]]:
        stem = path.relative_to(self.root / "JPEGImages").with_suffix("")
        folders = (self.root / f"Segmentation{kind}" for kind in ("Object", "Class"))
        files = [in_any_case(folder / f"{stem}.png") for folder in folders]
        missing = [f"{file}: mask not found: add it or remove {stem} from the list" for file in files]
        missing = [problem for problem, file in zip(missing, files, strict=True) if not file.is_file()]
        if missing:
            return None, missing
        try:
            objects, kinds = _object_numbers(files[0]), classes.numbers(files[1])
            found = crops_of(objects, without=(0, VOID), where=files[0])
        except ImageError as error:
            return None, [str(error)]
        if objects.shape != kinds.shape:
            return None, [
                f"{files[0]}: is {objects.shape[1]} x {objects.shape[0]} pixels, {files[1]} is "
                f"{kinds.shape[1]} x {kinds.shape[0]}: draw both at the image's size"
            ]
        crops, labels, problems = [], [], []
        for number, crop in found.items():
            kind, problem = _class_of(crop, kinds, len(classes.names))
            if problem:
                problems.append(f"{files[1]}: object {number} {problem}")
            else:
                crops.append(crop)
                labels.append(kind - 1)
        height, width = objects.shape
        annotations = annotations_of(crops, labels, (height, width))
        return ImageRecord(0, path, height, width, tuple(annotations)), problems


def _without_suffix(line: str) -> str:
    """A line of a list without the suffix of an image, which some programs write."""
    stem, suffix = os.path.splitext(line)
    return stem if suffix.lower() in IMAGE_SUFFIXES else line


@dataclass(frozen=True)
class _Classes:
    """The classes, and how class masks show them.

    Attributes:
        names: of classes 1, 2, ..
        colours: the class of each colour, a number as of `read_mask`.
        in_order: a palette mask holds these numbers; otherwise its colours count.
    """

    names: tuple[str, ...]
    colours: Mapping[int, int]
    in_order: bool

    def numbers(self, file: Path) -> NDArray[Any]:
        """The class of each pixel in a class mask, [H, W]. Raises ImageError for colours without a class."""
        values, coloured = read_mask(file, palette=not self.in_order)
        if not coloured:
            if not self.in_order:
                raise ImageError(
                    f'{file}: holds numbers, but "{BACKGROUND}" is not the first line of {LABELMAP}: put the '
                    "lines in the order of the class numbers"
                )
            return values
        return _renumbered(values, {**self.colours, 0: 0, _VOID_COLOUR: VOID}, file)


def _object_numbers(file: Path) -> NDArray[Any]:
    """The object of each pixel, [H, W]. Colours become VOC's numbers, or any others if some are not VOC's."""
    values, coloured = read_mask(file)
    if not coloured:
        return values
    palette = dict(zip(_packed(_PALETTE), range(256), strict=True))
    if palette.keys() >= set(np.unique(values).tolist()):
        return _renumbered(values, palette, file)
    return np.where(values == _VOID_COLOUR, VOID, np.where(values > 0, values + VOID, 0))


def _renumbered(values: NDArray[Any], numbers: Mapping[int, int], file: Path) -> NDArray[Any]:
    """The number of each pixel's colour. Raises ImageError for colours without one."""
    used, indices = np.unique(values, return_inverse=True)
    if unknown := [colour for colour in used.tolist() if colour not in numbers]:
        some = " and ".join(f"{c >> 16},{c >> 8 & 255},{c & 255}" for c in unknown[:3])
        some += f" and {len(unknown) - 3} more" * (len(unknown) > 3)
        raise ImageError(f"{file}: has the colour {some} of no class: add a line to {LABELMAP}, or redraw it")
    return np.array([numbers[colour] for colour in used.tolist()])[indices].reshape(values.shape)


def _packed(colours: NDArray[np.uint8]) -> list[int]:
    """Colours, [N, 3], as the numbers of `read_mask`."""
    red, green, blue = colours.astype(int).T
    return (red << 16 | green << 8 | blue).tolist()


def _class_of(crop: Crop, kinds: NDArray[Any], classes: int) -> tuple[int, str | None]:
    """The class of most pixels of an object, and what is wrong with it, or None."""
    pixels, (x, y) = crop
    window = kinds[y : y + pixels.shape[0], x : x + pixels.shape[1]]
    values, counts = np.unique(window[pixels.astype(bool)], return_counts=True)
    kind, share = int(values[counts.argmax()]), counts.max() / counts.sum()
    if share <= 0.5:
        return (
            kind,
            f"has classes {', '.join(map(str, values))}, none for most of its pixels: redraw it",
        )
    if not 1 <= kind <= classes:
        return kind, f"has class {kind}, but only 1 to {classes} are known: redraw it, or name the class"
    return kind, None


def write_voc(splits: Mapping[str, Dataset], output: OutputFolder) -> None:
    """Write images, masks, lists and, for classes other than VOC's, labelmap.txt.

    Crowds, and objects beyond the 254th of an image, become void. Where objects overlap, the smaller one is
    on top.

    Raises:
        DataError: there are more classes than 8 bits hold, a class name cannot be a line of labelmap.txt, or
            two splits annotate one image differently.
    """
    class_names = next(iter(splits.values())).class_names
    if len(class_names) >= VOID:
        raise DataError(
            f"VOC's masks hold at most {VOID - 1} classes, not {len(class_names)}: choose another format"
        )
    for name in class_names:
        if name != name.strip() or name.startswith("#") or len(name.splitlines()) != 1:
            raise DataError(f"class {name!r} cannot be written as a line of {LABELMAP}: rename it")
    if class_names != VOC_CLASSES:
        named = zip((BACKGROUND, *class_names), _PALETTE, strict=False)
        rows = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in named)
        output.write(Path(LABELMAP), rows)
    seen: dict[str, list[tuple[Any, ...]]] = {}
    for split, dataset in splits.items():
        names = output.names[split]
        for name, image in zip(names, dataset.images, strict=True):
            content = [(a.label, a.segmentation, a.crowd) for a in image.annotations]
            if seen.setdefault(name, content) != content:
                raise DataError(
                    f"{image.path}: is annotated differently in {split} and in another split, "
                    "but VOC has one mask per image: choose another format"
                )
            output.add_image(image, name, "JPEGImages")
            objects, kinds = _masks(image, output.losses)
            for kind, values in (("Object", objects), ("Class", kinds)):
                drawn = Image.fromarray(values)
                drawn.putpalette(_PALETTE.tobytes())
                with atomic_write(output.out / f"Segmentation{kind}" / f"{name}.png") as file:
                    drawn.save(file, format="PNG")
        output.write(Path("ImageSets", "Segmentation", f"{split}.txt"), "".join(f"{n}\n" for n in names))


def _masks(image: ImageRecord, losses: Losses) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Object numbers and class numbers, uint8 [H, W] each. What they cannot hold is noted in `losses`."""
    canvas = np.zeros((image.height, image.width), dtype=np.uint8)
    crowds = [a for a in image.annotations if a.crowd]
    for crowd in crowds:
        rle = to_rle(crowd.segmentation, image.height, image.width)
        crop, (x, y) = decode_crop(rle["counts"], image.height)
        canvas[y : y + crop.shape[0], x : x + crop.shape[1]][crop.numpy().astype(bool)] = VOID
    losses.note("crowd regions become void pixels (255)", len(crowds))
    objects = [a for a in image.annotations if not a.crowd]
    numbers = [min(number, VOID) for number in range(1, len(objects) + 1)]
    masks = rasterize(image)
    canvas, hidden = painted(masks, numbers, canvas)
    classes = np.zeros(256, dtype=np.uint8)
    classes[VOID] = VOID
    for annotation, number, area, lost in zip(objects, numbers, masks.areas().tolist(), hidden, strict=True):
        losses.note("polygons become pixels", isinstance(annotation.segmentation, list))
        if number == VOID:
            losses.note("objects beyond the 254th of an image become void pixels (255)")
            continue
        classes[number] = annotation.label + 1
        if not area:
            losses.note("outlines without a pixel are left out")
        elif lost == area:
            losses.note("objects wholly behind others are left out")
        elif lost:
            losses.note("objects lose the pixels behind another object")
    return canvas, classes[canvas]


def _colours() -> NDArray[np.uint8]:
    """VOC's palette, uint8 [256, 3].

    Bits 3 i, 3 i + 1 and 3 i + 2 of a number become bit 7 - i of red, green and blue.
    """
    numbers = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.int64)
    for i in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * i + channel)) & 1) << (7 - i)
    return colours.astype(np.uint8)


_PALETTE = _colours()
