"""The Semantic Boundaries Dataset (SBD): MATLAB files of object numbers, with VOC's images and classes.

    dataset/
      train.txt             one name per line; val.txt, and other lists whose first name has a file in inst/
      img/2008_000002.jpg
      inst/2008_000002.mat  a struct GTinst: Segmentation (object numbers), Categories (classes 1 to 20)

The cls/ files are not needed, because an inst/ file holds the class of every object. There is no writer:
VOC's format holds the same.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, gather, read_lines
from instancefcn.data.formats.index_masks import annotations_of, crops_of
from instancefcn.data.formats.split_names import name_splits, sort_splits, split_of
from instancefcn.data.formats.voc import VOC_CLASSES
from instancefcn.data.paths import ImageFinder, is_there
from instancefcn.errors import DataError, ImageError
from instancefcn.limits import MAX_PIXELS

_ROOTS = (".", "dataset", "benchmark_RELEASE/dataset")


class SbdFolder:
    """A folder with img/, inst/ and the lists train.txt and val.txt."""

    title = "SBD (inst/*.mat)"
    reads = (".mat", ".txt")

    def __init__(self, root: Path) -> None:
        self.root = root
        lists = [path for path in sorted(root.glob("*.txt")) if self._is_list(path)]
        names = name_splits([path.stem for path in lists])
        self.lists = {names[path.stem]: path for path in lists}

    @classmethod
    def at(cls, data: Path) -> SbdFolder | None:
        """The SBD folder at `data`, or below it as in the published archive; None if there is none."""
        roots = (data / root for root in _ROOTS)
        return next((cls(root) for root in roots if next((root / "inst").glob("*.mat"), None)), None)

    def splits(self) -> list[str]:
        """The names of the lists; "valid" is "val"."""
        return sort_splits(list(self.lists))

    def _is_list(self, path: Path) -> bool:
        """Whether a text file is a list: its first line names a file in inst/, unlike a README's.

        The published lists always count, so that reading them reports what is wrong with them.
        """
        if split_of(path.stem):
            return True
        try:
            lines = read_lines(path)
        except DataError:
            return False
        return bool(lines) and is_there(self.root / "inst" / f"{lines[0]}.mat")

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest. No image is opened.

        Raises:
            DataError: the list cannot be read.
        """
        finder = ImageFinder(self.root / "img")

        def read(stem: str) -> tuple[ImageRecord | None, list[str]]:
            path, problem = finder.find_stem(stem)
            if path is None:
                return None, [f"{self.root}: {self.lists[split].name}: {stem}: {problem}"]
            return _image(path, self.root / "inst" / f"{path.relative_to(finder.folder).with_suffix('')}.mat")

        classes = (VOC_CLASSES, range(1, len(VOC_CLASSES) + 1))
        dataset, problems = gather(name, classes, read_lines(self.lists[split]), read, progress)
        return replace(dataset, notes=finder.notes()), problems


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
            problems.append(f"{masks}: object {number} has no category ({len(categories)} are given): add it")
        elif not 1 <= kind <= len(VOC_CLASSES):
            problems.append(f"{masks}: object {number} has category {kind}: use 1 to {len(VOC_CLASSES)}")
        else:
            crops.append(crop)
            labels.append(kind - 1)
    height, width = index.shape
    annotations = annotations_of(crops, labels, (height, width))
    return ImageRecord(0, path, height, width, tuple(annotations)), problems


