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


def change(data: Path, **fields: Any) -> None:
    """Change val's first annotation, and add a broken image."""
    content = json.loads((data / "val.json").read_text())
    content["annotations"][0] |= fields
    content["images"].append({"id": 2, "file_name": "2.png", "width": 120, "height": 80})
    (data / "images" / "2.png").write_bytes(b"no image")
    (data / "val.json").write_text(json.dumps(content))


def test_bad_data_is_refused_or_skipped(command: Run, data: Path) -> None:
    change(data, segmentation=[])
    refused = command()
    assert refused.exit_code == 2
    assert f"instancefcn check {data} --fix COPY" in refused.stderr
    result = command("--skip-bad", "--json", "figures.json", "--out", "report")
    assert result.exit_code == 0, result.output
    figures = json.loads(Path("figures.json").read_text())
    assert (figures["skipped"], figures["images"]) == (2, 1)
    assert "red" not in figures["per_class"]  # its only object is an ignored region
    assert figures["per_class"]["green"]["mask"]["AP50"] == 1
    skipped = json.loads(Path("report/skipped.json").read_text())
    assert [row["check"] for row in skipped] == ["outline", "unreadable-image"]
    assert all(row["message"] in result.stderr for row in skipped)


def test_crowds_are_named_and_can_be_objects(command: Run, data: Path) -> None:
    change(data, iscrowd=1, segmentation=[[20, 10, 50, 10, 50, 30, 40, 30, 20, 30]])
    (data / "images" / "2.png").write_bytes((data / "images" / "1.png").read_bytes())
    result = command("--json", "figures.json")
    assert "warning: crowd: " in result.stderr
    assert "--crowds-as-objects" in result.stderr
    assert set(json.loads(Path("figures.json").read_text())["per_class"]) == {"green"}
    command("--json", "figures.json", "--crowds-as-objects")
    assert set(json.loads(Path("figures.json").read_text())["per_class"]) == {"green", "red"}
