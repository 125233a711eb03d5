"""Reading MXNet's .params files without MXNet.

The format of MXNet's `NDArray::Save`, little-endian: the number 0x112 and a reserved zero, each of 8 bytes;
the number of arrays (8 bytes) and the arrays; the number of names and the names (the length in 8 bytes, then
the characters), such as "arg:conv1_weight" and "aux:bn_conv1_moving_mean".

An array begins with 4 bytes that mark version 1, 2 or 3; in older files they are the number of dimensions.
Versions 2 and 3 continue with the kind of storage (0 is dense, the only one of network weights). Next are the
number of dimensions (4 bytes) and the dimensions (8 bytes each, 4 in the oldest files); an array without
dimensions ends here. The device (4 + 4 bytes), the number of the type (4 bytes) and the values follow.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.errors import CheckpointError
from instancefcn.published.stored_arrays import MAX_ARRAYS, Stored, refuse

MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
"""By MXNet's number of the type."""
MAX_DIMENSIONS = 8
MAX_NAME = 1024


class _Reader:
    """A position in the file, checked against its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position = path, data, 0

    def error(self, what: str) -> CheckpointError:
        return refuse(self.path, [f"damaged at byte {self.position}: {what}"])

    def take(self, count: int, what: str) -> int:
        """Skip the next `count` bytes; returns the position of the first."""
        left = len(self.data) - self.position
        if count > left:
            raise self.error(
                f"{what} needs {count} bytes, but the file ends after {left}: is the copy complete?"
            )
        begin, self.position = self.position, self.position + count
        return begin

    def number(self, form: str, what: str) -> int:
        value: int
        (value,) = struct.unpack_from(form, self.data, self.take(struct.calcsize(form), what))
        return value


@contextmanager
def read_params(path: Path) -> Iterator[dict[str, Stored]]:
    """The arrays of a .params file by name, readable inside the `with` block; those without dimensions are
    left out.

    Raises:
        CheckpointError: the file is damaged or truncated; the message names the byte and the problem.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise refuse(path, ["the file is empty"])
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield _arrays(path, data)


def _arrays(path: Path, data: mmap.mmap) -> dict[str, Stored]:
    reader = _Reader(path, data)
    if reader.number("<Q", "the mark of the format") != MAGIC:
        reader.position = 0
        raise reader.error(f"a .params file begins with {MAGIC:#x}")
    if reader.number("<Q", "the reserved number") != 0:
        raise reader.error("the reserved number should be 0")
    count = reader.number("<Q", "the number of arrays")
    if count > MAX_ARRAYS:
        raise reader.error(f"it claims {count} arrays, more than any network has")
    arrays = [_array(reader, i) for i in range(count)]
    named = reader.number("<Q", "the number of names")
    if named != count:
        raise reader.error(f"{count} arrays, but {named} names (a network's file has a name for each array)")
    names = [_name(reader, i) for i in range(count)]
    if reader.position != len(data):
        raise reader.error(f"{len(data) - reader.position} bytes follow the last name")
    if len(set(names)) != len(names):
        raise refuse(path, ["damaged: two arrays have the same name"])
    return {name: array for name, array in zip(names, arrays, strict=True) if array is not None}


def _array(reader: _Reader, index: int) -> Stored | None:
    """One array; None for one without dimensions."""
    what = f"array {index}"
    mark = reader.number("<I", what)
    if mark in (V2, V3) and (kind := reader.number("<i", what)) != 0:
        raise reader.error(f"{what} has the sparse storage {kind}, which is not supported")
    wide = mark in (V1, V2, V3)
    dimensions = reader.number("<i", what) if wide else mark
    if dimensions == -1 and mark == V3:
        return None
    if not 0 <= dimensions <= MAX_DIMENSIONS:
        raise reader.error(f"{what} has {dimensions} dimensions")
    if dimensions == 0 and mark != V3:
        return None
    shape = tuple(reader.number("<q" if wide else "<I", what) for _ in range(dimensions))
    if any(side < 0 for side in shape):
        raise reader.error(f"{what} has the shape {shape}")
    reader.take(8, what)  # the device
    kind = reader.number("<i", what)
    if not 0 <= kind < len(TYPES):
        raise reader.error(f"{what} has the unknown type {kind}")
    dtype: np.dtype[Any] = np.dtype(TYPES[kind])
    begin = reader.take(math.prod(shape) * dtype.itemsize, f"{what} of the shape {shape}")
    return Stored(shape, dtype, partial(_values, reader.data, dtype, shape, begin))


def _values(data: mmap.mmap, dtype: np.dtype[Any], shape: tuple[int, ...], begin: int) -> NDArray[Any]:
    count = math.prod(shape)
    return np.frombuffer(data[begin : begin + count * dtype.itemsize], dtype, count).reshape(shape)


def _name(reader: _Reader, index: int) -> str:
    what = f"name {index}"
    length = reader.number("<Q", what)
    if length > MAX_NAME:
        raise reader.error(f"{what} claims {length} characters, more than {MAX_NAME}")
    begin = reader.take(length, what)
    try:
        return reader.data[begin : begin + length].decode("ascii")
    except UnicodeDecodeError:
        raise reader.error(f"{what} is not ASCII text") from None