def _instances(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Object numbers [H, W], and the class of object 1, 2, ..

    Raises:
        DataError: the file is missing, damaged, or not from SBD's inst/.
    """
    if not path.is_file():
        raise DataError(f"{path}: file not found: add it or remove the image from the list")
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
            f"{path}: no valid GTinst with Segmentation and Categories found ({error}): "
            "replace it by the file from SBD's inst/ folder"
        ) from error
    return index, categories


# MATLAB files of version 5, as far as the masks need them (MathWorks, "MAT-File Format", version 5). A header
# of 128 bytes is followed by elements. An element is 8 bytes with its type and length, then its content; one
# with at most 4 bytes of content takes 8 bytes in all. An array is an element of elements: flags with its
# class, sizes, name and values. A struct has its fields' names and arrays instead of values. scipy's reader
# is not used, because damaged files can make it end the process.

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ARRAY, _COMPRESSED = 14, 15
_STRUCT = 2
_NUMERIC = range(6, 16)
"""Classes of arrays of numbers: double, single, and integers of 8 to 64 bits."""


def read_struct(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """The numeric fields of a struct, with their stored types.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a MATLAB file of version 5, is damaged, decompresses to more than MAX_PIXELS
            bytes, or lacks the struct.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("not a MATLAB file of version 5")
    left = MAX_PIXELS
    for kind, data in _elements(content, order, 128):
        if kind == _COMPRESSED:
            unpack = zlib.decompressobj()
            try:
                data = unpack.decompress(data, left + 1)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            left -= len(data)
            if left < 0:
                raise ValueError(f"decompresses to more than {MAX_PIXELS:,} bytes")
            kind, data = next(_elements(data, order), (0, b""))
        if kind == _ARRAY:
            class_, sizes, title, rest = _header(data, order)
            if class_ == _STRUCT and title == name:
                return _fields(sizes, rest, order)
    raise ValueError(f"no struct {name} found")


def _elements(content: bytes, order: str, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type and content of every element. Raises ValueError for a truncated one."""
    while offset + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, offset)
        if kind >> 16:  # all of it in 8 bytes
            kind, length, start, end = kind & 0xFFFF, kind >> 16, offset + 4, offset + 8
        else:
            start = offset + 8
            end = start + (length if kind == _COMPRESSED else -(-length // 8) * 8)
        if start + length > min(end, len(content)):
            raise ValueError("an element is truncated")
        yield kind, content[start : start + length]
        offset = end


def _header(data: bytes, order: str) -> tuple[int, tuple[int, ...], str, list[tuple[int, bytes]]]:
    """Class, sizes and name of an array, and the elements that follow."""
    elements = list(_elements(data, order))
    if len(elements) < 3 or len(elements[0][1]) < 4 or len(elements[1][1]) % 4:
        raise ValueError("an array has no header")
    (flags,) = struct.unpack_from(f"{order}I", elements[0][1])
    sizes = struct.unpack(f"{order}{len(elements[1][1]) // 4}i", elements[1][1])
    return flags & 0xFF, sizes, elements[2][1].decode("latin-1"), elements[3:]


def _fields(sizes: tuple[int, ...], elements: list[tuple[int, bytes]], order: str) -> dict[str, NDArray[Any]]:
    """The numeric arrays in a struct of one element."""
    if any(size != 1 for size in sizes) or len(elements) < 2 or len(elements[0][1]) != 4:
        raise ValueError(f"the struct has sizes {list(sizes)}")
    (length,) = struct.unpack(f"{order}i", elements[0][1])
    if length < 1:
        raise ValueError("the struct's fields have no names")
    text = elements[1][1]
    names = [text[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(text), length)]
    found: dict[str, NDArray[Any]] = {}
    for field, (kind, data) in zip(names, elements[2:], strict=False):
        if kind == _ARRAY and data:
            class_, shape, _, rest = _header(data, order)
            if class_ in _NUMERIC and rest:
                found[field] = _numbers(shape, *rest[0], order)
    return found


def _numbers(shape: tuple[int, ...], kind: int, data: bytes, order: str) -> NDArray[Any]:
    if kind not in _TYPES:
        raise ValueError(f"values have the unknown type {kind}")
    values = np.frombuffer(data, np.dtype(f"{order}{_TYPES[kind]}"))
    if any(size < 0 for size in shape) or int(np.prod(shape, dtype=object)) != len(values):
        raise ValueError(f"{len(values)} values for an array of {list(shape)}")
    return values.reshape(shape, order="F").astype(values.dtype.newbyteorder("="))
