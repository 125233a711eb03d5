from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fakes import FakeLoaded, save_coloured


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run `instancefcn ...` in an empty folder; every model is the one that knows red and green."""
    from instancefcn.cli.main import app
    from instancefcn.published import checkpoint

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # help and tables are not wrapped
    monkeypatch.setattr(checkpoint, "load_any_checkpoint", lambda source: FakeLoaded())
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, and two unreadable files with the names of images."""
    folder = tmp_path / "photos"
    save_coloured(folder / "a.png")
    save_coloured(folder / "b.jpg", 200, 100)
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:500])
    (folder / "text.png").write_text("not an image")
    return folder
