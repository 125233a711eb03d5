from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_network import TinyNetwork

Run = Callable[..., Any]
TINY = (
    "--set=workers=0",
    "--set=short_side=64",
    "--set=long_side=64",
    "--set=accelerator=cpu",
    "--set=sheets_every=0",
    "--set=batch_size=2",
)


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from instancefcn.models import zoo
    from instancefcn.models.head import Classes

    def build(spec: object, *, class_names: Any, category_ids: Any, **ignored: object) -> TinyNetwork:
        torch.manual_seed(5)
        return TinyNetwork(Classes(tuple(class_names), tuple(category_ids)))

    monkeypatch.setattr(zoo, "build", build)


def test_trains_and_prints_the_best_weights(run: Run, shapes_folder: Path) -> None:
    result = run("train", shapes_folder, "--out", "run", "--epochs", 2, *TINY)
    assert result.exit_code == 0, result.output
    assert result.stdout == "run/best.safetensors\n"
    assert "starting: fcis_lite" in result.stderr
    assert "epoch 2: mask AP 0.000" in result.stderr


def test_other_formats_are_recognised(run: Run, shapes_folder: Path) -> None:
    assert run("convert", shapes_folder, "yolo", "--to", "yolo").exit_code == 0
    result = run("train", "yolo", "--out", "run", "--epochs", 1, *TINY)
    assert result.exit_code == 0, result.output
    assert "yolo: YOLO segmentation (data.yaml); splits: train, val\n" in result.stderr
    assert "epoch 1: mask AP 0.000" in result.stderr


def test_json_then_resume(run: Run, shapes_folder: Path) -> None:
    result = run("train", shapes_folder, "--out", "run", "--epochs", 1, "--json", *TINY)
    outcome = json.loads(result.stdout)
    assert outcome["checkpoint"] == "run/best.safetensors"
    assert outcome["steps"] == 2
    again = run("train", shapes_folder, "--out", "run", "--epochs", 2, "--resume", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["steps"] == 4


def test_data_errors_are_listed_all_at_once(run: Run, tmp_path: Path) -> None:
    from instancefcn.data.synthetic import write_shapes

    data = write_shapes(tmp_path / "data", train=3, val=1, size=64)
    (data / "images" / "train_0000.png").unlink()
    (data / "images" / "val_0000.png").write_bytes(b"text")
    content = json.loads((data / "train.json").read_text())
    content["annotations"][1]["category_id"] = 4
    content["annotations"][2]["id"] = content["annotations"][0]["id"]
    (data / "train.json").write_text(json.dumps(content))
    result = run("train", data, "--out", "run", *TINY)
    assert result.exit_code == 2
    assert "error: 4 problems in the data:" in result.stderr
    for part in ("train_0000.png", "val_0000.png", "category_id 4", "annotation 1"):
        assert part in result.stderr, part
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "epoch=3"], "unknown setting 'epoch'; did you mean 'epochs'?"),
        (["--set", "augment.flp=0"], "unknown setting 'augment.flp'; did you mean 'augment.flip'?"),
        (["--set", "epochs"], "not of the form key=value"),
        (["--set", "model=fcis_resnet50"], "--model"),
        (["--model", "fcis_light"], "fcis_lite"),
        (["--model", "fcis-animals7"], "--set init=fcis-animals7"),
        (["--resume"], "is missing"),
    ],
)
def test_wrong_use_ends_with_status_2(run: Run, shapes_folder: Path, words: list[str], message: str) -> None:
    result = run("train", shapes_folder, "--out", "run", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("run").exists()


def test_a_signal_ends_with_its_status_and_says_how_to_resume(
    run: Run, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    forward = TinyNetwork.forward

    def stop(self: TinyNetwork, *args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(TinyNetwork, "forward", stop)
    result = run("train", shapes_folder, "--out", "run", "--epochs", 2, *TINY)
    assert result.exit_code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after batch 1 of 4" in result.stderr
    assert "--resume" in result.stderr
    assert Path("run/last.ckpt").is_file()
