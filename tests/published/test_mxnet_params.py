"""Reading MXNet's files: every version, and every way of being damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instancefcn.errors import CheckpointError
from instancefcn.published.mxnet_params import read_params
from published_files import Arrays, params_array, write_params

ARRAYS: Arrays = {
    "arg:conv_weight": np.arange(24, dtype="f4").reshape(2, 3, 4),
    "arg:conv_bias": np.array([1.5, -2.0], "f2"),
    "aux:norm_moving_mean": np.array([0.25], "f8"),
    "arg:steps": np.array([7, 8], "i8"),
}


def read(path: Path) -> Arrays:
    with read_params(path) as stored:
        return {name: array.read() for name, array in stored.items()}


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_version_of_the_format(tmp_path: Path, version: int) -> None:
    found = read(write_params(tmp_path / "a.params", ARRAYS, version, device=(2, 1)))
    assert list(found) == list(ARRAYS)
    for name, values in ARRAYS.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_bytes_of_one_array(tmp_path: Path) -> None:
    """Written out: the number of the format, a reserved zero, one array of version 2, one name."""
    text = (
        "1201000000000000" "0000000000000000" "0100000000000000"
        "c9fa93f9" "00000000" "02000000" "0100000000000000" "0200000000000000"
        "01000000" "00000000" "00000000" "0000803f" "000000c0"
        "0100000000000000" "0500000000000000" "6172673a78"
    )  # fmt: skip
    path = tmp_path / "a.params"
    path.write_bytes(bytes.fromhex(text))
    found = read(path)
    assert list(found) == ["arg:x"]
    assert found["arg:x"].tolist() == [[1.0, -2.0]]


def test_an_array_without_dimensions_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.params"
    none = struct.pack("<IiI", 0xF993FAC9, 0, 0)
    one = params_array(np.ones(1, "f4"))
    names = struct.pack("<QQ1sQ1s", 2, 1, b"a", 1, b"b")
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 2) + none + one + names)
    assert list(read(path)) == ["b"]


def of_one(array: bytes, count: int = 1, names: bytes = struct.pack("<QQ1s", 1, 1, b"a")) -> bytes:
    return struct.pack("<QQQ", 0x112, 0, count) + array + names


def header(dimensions: int, *sides: int, kind: int = 0, mark: int = 0xF993FAC9, storage: int = 0) -> bytes:
    head = struct.pack("<Iii", mark, storage, dimensions) + struct.pack(f"<{len(sides)}q", *sides)
    return head + struct.pack("<iii", 1, 0, kind)


ONE = params_array(np.ones(1, "f4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 and so on", "0x112"),
        (struct.pack("<QQQ", 0x112, 5, 0), "byte 16"),
        (struct.pack("<QQQ", 0x112, 0, 10**12), "1000000000000"),
        (of_one(header(2, 2**40, 2**40)), str(2**82)),
        (of_one(header(1, -1)), r"\(-1,\)"),
        (of_one(header(99)), " 99 "),
        (of_one(header(1, 1, kind=9)), "type 9"),
        (of_one(header(1, 1, storage=1)), "storage 1"),
        (of_one(ONE, names=struct.pack("<Q", 0)), " 0 "),
        (of_one(ONE, names=struct.pack("<QQ1s", 1, 2**60, b"a")), str(2**60)),
        (of_one(ONE, names=struct.pack("<QQ1s", 1, 1, b"\xff")), "name 0"),
        (of_one(ONE) + b"more", "4 bytes"),
        (of_one(ONE + ONE, 2, struct.pack("<QQ1sQ1s", 2, 1, b"a", 1, b"a")), "same name"),
    ],
)
def test_what_is_damaged_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.params"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_params(tmp_path / "a.params", ARRAYS).read_bytes()
    cut = tmp_path / "cut.params"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read(cut)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_changes_values(tmp_path: Path, position: int, value: int) -> None:
    """Never another error, nor more memory than the file has."""
    content = bytearray(write_params(tmp_path / "a.params", ARRAYS).read_bytes())
    content[position % len(content)] = value
    path = tmp_path / "changed.params"
    path.write_bytes(content)
    try:
        found = read(path)
    except CheckpointError:
        return
    assert sum(array.nbytes for array in found.values()) <= len(content)
