"""Reading Chainer's .npz files: zip files with one numpy array for each parameter.

`numpy.load` would allocate the size that an array's header claims before it is compared with what the network
needs, and a zip file of a few kilobytes can claim terabytes.
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
    """The arrays of an .npz file by name, readable inside the `with` block.

    Raises:
        CheckpointError: the file is damaged or truncated, not a zip file of arrays, or holds Python objects,
            which would have to be unpickled.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file, ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(file))
            arrays = _arrays(path, archive)
        except _DAMAGE as error:
            raise refuse(path, [f"not a readable .npz file ({error}): is the copy complete?"]) from error
        yield arrays


def _arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, Stored]:
    members = archive.infolist()
    foreign = [member.filename for member in members if not member.filename.endswith(".npy")]
    if foreign:
        raise refuse(path, [f"a zip file that also holds other files than numpy arrays: {foreign[0]!r}"])
    if len(members) > MAX_ARRAYS:
        raise refuse(path, [f"{len(members)} arrays, more than any network has"])
    arrays: dict[str, Stored] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in arrays:
            raise refuse(path, [f"damaged: two arrays are named {name!r}"])
        with archive.open(member) as content:
            shape, column_major, dtype = _header(content)
        if dtype.hasobject:
            raise refuse(path, [f"{name!r} holds Python objects, which are never unpickled"])
        order: Literal["F", "C"] = "F" if column_major else "C"
        arrays[name] = Stored(shape, dtype, partial(_values, path, archive, member, shape, order, dtype))
    return arrays


def _header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(content)
    if version != (1, 0):  # its header has at most 64 kilobytes
        raise ValueError(f"numpy's format {version} instead of {(1, 0)}")
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
            more = content.read(1)  # the checksum is checked when the end is reached
    except _DAMAGE as error:
        raise refuse(path, [f"{member.filename!r} is damaged ({error})"]) from error
    if len(values) != count or more:
        raise refuse(
            path, [f"{member.filename!r} is damaged: it does not have the {count} bytes of its shape"]
        )
    return np.frombuffer(values, dtype).reshape(shape, order=order)
