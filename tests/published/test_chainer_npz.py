"""Reading Chainer's files: what numpy writes, and every way of being damaged."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from instancefcn.errors import CheckpointError
from instancefcn.published.chainer_npz import read_npz
from published_files import Arrays

ARRAYS: Arrays = {
    "extractor/conv1/conv/W": np.arange(24, dtype="f4").reshape(2, 3, 4),
    "rpn/score/b": np.array([1.5, -2.0], "f2"),
    "extractor/conv1/bn/N": np.array(3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def read(path: Path) -> Arrays:
    with read_npz(path) as stored:
        return {name: array.read() for name, array in stored.items()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_what_numpy_writes(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        for name, values in ARRAYS.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values)
    found = read(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)


def npy(values: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, **options)
    return buffer.getvalue()


def claims(shape: str, version: int = 1) -> bytes:
    """The header of an array of that shape, and no values."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + struct.pack("<BBH", version, 0, len(text)) + text.encode()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model/data.pkl": b"what torch writes"}, "'model/data.pkl'"),
        ({"a.npy": npy(np.array([object()]), allow_pickle=True)}, "'a'"),
        ({"a.npy": b"no array"}, r"a\.npz"),
        ({"a.npy": claims("(2,)", version=2)}, r"\(2, 0\)"),
        ({"a.npy": claims("(2,)")}, "'a.npy'.* 8 "),
        ({"a.npy": npy(np.ones(3)) + b"more"}, "'a.npy'.* 24 "),
        ({"a.npy": claims("(-1,)")}, r"a\.npz"),
        ({"a.npy": claims("('x',)")}, r"a\.npz"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_what_an_array_claims_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", claims("(1000000, 1000000, 1000000)"))
    with read_npz(path) as stored:
        assert stored["a"].shape == (10**6, 10**6, 10**6)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_or_changed_anywhere_is_refused(tmp_path: Path, compressed: bool) -> None:
    """The sums in a zip file notice every change of values."""
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **ARRAYS)
    whole = (tmp_path / "a.npz").read_bytes()
    path = tmp_path / "b.npz"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read(path)
    original = {name: values.tobytes() for name, values in read(tmp_path / "a.npz").items()}
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            found = read(path)
        except CheckpointError:
            continue
        # A byte of the date, or of the number of arrays: those that remain are right.
        assert {name: values.tobytes() for name, values in found.items()}.items() <= original.items()
