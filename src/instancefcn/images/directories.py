"""The directories (IFD) of a TIFF file or of EXIF data, before Pillow acts on them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import SEEK_END
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from instancefcn.errors import ImageError
from instancefcn.limits import MAX_PAGES

_UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8)
"""Bytes per value of a TIFF tag, by type."""
ORDERS: dict[bytes, Literal["<", ">"]] = {b"II": "<", b"MM": ">"}
"""The first two bytes of a TIFF file, and the byte order that they mean."""
_SUBFILE, _REDUCED, _MASK = 254, 1, 4
"""The tag that tells a smaller copy of the image before it, or its mask, from a page."""


def check_directory(file: IO[bytes]) -> None:
    """Raises ImageError when the tags of the first directory claim more bytes than the file holds: every tag
    is read, and thousands may point at the same bytes. Data without a directory pass; reading them fails.
    """
    next(_directories(file), None)


def page_indices(file: IO[bytes]) -> list[int]:
    """Indices of the directories that are pages: all but smaller copies and masks. At most MAX_PAGES.

    Raises:
        ImageError: see `check_directory`.
    """
    found = [0]
    for index, entries in enumerate(_directories(file)):
        kind = entries["value"][entries["tag"] == _SUBFILE]
        number = int.from_bytes(kind[0].tobytes(), "little") if len(kind) else 0
        # In either byte order, the flags are in the first or the fourth byte.
        if index and not (number | number >> 24) & (_REDUCED | _MASK):
            found.append(index)
        if len(found) == MAX_PAGES:
            break
    return found


def _directories(file: IO[bytes]) -> Iterator[NDArray[Any]]:
    """The entries of each directory: an array with the fields tag, type, count and value (bytes)."""
    length = file.seek(0, SEEK_END)
    file.seek(0)
    head = file.read(16)
    order = ORDERS.get(head[:2])
    if order is None or len(head) < 16:
        return
    big = head[2] == 43 or head[3] == 43  # BigTIFF has 64-bit offsets and counts
    wide, width = ("Q", 8) if big else ("L", 4)
    entry = np.dtype([("tag", "u2"), ("type", "u2"), ("count", f"u{width}"), ("value", f"V{width}")])
    (start,) = struct.unpack_from(f"{order}{wide}", head, width)
    seen: set[int] = set()
    while start and start <= length and start not in seen:
        seen.add(start)
        file.seek(start)
        size = 8 if big else 2
        (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(size).ljust(size, b"\0"))
        rows = file.read(min(count * entry.itemsize, length))
        entries = np.frombuffer(
            rows[: len(rows) // entry.itemsize * entry.itemsize], entry.newbyteorder(order)
        )
        units = np.array(_UNITS, np.float64)[np.where(entries["type"] < len(_UNITS), entries["type"], 0)]
        if float((units * entries["count"]).sum()) > length:
            raise ImageError("is damaged: the tags in its header claim more bytes than the file holds")
        after = file.read(width)
        yield entries
        (start,) = struct.unpack(f"{order}{wide}", after.ljust(width, b"\0"))
