"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path

import pytest

from instancefcn.errors import OutputError
from instancefcn.files import (
    atomic_write,
    check_output_file,
    check_output_folder,
    link_or_copy,
    new_folder,
    remove_leftovers,
    writable,
    write_json,
)


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "image.png"
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == path.parent
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
    (tmp_path / "b.txt").write_text("b")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1]


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None], "b": "ü"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": [1, 2.5, None], "b": "ü"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_nan_and_infinity(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as temporary:
        (temporary / "one").write_text("1")
        assert not out.exists()
    assert (out / "one").read_text() == "1"


def test_a_folder_is_removed_on_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as temporary:
            (temporary / "one").write_text("1")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_link_or_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").write_text("1")
    (tmp_path / "pointer").symlink_to(tmp_path / "real")
    link_or_copy(tmp_path / "pointer", tmp_path / "linked")
    assert (tmp_path / "linked").samefile(tmp_path / "real")
    assert not (tmp_path / "linked").is_symlink()

    def no_links(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.link", no_links)
    link_or_copy(tmp_path / "real", tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "1"
    assert not (tmp_path / "copied").samefile(tmp_path / "real")


def test_only_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.b.png") as temporary:
        temporary.write_text("half")
        left = tmp_path / temporary.name
        content = left.read_bytes()
    left.write_bytes(content)
    kept = [
        tmp_path / name for name in ("a.b.png", ".hidden.png", ".a-0123456789ab.png", "a-0123456789ab~.png")
    ]
    for path in kept:
        path.write_text("mine")
    assert remove_leftovers(tmp_path) == [left]
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert remove_leftovers(tmp_path / "nowhere") == []


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    def fail() -> None:
        with writable(), atomic_write(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"a\.txt: .*No space left on device"):
        fail()


def test_an_error_names_the_option_that_chose_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def fail() -> None:
        with writable("--json"):
            write_json(tmp_path / "file" / "a.json", {})

    with pytest.raises(OutputError, match="--json"):
        fail()


def test_a_file_is_checked_before_it_is_made(tmp_path: Path) -> None:
    check_output_file(tmp_path / "new" / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"")
    check_output_file(tmp_path / "a.onnx")
    with pytest.raises(OutputError, match=re.escape(str(tmp_path))):
        check_output_file(tmp_path)
    with pytest.raises(OutputError, match=r"a\.onnx"):
        check_output_file(tmp_path / "a.onnx" / "b.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_folder_is_checked_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output_folder(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for name in ("file", "file/deeper"):
        with pytest.raises(OutputError, match=re.escape(str(tmp_path / name))):
            check_output_folder(tmp_path / name)
    # Root may write anywhere, so missing permission is simulated.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OutputError, match="new"):
        check_output_folder(tmp_path / "new")
