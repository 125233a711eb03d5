from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_network import TinyNetwork

Run = Callable[..., Any]
TINY = (
    "--set=init=null",
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
    assert "starting: fcis_wide" in result.stderr
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


@pytest.fixture
def bad_data(shapes_folder: Path, tmp_path: Path) -> Path:
    """An object of train without an outline, in each of two images; one of val's images is broken."""
    folder = Path(shutil.copytree(shapes_folder, tmp_path / "bad"))
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][0]["segmentation"] = []
    content["annotations"][-1] |= {"segmentation": [], "bbox": None}
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "images" / "val_0000.png").write_bytes(b"no image")
    return folder


def test_bad_data_is_refused_with_two_ways_on(run: Run, bad_data: Path) -> None:
    result = run("train", bad_data, "--out", "run", "--epochs", 1, *TINY)
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert ["--fix COPY" in last, "--skip-bad" in last] == [True, True]
    assert not Path("run").exists()


def test_bad_data_is_skipped_listed_and_saved(run: Run, bad_data: Path) -> None:
    result = run("train", bad_data, "--out", "run", "--epochs", 1, "--skip-bad", *TINY)
    assert result.exit_code == 0, result.output
    skipped = json.loads(Path("run/skipped.json").read_text())
    assert [(row["check"], row["split"]) for row in skipped] == [
        ("outline", "train"),
        ("outline", "train"),
        ("unreadable-image", "val"),
    ]
    assert "3 problems" in result.stderr
    assert all(row["message"] in result.stderr for row in skipped)
    assert json.loads(Path("run/config.json").read_text())["skip_bad"] is True
    images = {name: split["images"] for name, split in json.loads(Path("run/data.json").read_text()).items()}
    assert {name: len(found) for name, found in images.items()} == {"train": 3, "val": 1}
    again = run("train", bad_data, "--out", "run", "--epochs", 2, "--resume")
    assert again.exit_code == 0, again.output


def test_crowds_are_named_and_can_be_objects(run: Run, shapes_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shapes_folder, tmp_path / "brushed"))
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        for annotation in content["annotations"][::2]:
            annotation["iscrowd"] = 1
        (folder / f"{split}.json").write_text(json.dumps(content))
    result = run("train", folder, "--out", "run", "--epochs", 1, *TINY)
    assert "warning: crowd: " in result.stderr
    assert "iscrowd" in result.stderr
    assert "--crowds-as-objects" in result.stderr
    result = run("train", folder, "--out", "other", "--epochs", 1, "--crowds-as-objects", *TINY)
    assert result.exit_code == 0, result.output
    assert "crowd:" not in result.stderr
    assert json.loads(Path("other/config.json").read_text())["crowds_as_objects"] is True


def test_notes_that_change_the_training_are_said(run: Run, shapes_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shapes_folder, tmp_path / "data"))
    train, val = (json.loads((folder / f"{split}.json").read_text()) for split in ("train", "val"))
    empty = train["images"][0]["id"]
    train["annotations"] = [a for a in train["annotations"] if a["image_id"] != empty]
    val["images"], val["annotations"] = val["images"][:1], []
    for split, content in (("train", train), ("val", val)):
        (folder / f"{split}.json").write_text(json.dumps(content))
    result = run("train", folder, "--out", "run", "--epochs", 1, *TINY)
    assert result.exit_code == 0, result.output
    for start in (
        "note: empty-image: data/train",
        "note: single-image: data/val",
        "warning: no-objects: data/val",
    ):
        assert start in result.stderr
