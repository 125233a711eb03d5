"""TIFF files of any layout, written by a few lines of struct: what readers are tested with."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_CODES = {"B": 1, "H": 3, "L": 4, "Q": 16}


def write_tiff(
    path: Path,
    values: np.ndarray[Any, Any],
    *,
    planes: bool = False,
    piece: tuple[int, int] | None = None,
    tiled: bool = False,
    order: str = "<",
    big: bool = False,
    compression: str | None = None,
    predictor: bool = False,
    photometric: int | None = None,
    extra: Sequence[int] = (),
) -> None:
    """Write samples [H, W] or [H, W, channels] with strips or tiles of `piece` (height, width)."""
    values = values[:, :, None] if values.ndim == 2 else values
    height, width, samples = values.shape
    rows, columns = piece or (height, width)
    parts = [values[:, :, i : i + 1] for i in range(samples)] if planes else [values]
    pieces = []
    for part in parts:
        for y in range(0, height, rows):
            for x in range(0, width, columns):
                block = part[y : y + rows, x : x + columns]
                if tiled:
                    missing = (rows - block.shape[0], columns - block.shape[1])
                    block = np.pad(block, ((0, missing[0]), (0, missing[1]), (0, 0)))
                pieces.append(_packed(block, order, compression, predictor))
    tags: dict[int, tuple[str, Sequence[int]]] = {
        256: ("L", [width]),
        257: ("L", [height]),
        258: ("H", [values.dtype.itemsize * 8] * samples),
        259: ("H", [{None: 1, "lzw": 5, "deflate": 8}[compression]]),
        262: ("H", [(2 if samples >= 3 else 1) if photometric is None else photometric]),
        277: ("H", [samples]),
        284: ("H", [2 if planes else 1]),
        317: ("H", [2 if predictor else 1]),
        339: ("H", [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * samples),
    }
    if extra:
        tags[338] = ("H", extra)
    if tiled:
        tags |= {322: ("L", [columns]), 323: ("L", [rows])}
    else:
        tags[278] = ("L", [rows])
    start = 16 if big else 8
    offsets = [start + sum(map(len, pieces[:i])) for i in range(len(pieces))]
    wide = "Q" if big else "L"
    tags[324 if tiled else 273] = (wide, offsets)
    tags[325 if tiled else 279] = (wide, [len(one) for one in pieces])
    directory = start + sum(map(len, pieces))
    mark = b"II" if order == "<" else b"MM"
    head = (
        struct.pack(f"{order}HHHQ", 43, 8, 0, directory) if big else struct.pack(f"{order}HL", 42, directory)
    )
    path.write_bytes(mark + head + b"".join(pieces) + _directory(tags, directory, order, big))


def _packed(block: np.ndarray[Any, Any], order: str, compression: str | None, predictor: bool) -> bytes:
    if predictor:
        whole = block.view(f"u{block.dtype.itemsize}")
        block = np.concatenate((whole[:, :1], whole[:, 1:] - whole[:, :-1]), axis=1)
    data = block.astype(block.dtype.newbyteorder(order)).tobytes()
    if compression == "deflate":
        return zlib.compress(data)
    if compression == "lzw":
        stream = io.BytesIO()
        Image.frombytes("L", (len(data), 1), data).save(stream, "TIFF", compression="tiff_lzw")
        with Image.open(stream) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            return stream.getvalue()[tags[273][0] : tags[273][0] + tags[279][0]]
    return data


def _directory(tags: dict[int, tuple[str, Sequence[int]]], start: int, order: str, big: bool) -> bytes:
    wide, count = ("Q", "Q") if big else ("L", "H")
    inline, entry = (8, 20) if big else (4, 12)
    size = struct.calcsize(f"{order}{count}") + entry * len(tags) + inline
    entries, far = [], b""
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(data) > inline:
            data, far = struct.pack(f"{order}{wide}", start + size + len(far)), far + data
        entries.append(
            struct.pack(f"{order}HH{wide}", tag, _CODES[kind], len(values)) + data.ljust(inline, b"\0")
        )
    return struct.pack(f"{order}{count}", len(tags)) + b"".join(entries) + bytes(inline) + far
