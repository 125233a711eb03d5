from __future__ import annotations

from pathlib import Path

import pytest

from instancefcn.bulk.storage import Folder
from instancefcn.errors import OutputError


@pytest.mark.parametrize("kind", ["path", "file", "memory"])
def test_files_come_and_go(tmp_path: Path, kind: str) -> None:
    uris = {"path": f"{tmp_path}/o", "file": f"file://{tmp_path}/o", "memory": f"memory://{tmp_path}/o"}
    folder = Folder(uris[kind])
    assert folder.names("below") == set()
    for content in (b"first", b"second"):
        folder.write("below/name", content)
        assert folder.read("below/name") == content
    assert folder.names("below") == {"name"}
    assert folder.exists("below/name")
    folder.delete("below/name")
    folder.delete("below/name")
    assert not folder.exists("below/name")


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another --out"):
        Folder(str(tmp_path / "file")).write("name", b"")
