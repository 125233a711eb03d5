from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instancefcn.errors import ExportError
from instancefcn.export import check

Run = Callable[..., Any]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Instead of tracing a network: what was asked for, and a file."""
    import instancefcn.export as module

    asked: list[dict[str, Any]] = []

    def fake(predictor: Any, path: Path, form: str, **settings: Any) -> list[check.Row]:
        asked.append({"path": str(path), "form": form, "names": predictor.class_names, **settings})
        path.write_bytes(bytes(2_500_000))
        row = check.Row("deer.jpg", (512, 683), 4, 0, 0, 2e-6, 0.002, 3e-6, 0.961, 0.25, 0.5)
        return [row, check.Row("noise", (64, 80), 0, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.1, 0.1)]

    monkeypatch.setattr(module, "export", fake)
    return asked


def test_a_table_and_the_size_of_the_file(run: Run, written: list[dict[str, Any]], tmp_path: Path) -> None:
    result = run("export", "colours", "--dynamic", "--instances", 20)
    assert result.exit_code == 0, result.output
    assert written == [
        {
            "path": "colours.onnx",
            "form": "onnx",
            "names": ("red", "green"),
            "dynamic": True,
            "dynamic_batch": False,
            "instances": 20,
        }
    ]
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["image", "size", "objects"]
    assert " ".join(lines[1].split()) == "deer.jpg 683 x 512 4 4 2e-06 0.002 3e-06 0.96 0.25 0.50"
    assert lines[-1] == "colours.onnx: 2.5 MB; agrees with PyTorch on 2 images"
    assert len({len(line) for line in lines[:3]}) == 1
    assert "tracing colours" in result.stderr


def test_the_file_is_named_after_the_model(run: Run, written: list[dict[str, Any]]) -> None:
    for words in (["runs/a/best.safetensors", "--format", "torch-export"], ["runs/birds"]):
        assert run("export", *words).exit_code == 0
    assert [asked["path"] for asked in written] == ["best.pt2", "birds.onnx"]
    assert [(asked["dynamic"], asked["instances"]) for asked in written] == [(False, None)] * 2


def test_the_whole_name_of_a_run_counts(run: Run, written: list[dict[str, Any]], tmp_path: Path) -> None:
    for folder in ("lr0.01", "lr0.02"):
        (tmp_path / folder).mkdir()
        assert run("export", folder).exit_code == 0
    assert [asked["path"] for asked in written] == ["lr0.01.onnx", "lr0.02.onnx"]


def test_a_difference_ends_with_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import instancefcn.export as module

    def fails(*words: Any, **settings: Any) -> None:
        raise ExportError("the file does not give the network's results and is not kept:\n  deer.jpg: no")

    monkeypatch.setattr(module, "export", fails)
    result = run("export", "colours")
    assert result.exit_code == 2
    assert "error: the file does not give the network's results" in result.stderr
    assert "Traceback" not in result.output
    assert not list(Path().iterdir())


@pytest.mark.parametrize("words", [["colours", "--format", "tflite"], ["colours", "--instances", 0], []])
def test_wrong_use(run: Run, written: list[dict[str, Any]], words: list[Any]) -> None:
    assert run("export", *words).exit_code == 2
    assert not written
