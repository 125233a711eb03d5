from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from instancefcn.cli.main import app

NAMES = ["deer", "fawns", "otter", "terrapins", "tiger", "turtle"]


def test_every_photograph_has_a_row_an_overlay_and_a_coco_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["demo", "--out", "shown"])
    assert result.exit_code == 0, result.output
    for name in NAMES:
        assert f"{name}.jpg" in result.stdout
        assert str(Path("shown") / f"{name}.overlay.png") in result.stdout
        assert (tmp_path / "shown" / f"{name}.overlay.png").is_file()
        assert (tmp_path / "shown" / f"{name}.coco.json").is_file()
    assert (tmp_path / "shown" / "terrapins.proposals.overlay.png").is_file()
    assert str(Path("shown") / "terrapins.proposals.overlay.png") in result.stdout
    assert "score" in result.stdout
    assert (tmp_path / "shown" / "predictions.json").is_file()
