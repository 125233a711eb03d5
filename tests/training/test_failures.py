"""A run whose disk, data or process fails: what it says, what is left, and how it resumes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instancefcn.data.synthetic import write_shapes
from instancefcn.errors import ConfigError, DataError, OutputError, TrainingError
from instancefcn.files import atomic_write
from instancefcn.training.log import read_log
from runs import assert_same_run, state, stop_at

Train = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """6 train and 2 val images of 64 px, to be spoiled."""
    return write_shapes(tmp_path / "data", train=6, val=2, size=64, seed=1)


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str, after: int = 0) -> None:
    """From the `after`-th writing of the file on, there is no room for it."""
    opened, written = os.open, [0]

    def full(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path).name.startswith(f".{Path(name).stem}-"):
            written[0] += 1
            if written[0] > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr("os.open", full)


@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors", "metrics.json"])
def test_a_full_disk_keeps_the_run_as_it_was(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run, settings = tmp_path / "run", {"epochs": 3, "evaluate_every": 1, "ema_decay": 0.5}
    tiny_train(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        # last.safetensors and last.ckpt begin alike.
        fill_disk(patch, name, after={"last.ckpt": 3, "best.safetensors": 0, "metrics.json": 0}[name])
        with pytest.raises(TrainingError, match=rf"run/{name}: cannot be written \(No space left") as caught:
            tiny_train(run, **settings)
    saved = (run / "last.ckpt").is_file()
    assert ("--resume" in str(caught.value)) == saved
    assert saved == (name != "best.safetensors")
    assert not list(run.glob(".*"))
    tiny_train(run, resume=saved, **settings)
    assert_same_run(tmp_path / "whole", run)
    assert json.loads((run / "metrics.json").read_text())["steps"] == 9


@pytest.mark.parametrize("left", [0, 8000])
def test_a_disk_that_really_is_full(
    tiny_train: Train,
    disk: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left: int,
) -> None:
    """Whatever is written next finds no room: the log, TensorBoard's events, a checkpoint."""
    place = disk("1m")
    run, ballast, settings = place / "run", place / "ballast", {"epochs": 3, "evaluate_every": 1}
    tiny_train(tmp_path / "whole", **settings)

    def fill() -> None:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(ballast, max(0, ballast.stat().st_size - left))

    with monkeypatch.context() as patch:
        stop_at(patch, 5, fill)
        with pytest.raises(TrainingError, match=r"cannot be written \(No space left on device\)") as caught:
            tiny_train(run, **settings)
    assert "last.ckpt holds the run as it was last saved" in str(caught.value)
    assert state(run)["step"] == 3
    ballast.unlink()
    tiny_train(run, resume=True, **settings)
    assert_same_run(tmp_path / "whole", run)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_is_named_and_the_run_resumes_when_it_is_back(
    tiny_train: Train, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    settings = {"data": data, "epochs": 6, "workers": workers}
    tiny_train(tmp_path / "whole", **settings)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 4, lambda: (data / "images").rename(tmp_path / "away"))
        with pytest.raises(DataError, match=r"images/train_000\d\.png: cannot be read") as caught:
            tiny_train(run, **settings)
    assert "Traceback" not in str(caught.value)
    assert "changed during the run. last.ckpt holds the run" in str(caught.value)
    assert state(run)["step"] >= 3
    with pytest.raises(DataError, match="problems in the data"):
        tiny_train(run, resume=True, **settings)
    (tmp_path / "away").rename(data / "images")
    tiny_train(run, resume=True, **settings)
    assert_same_run(tmp_path / "whole", run)


def test_a_val_image_that_vanishes(
    tiny_train: Train, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 4, (data / "images" / "val_0001.png").unlink)
    with pytest.raises(DataError, match=r"val_0001\.png: cannot be read .*\n.*last\.ckpt holds the run"):
        tiny_train(tmp_path / "run", data=data, evaluate_every=2)
    assert state(tmp_path / "run")["step"] == 3


def test_a_resumed_run_refuses_other_annotations(tiny_train: Train, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_train(run, data=data, epochs=1)
    before = (run / "last.ckpt").read_bytes()
    content = json.loads((data / "train.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    shutil.copy(data / "train.json", data / "kept.txt")
    (data / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"train: 1 of 6 images changed .*train_0000\.png"):
        tiny_train(run, data=data, epochs=2, resume=True)
    assert (run / "last.ckpt").read_bytes() == before
    assert json.loads((run / "config.json").read_text())["epochs"] == 1
    shutil.copy(data / "kept.txt", data / "train.json")
    tiny_train(run, data=data, epochs=2, resume=True)


def test_a_place_that_cannot_be_written_shows_before_the_data_are_read(
    tiny_train: Train, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/run: cannot be written \(.*file is a file\)"):
        tiny_train(tmp_path / "file" / "run", data=tmp_path / "no such data")


def test_a_run_that_was_killed_before_it_summed_up(tiny_train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    best = tiny_train(run)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / ".metrics-0123456789ab~.json").write_bytes(b"half")
    for damage in ((run / "metrics.json").unlink, lambda: (run / "metrics.json").write_text('{"steps": 3}')):
        damage()
        assert tiny_train(run, resume=True) == best
        again = json.loads((run / "metrics.json").read_text())
        assert {**again, "seconds": 0} == {**metrics, "seconds": 0}
        assert not list(run.glob(".*"))
        with pytest.raises(ConfigError, match="is finished"):
            tiny_train(run, resume=True)


def test_a_run_that_stopped_early_stays_stopped(tiny_train: Train, tmp_path: Path) -> None:
    """Also when it was killed right after the checkpoint that knows of it."""
    run, settings = tmp_path / "run", {"epochs": 8, "evaluate_every": 1}
    tiny_train(run, patience=2, **settings)
    with pytest.raises(ConfigError, match=r"did not rise in 2 evaluations\. Give more patience"):
        tiny_train(run, patience=2, resume=True, **settings)
    (run / "metrics.json").unlink()
    tiny_train(run, patience=2, resume=True, **settings)
    assert json.loads((run / "metrics.json").read_text())["steps"] == state(run)["step"] == 9
    tiny_train(run, patience=4, resume=True, **settings)
    assert state(run)["step"] == 15


def test_what_a_killed_run_left_is_taken_away(tiny_train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_train(run, epochs=1)
    with atomic_write(run / "last.ckpt") as temporary:
        left = run / temporary.name
        shutil.copy(run / "last.ckpt", tmp_path / "half")
    shutil.move(tmp_path / "half", left)
    shutil.copy(left, run / "last.ckpt")
    tiny_train(run, epochs=2, resume=True)
    assert not list(run.glob(".*"))


def test_a_checkpoint_does_not_pass_through_another_folder(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))
    tiny_train(tmp_path / "run", epochs=1)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == 3


def test_a_row_of_the_log_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,epoch,seconds\r\n10,0.5,1.5\r\n20,1.0,2.0\r\n1")
    assert read_log(path) == [
        {"step": 10.0, "epoch": 0.5, "seconds": 1.5},
        {"step": 20.0, "epoch": 1.0, "seconds": 2.0},
    ]
    path.write_bytes(b"ste")
    assert read_log(path) == []
