"""`instancefcn eval`: the figures are printed even when files cannot be written."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes import ColourNetwork, save_coloured
from instancefcn.errors import ImageError
from instancefcn.evaluation import run as evaluation
from instancefcn.evaluation.run import NotWritten, evaluate

Run = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An image with a red and a green object."""
    save_coloured(tmp_path / "data" / "images" / "1.png")
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "bbox": [x, y, w, h],
            "area": w * h,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for number, (x, y, w, h) in enumerate([(20, 10, 30, 20), (90, 40, 30, 30)], 1)
    ]
    document = {
        "images": [{"id": 1, "file_name": "1.png", "width": 120, "height": 80}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
    }
    (tmp_path / "data" / "val.json").write_text(json.dumps(document))
    return tmp_path / "data"


@pytest.fixture
def command(run: Run, data: Path) -> Run:
    return lambda *words: run("eval", data, "--model", "any", *words)


def test_figures_and_files(command: Run, tmp_path: Path) -> None:
    result = command("--json", "figures.json", "--out", "report")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[0] == "mask"
    assert result.stdout.endswith(" report\n")
    assert json.loads(Path("figures.json").read_text()) == json.loads(Path("report/metrics.json").read_text())


def test_a_wrong_place_shows_before_the_work(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(ColourNetwork, "forward", lambda *args, **kwargs: calls.append(args))
    (tmp_path / "file").write_text("mine")
    result = command("--out", "file")
    assert result.exit_code == 2
    assert "error: file: " in result.stderr
    (tmp_path / "folder").mkdir()
    assert command("--json", "folder").exit_code == 2
    assert calls == []


def fail(monkeypatch: pytest.MonkeyPatch, function: str, error: Exception) -> None:
    def failing(*args: object) -> None:
        raise error

    monkeypatch.setattr(evaluation, function, failing)


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (
            "write_json",
            OSError(errno.ENOSPC, "No space left on device", "a.json"),
            "a.json",
        ),
        ("plot_recall", OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        ("write_review", ImageError("1.png: is gone"), "1.png: is gone"),
    ],
)
def test_the_figures_are_printed_when_the_files_cannot_be_written(
    command: Run, monkeypatch: pytest.MonkeyPatch, function: str, error: Exception, said: str
) -> None:
    fail(monkeypatch, function, error)
    result = command("--json", "figures.json", "--out", "report")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split()[0] == "mask"
    assert "Curves" not in result.stdout
    assert "error: " in result.stderr
    assert said in result.stderr
    assert "images" in json.loads(Path("figures.json").read_text())


def test_the_figures_are_printed_when_they_cannot_be_written_as_json(command: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = command("--json", "file/figures.json", "--out", "report")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split()[0] == "mask"
    assert "--json" in result.stderr
    assert Path("report/metrics.json").is_file()


def test_the_error_has_the_figures(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "plot_recall", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(NotWritten) as caught:
        evaluate(data, "any", out=tmp_path / "report")
    assert caught.value.metrics == json.loads((tmp_path / "report" / "metrics.json").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_the_folder_may_have_any_name(command: Run, tmp_path: Path) -> None:
    result = command("--out", os.fsdecode(b"B\xe4r"))
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(" B\\udce4r\n")
