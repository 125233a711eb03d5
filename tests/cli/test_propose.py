from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fakes import save_coloured
from instancefcn.cli.main import app
from instancefcn.models import checkpoint, zoo
from tiny import tiny_proposals


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained InstanceFCN whose maps say "object" about everywhere."""
    torch.manual_seed(0)
    spec = tiny_proposals()
    network = zoo.build(spec)
    torch.nn.init.constant_(network.maps.bias, 1.0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    checkpoint.save_checkpoint(path, network.state_dict(), spec, network.classes)
    return path


def test_proposals_of_an_image(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [
        "propose",
        str(photos / "b.jpg"),
        "--model",
        str(model),
        "--out",
        str(out),
        "--top",
        "5",
        "--json",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "b.coco.json").read_text())
    assert len(found) == 5
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert {one["category_id"] for one in found} == {1}
    assert all(one["segmentation"]["size"] == [100, 200] for one in found)
    assert [c["name"] for c in json.loads((out / "predictions.json").read_text())["categories"]] == ["object"]
    with Image.open(out / "b.overlay.png") as overlay:
        assert overlay.size == (200, 100)
    assert [one["class"] for one in json.loads(result.stdout)["instances"]] == ["object"] * 5
    assert "5 objects in 1 of 1 images" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_a_name_that_is_not_text(model: Path, tmp_path: Path) -> None:
    name, out = os.fsdecode(b"B\xe4r"), tmp_path / "out"
    image = save_coloured(tmp_path / f"{name}.png")
    words = ["propose", str(image), "--model", str(model), "--out", str(out), "--top", "2", "--explain"]
    result = CliRunner().invoke(app, [*words, "--save", "overlay,coco,csv", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["file"] == str(image)
    assert len(json.loads((out / f"{name}.coco.json").read_text())) == 2
    assert (out / "explained" / f"{name}.png").is_file()
    assert (out / "objects.csv").read_text(encoding="utf-8").count("B\\udce4r.png") == 2


def test_unreadable_files_are_reported(model: Path, photos: Path, tmp_path: Path) -> None:
    words = ["propose", str(photos), "--model", str(model), "--out", str(tmp_path / "out"), "--top", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "2 objects in 2 of 4 images" in result.stderr
    assert result.stderr.count("error: ") == 2


def test_a_model_of_classes_is_refused(run: Callable[..., Any], photos: Path) -> None:
    result = run("propose", photos / "a.png", "--model", "fcis-animals7")
    assert result.exit_code == 2
    assert "error: fcis-animals7" in result.stderr
