"""MATLAB files: what scipy writes is read as scipy reads it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from instancefcn.data.formats.sbd import read_struct

io = pytest.importorskip("scipy.io", reason="scipy writes the files")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_arrays_of_every_kind(tmp_path: Path, kind: str, packed: bool) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "Segmentation": random.integers(0, 100, (7, 5)).astype(kind),
        "Small": np.array([[3]], kind),
        "Row": np.arange(4, dtype=kind)[None],
        "Empty": np.zeros((0, 3), kind),
        "Deep": random.integers(0, 9, (2, 3, 4)).astype(kind),
    }
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.ones((2, 2)), "abc"
    others = {"Text": "abc", "Cells": cells, "Flags": np.array([[True]])}
    content = {"First": {"Segmentation": np.ones((2, 2))}, "GTinst": {**others, **arrays}}
    io.savemat(tmp_path / "a.mat", content, do_compression=packed)
    found = read_struct(tmp_path / "a.mat", "GTinst")
    expected = io.loadmat(tmp_path / "a.mat")["GTinst"][0, 0]
    assert set(arrays) <= set(found)
    for name in arrays:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype


def test_big_endian_files(tmp_path: Path) -> None:
    """A struct of one 2 x 2 array, written by hand."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    def array(class_: int, shape: tuple[int, int], name: bytes, rest: bytes) -> bytes:
        head = element(6, struct.pack(">II", class_, 0)) + element(5, struct.pack(">ii", *shape))
        return element(14, head + element(1, name) + rest)

    values = array(11, (2, 2), b"", element(4, struct.pack(">4H", 1, 2, 3, 400)))
    names = struct.pack(">HHi", 4, 5, 8) + element(1, b"Numbers\0")
    content = b" " * 124 + b"\x01\x00MI" + array(2, (1, 1), b"GTinst", names + values)
    (tmp_path / "a.mat").write_bytes(content)
    assert read_struct(tmp_path / "a.mat", "GTinst")["Numbers"].tolist() == [[1, 3], [2, 400]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "version 5"),
        (b"MATLAB 7.3" + bytes(200), "version 5"),
        (b" " * 124 + b"\0\x01IM", "GTinst"),
        (b" " * 124 + b"\0\x01IM" + struct.pack("<II", 15, 10**9), "truncated"),
        (b" " * 124 + b"\0\x01IM" + struct.pack("<II", 15, 4) + b"abcd", "Error -3"),
        (b" " * 124 + b"\0\x01IM" + struct.pack("<II", 14, 0), "header"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_struct(tmp_path / "a.mat", "GTinst")
