"""Reading Chainer's .npz files: a zip file of numpy arrays, one a parameter.

`numpy.load` would do, but it allocates what an array's header claims before it has been compared with what
the network needs, and a few kilobytes of zip can claim terabytes.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from instancefcn.published.stored_arrays import MAX_ARRAYS, Stored, refuse

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OSError,
    NotImplementedError,
    RuntimeError,  # an encrypted member
)


@contextmanager
def read_npz(path: Path) -> Iterator[dict[str, Stored]]:
    """The arrays of an .npz file by name, to be read inside the block.

    Raises:
        CheckpointError: the file is damaged or cut off, is no zip file of arrays, or holds Python objects,
            which would have to be unpickled.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file, ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
            arrays = _arrays(path, archive)
        except _DAMAGE as error:
            raise refuse(path, [f"not a readable .npz file ({error}); was it copied whole?"]) from error
        yield arrays


def _arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, Stored]:
    members = archive.infolist()
    foreign = [member.filename for member in members if not member.filename.endswith(".npy")]
    if foreign:
        raise refuse(path, [f"a zip file, but not one of numpy arrays: {foreign[0]!r} is in it"])
    if len(members) > MAX_ARRAYS:
        raise refuse(path, [f"{len(members)} arrays, more than any network has"])
    arrays: dict[str, Stored] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in arrays:
            raise refuse(path, [f"damaged: two arrays have the name {name!r}"])
        with archive.open(member) as content:
            shape, column_major, dtype = _header(content)
        if dtype.hasobject:
            raise refuse(path, [f"{name!r} holds Python objects, which are never unpickled"])
        order: Literal["F", "C"] = "F" if column_major else "C"
        arrays[name] = Stored(shape, dtype, partial(_values, path, archive, member, shape, order, dtype))
    return arrays


def _header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(content)
    if version != (1, 0):  # whose header has at most 64 kilobytes
        raise ValueError(f"numpy's format {version}, where {(1, 0)} is usual")
    shape, column_major, dtype = np.lib.format.read_array_header_1_0(content)
    return shape, column_major, dtype


def _values(
    path: Path,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    shape: tuple[int, ...],
    order: Literal["F", "C"],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    count = math.prod(shape) * dtype.itemsize
    try:
        with archive.open(member) as content:
            _header(content)
            values = content.read(count)
            more = content.read(1)  # at the end the sum of the bytes is checked
    except _DAMAGE as error:
        raise refuse(path, [f"{member.filename!r} is damaged ({error})"]) from error
    if len(values) != count or more:
        raise refuse(path, [f"{member.filename!r} is damaged: it has not the {count} bytes of its shape"])
    return np.frombuffer(values, dtype).reshape(shape, order=order)
