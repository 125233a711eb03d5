"""The Semantic Boundaries Dataset: Matlab files of object numbers, with VOC's photographs and classes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, gather, in_order, read_lines
from instancefcn.data.formats.index_masks import annotations_of, crops_of
from instancefcn.data.formats.voc import VOC_CLASSES
from instancefcn.data.paths import ImageFinder, is_there
from instancefcn.errors import DataError, ImageError
from instancefcn.limits import MAX_PIXELS

_PLACES = (".", "dataset", "benchmark_RELEASE/dataset")


class SbdFolder:
    """A folder with img/, inst/ and the lists train.txt and val.txt.

    An inst/ file holds the class of every object, so that the cls/ files are not needed.
    """

    title = "SBD (inst/*.mat)"

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def at(cls, data: Path) -> SbdFolder | None:
        """The SBD folder at `data`, or inside it where the published archive has it; None elsewhere."""
        places = (data / place for place in _PLACES)
        return next((cls(p) for p in places if next((p / "inst").glob("*.mat"), None)), None)

    def splits(self) -> list[str]:
        """The names of the lists."""
        return in_order([p.stem for p in self.root.glob("*.txt") if self._is_list(p)])

    def _is_list(self, path: Path) -> bool:
        """Whether a text file is a list and no README: its first line names a file in inst/. The published
        lists are in any case, so that what is wrong with them is said.
        """
        if path.stem in ("train", "val"):
            return True
        try:
            lines = read_lines(path)
        except DataError:
            return False
        return bool(lines) and is_there(self.root / "inst" / f"{lines[0]}.mat")

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest. No photograph is opened yet.

        Raises:
            DataError: there is no such list.
        """
        finder = ImageFinder(self.root / "img")

        def read(stem: str) -> tuple[ImageRecord | None, list[str]]:
            path, problem = finder.find_stem(stem)
            if path is None:
                return None, [f"{self.root}: {split}.txt: {stem}: {problem}"]
            return _image(path, self.root / "inst" / f"{stem}.mat")

        classes = (VOC_CLASSES, range(1, len(VOC_CLASSES) + 1))
        return gather(name, classes, read_lines(self.root / f"{split}.txt"), read, progress)


def _image(path: Path, masks: Path) -> tuple[ImageRecord | None, list[str]]:
    try:
        index, categories = _instances(masks)
        found = crops_of(index, where=masks)
    except (DataError, ImageError) as error:
        return None, [str(error)]
    crops, labels, problems = [], [], []
    for number, crop in found.items():
        kind = int(categories[number - 1]) if 1 <= number <= len(categories) else None
        if kind is None:
            problems.append(f"{masks}: object {number} has no category: {len(categories)} are given")
        elif not 1 <= kind <= len(VOC_CLASSES):
            problems.append(f"{masks}: object {number} has the category {kind}, known are 1 to 20")
        else:
            crops.append(crop)
            labels.append(kind - 1)
    height, width = index.shape
    annotations = annotations_of(crops, labels, (height, width))
    return ImageRecord(0, path, height, width, tuple(annotations)), problems


def _instances(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Numbers of objects [H, W], and the class of object 1, 2, ..

    Raises:
        DataError: the file is missing, damaged, or another one.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file: add it or take the picture off the list")
    try:
        fields = read_struct(path, "GTinst")
        index, categories = fields["Segmentation"], fields["Categories"].reshape(-1)
        if (
            index.ndim != 2
            or not index.size
            or index.dtype.kind not in "ui"
            or categories.dtype.kind not in "ui"
        ):
            raise ValueError(f"Segmentation is {index.dtype} {list(index.shape)}")
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: holds no GTinst with Segmentation and Categories ({error}): is it of SBD's inst/ "
            "folder, and whole?"
        ) from error
    return index, categories


_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ARRAY, _PACKED = 14, 15
_STRUCT = 2
_NUMBERS = range(6, 16)
"""Classes of arrays that hold numbers: double, single, and whole ones of 8 to 64 bits."""


# Matlab's files, version 5, as far as the masks need them. After a head of 128 bytes come elements: 8 bytes
# with the type and length, then the content; or, for up to 4 bytes, all of it in 8. An array is an element of
# elements: flags with its class, sizes, name, and values; a struct has its fields' names and arrays instead
# of values. (MathWorks, "MAT-File Format", version 5. Damaged files can make scipy's reader end the process,
# so it is not used.)


def read_struct(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """The fields of a struct that hold numbers, in the types in which they are stored.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, is damaged, unpacks to over MAX_PIXELS bytes, or lacks the struct.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it has no head of version 5")
    left = MAX_PIXELS
    for kind, data in _elements(content, order, 128):
        if kind == _PACKED:
            unpack = zlib.decompressobj()
            try:
                data = unpack.decompress(data, left + 1)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            left -= len(data)
            if left < 0:
                raise ValueError(f"it holds more than {MAX_PIXELS:,} bytes")
            kind, data = next(_elements(data, order), (0, b""))
        if kind == _ARRAY:
            class_, sizes, title, rest = _head(data, order)
            if class_ == _STRUCT and title == name:
                return _fields(sizes, rest, order)
    raise ValueError(f"it holds no struct {name}")


def _elements(content: bytes, order: str, place: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type and content of every element. Raises ValueError for one that is cut off."""
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        if kind >> 16:  # all of it in 8 bytes
            kind, length, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start = place + 8
            end = start + (length if kind == _PACKED else -(-length // 8) * 8)
        if start + length > min(end, len(content)):
            raise ValueError("an element is cut off")
        yield kind, content[start : start + length]
        place = end


def _head(data: bytes, order: str) -> tuple[int, tuple[int, ...], str, list[tuple[int, bytes]]]:
    """Class, sizes and name of an array, and the elements that follow."""
    elements = list(_elements(data, order))
    if len(elements) < 3 or len(elements[0][1]) < 4 or len(elements[1][1]) % 4:
        raise ValueError("an array has no head")
    (flags,) = struct.unpack_from(f"{order}I", elements[0][1])
    sizes = struct.unpack(f"{order}{len(elements[1][1]) // 4}i", elements[1][1])
    return flags & 0xFF, sizes, elements[2][1].decode("latin-1"), elements[3:]


def _fields(sizes: tuple[int, ...], elements: list[tuple[int, bytes]], order: str) -> dict[str, NDArray[Any]]:
    """The arrays of numbers in a struct of one element."""
    if any(size != 1 for size in sizes) or len(elements) < 2 or len(elements[0][1]) != 4:
        raise ValueError(f"the struct has the sizes {list(sizes)}")
    (length,) = struct.unpack(f"{order}i", elements[0][1])
    if length < 1:
        raise ValueError("the struct's fields have no names")
    text = elements[1][1]
    names = [text[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(text), length)]
    found: dict[str, NDArray[Any]] = {}
    for field, (kind, data) in zip(names, elements[2:], strict=False):
        if kind == _ARRAY and data:
            class_, shape, _, rest = _head(data, order)
            if class_ in _NUMBERS and rest:
                found[field] = _numbers(shape, *rest[0], order)
    return found


def _numbers(shape: tuple[int, ...], kind: int, data: bytes, order: str) -> NDArray[Any]:
    if kind not in _TYPES:
        raise ValueError(f"values are of the type {kind}")
    values = np.frombuffer(data, np.dtype(f"{order}{_TYPES[kind]}"))
    if any(size < 0 for size in shape) or int(np.prod(shape, dtype=object)) != len(values):
        raise ValueError(f"{len(values)} values for an array of {list(shape)}")
    return values.reshape(shape, order="F").astype(values.dtype.newbyteorder("="))
