from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instancefcn.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError
from instancefcn.models import zoo
from instancefcn.training.interruption import Interrupted
from instancefcn.training.log import read_log
from runs import PowerFailure, assert_same_run, fail_at, state, stop_at
from tiny_network import TinyNetwork

Train = Callable[..., Path]


@pytest.mark.usefixtures("curves")
def test_a_run_leaves_everything_it_promises(tiny_train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    best = tiny_train(run, sheets_every=1, evaluate_every=1)
    assert best == run / "best.safetensors"
    assert {path.name for path in run.iterdir()} >= {
        "config.json",
        "last.ckpt",
        "last.safetensors",
        "best.safetensors",
        "log.csv",
        "curves.png",
        "metrics.json",
    }
    assert sorted(path.name for path in (run / "sheets").iterdir()) == ["epoch_001.png", "epoch_002.png"]
    rows = read_log(run / "log.csv")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows if "val/mask_AP" in row] == [1, 2]
    for row in rows:
        if "loss" in row:
            assert row["loss"] == pytest.approx(row["count"] + row["size"], abs=2e-6)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert metrics["final"]["mask"]["AP"] == 0.0
    assert metrics["best"] is not None
    assert not list(run.glob(".*")), "a temporary file was left behind"


@pytest.mark.parametrize(
    ("number", "step", "accumulate"),
    [
        (signal.SIGTERM, 3, 1),  # at the end of the first epoch
        (signal.SIGTERM, 5, 1),  # within the second
        (signal.SIGINT, 4, 1),
        (signal.SIGTERM, 3, 2),  # between two batches of one step: the step is finished first
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(
    tiny_train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    step: int,
    accumulate: int,
) -> None:
    """6 images in batches of 2: an epoch is 3 batches."""
    tiny_train(tmp_path / "whole", epochs=3, accumulate=accumulate)
    with monkeypatch.context() as patch:
        stop_at(patch, step, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=r"--resume") as caught:
            tiny_train(tmp_path / "parts", epochs=3, accumulate=accumulate)
    assert caught.value.signal == number
    assert state(tmp_path / "parts")["step"] == -(-step // accumulate)
    tiny_train(tmp_path / "parts", epochs=3, accumulate=accumulate, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    steps = [[row["step"] for row in read_log(tmp_path / name / "log.csv")] for name in ("whole", "parts")]
    assert steps[0] == steps[1]
    losses = [
        [row.get("loss") for row in read_log(tmp_path / name / "log.csv")] for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("stopped", [False, True])
def test_signals_do_their_usual_work_after_a_run(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    def own(number: int, frame: object) -> None: ...

    before = {number: signal.signal(number, own) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if stopped:
            stop_at(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted) if stopped else contextlib.nullcontext():
            tiny_train(tmp_path / "run", epochs=1)
        assert [signal.getsignal(number) for number in before] == [own, own]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_two_interrupts_stop_at_once(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run = tmp_path / "my run"
    for step, said in ((2, "Nothing was saved yet: start the run"), (5, "resume it with: ")):
        with monkeypatch.context() as patch:
            stop_at(patch, step, twice)
            with pytest.raises(Interrupted, match=f"^stopped at once. .*{said}") as caught:
                tiny_train(run, epochs=3)
        assert caught.value.signal == signal.SIGINT
        assert "stopping after this step; Ctrl-C stops at once" in capfd.readouterr().err
    assert f"--out '{run}' --resume" in str(caught.value)
    assert state(run)["step"] == 3


def test_a_killed_run_resumes_to_the_same_bits(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be saved when the power fails: the run resumes from the end of the first epoch."""

    tiny_train(tmp_path / "whole", optimizer="adamw", evaluate_every=1)
    with monkeypatch.context() as patch:
        fail_at(patch, 5)
        with pytest.raises(PowerFailure):
            tiny_train(tmp_path / "parts", optimizer="adamw", evaluate_every=1)
    assert state(tmp_path / "parts")["step"] == 3
    tiny_train(tmp_path / "parts", optimizer="adamw", evaluate_every=1, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_progress_is_shown(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("instancefcn.console.EVERY", 0.0)
    tiny_train(tmp_path / "run")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("training: ")]
    assert [line.split(",")[0] for line in lines] == [f"training: {batch}/6" for batch in range(1, 7)]
    losses = [row["loss"] for row in read_log(tmp_path / "run" / "log.csv") if "loss" in row]
    notes = [f"epoch {i / 3:.2f}, loss {loss:.3f}, learning rate" for i, loss in enumerate(losses, 1)]
    assert [note for note, line in zip(notes, lines, strict=True) if note in line] == notes


def test_reading_processes_change_nothing(tiny_train: Train, tmp_path: Path) -> None:
    tiny_train(tmp_path / "none", workers=0)
    tiny_train(tmp_path / "two", workers=2)
    assert_same_run(tmp_path / "none", tmp_path / "two")


def test_a_finished_run_resumes_with_more_epochs(tiny_train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_train(run, epochs=1)
    with pytest.raises(ConfigError, match="is finished"):
        tiny_train(run, epochs=1, resume=True)
    tiny_train(run, epochs=3, resume=True)
    assert state(run)["step"] == 9
    assert [row["epoch"] for row in read_log(run / "log.csv") if "val/mask_AP" in row] == [1, 3]


def test_what_is_refused_leaves_no_trace(tiny_train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_train(run, epochs=1)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(ConfigError, match="is finished"):
        tiny_train(run, epochs=1, resume=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_resumes_with_the_network_it_began_with(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another release may know a model of the same name, whose weights have the same shapes."""
    run = tmp_path / "run"
    tiny_train(run, "fcis_lite", epochs=1)
    spec = zoo.FCIS_LITE
    other = replace(
        spec, anchors=replace(spec.anchors, scales=(1, 2, 3, 4, 5)), head=replace(spec.head, mask_weight=1.0)
    )
    with monkeypatch.context() as patch:
        patch.setitem(zoo.SPECS, spec.name, other)
        with pytest.raises(CheckpointError, match="a run of another network") as caught:
            tiny_train(run, epochs=2, resume=True)
    assert "anchors.scales was [2.0, 4.0, 8.0, 16.0, 24.0] and is [1.0, 2.0" in str(caught.value)
    assert "head.mask_weight was 10.0 and is 1.0" in str(caught.value)
    tiny_train(run, epochs=2, resume=True)


def test_a_killed_run_logs_no_batch_twice(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when several batches make a step, so that they share its number."""

    settings = {"epochs": 4, "accumulate": 3, "save_every_minutes": 1e-9}
    tiny_train(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        fail_at(patch, 6)
        with pytest.raises(PowerFailure):
            tiny_train(tmp_path / "parts", **settings)
    tiny_train(tmp_path / "parts", resume=True, **settings)
    epochs = [[row["epoch"] for row in read_log(tmp_path / name / "log.csv")] for name in ("whole", "parts")]
    assert epochs[0] == epochs[1]


def test_a_run_does_not_end_behind_where_it_stands(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rate would never be lowered. What was refused leaves no trace."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            tiny_train(run, epochs=9)
    before = (run / "config.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"has done 1\.333 of its 9 epochs and cannot end after 1: give more"
    ):
        tiny_train(run, epochs=1, resume=True)
    assert (run / "config.json").read_bytes() == before
    assert not (run / "metrics.json").exists()
    tiny_train(run, epochs=2, resume=True)
    with pytest.raises(ConfigError, match="has done 2 of its 2 epochs"):
        tiny_train(run, epochs=1, resume=True)
    assert json.loads((run / "config.json").read_text())["epochs"] == 2


def test_saves_between_epochs_by_the_clock(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 3)
    with pytest.raises(PowerFailure):
        tiny_train(tmp_path / "run", save_every_minutes=1e-9)
    assert state(tmp_path / "run")["step"] == 2


def test_a_loss_that_is_not_finite_names_the_images_and_spares_the_checkpoint(
    tiny_train: Train, tmp_path: Path, networks: list[TinyNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_at(monkeypatch, 4, lambda: setattr(networks[-1], "poison_at", networks[-1].steps + 1))
    with pytest.raises(TrainingError, match="a loss is not finite in step 3") as caught:
        tiny_train(run)
    message = str(caught.value)
    assert "count = nan" in message
    assert "size = 0." in message
    assert message.count("images/train_000") == 2
    saved = state(run)
    assert saved["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in saved["network"].values())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched(
    tiny_train: Train, tmp_path: Path, networks: list[TinyNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TinyNetwork.forward

    def infinite_slope(self: TinyNetwork, *args: Any, **kwargs: Any) -> Any:
        losses = forward(self, *args, **kwargs)
        if self.training:
            losses["slope"] = (self.body[0].bias * 0).sum().sqrt()  # 0, with an undefined gradient
        return losses

    monkeypatch.setattr(TinyNetwork, "forward", infinite_slope)
    with pytest.raises(TrainingError, match="the gradient is not finite in step 0"):
        tiny_train(tmp_path / "run")
    assert all(bool(torch.isfinite(parameter).all()) for parameter in networks[-1].parameters())
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.fixture
def half_precision(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of float16, which is meant for GPUs, on the CPU."""
    monkeypatch.setattr("instancefcn.training.setup.choose_device", lambda *_: torch.device("cpu"))
    return {"precision": "16-mixed", "epochs": 3}


def test_half_precision_resumes_to_the_same_bits(
    tiny_train: Train, tmp_path: Path, half_precision: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_train(tmp_path / "whole", **half_precision)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            tiny_train(tmp_path / "parts", **half_precision)
    tiny_train(tmp_path / "parts", resume=True, **half_precision)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    scalers = [state(tmp_path / name)["scaler"] for name in ("whole", "parts")]
    assert scalers[0] == scalers[1] == {**scalers[0], "_growth_tracker": 9}


def test_an_overflow_in_half_precision_skips_the_step(
    tiny_train: Train, tmp_path: Path, half_precision: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And halves the scale; the run continues."""
    forward, seen = TinyNetwork.forward, list[torch.Tensor]()

    def overflowing(self: TinyNetwork, *args: Any, **kwargs: Any) -> Any:
        losses = forward(self, *args, **kwargs)
        if self.training:
            seen.append(self.body[0].weight.detach().clone())
            if self.steps == 4:
                losses["slope"] = (self.body[0].bias * 0).sum().sqrt()  # 0, with an undefined gradient
        return losses

    monkeypatch.setattr(TinyNetwork, "forward", overflowing)
    tiny_train(tmp_path / "run", **half_precision)
    assert [torch.equal(seen[i], seen[i + 1]) for i in range(8)] == [i == 3 for i in range(8)]
    saved = state(tmp_path / "run")
    assert saved["step"] == 9
    assert saved["scaler"]["scale"] == 2.0**15
    assert all(bool(torch.isfinite(value).all()) for value in saved["network"].values())


def test_early_stop(tiny_train: Train, tmp_path: Path) -> None:
    """The tiny network finds nothing: its AP stays 0, epochs 2 and 3 are in vain, 3 trained longest."""
    tiny_train(tmp_path / "run", epochs=8, patience=2, evaluate_every=1)
    assert state(tmp_path / "run")["step"] == 9
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["best_epoch"] == 3


def test_early_stop_waits_for_the_step(tiny_train: Train, tmp_path: Path) -> None:
    """Three batches an epoch, four a step: after epoch 2 the gradients of two batches are in the air."""
    tiny_train(tmp_path / "run", epochs=8, patience=1, evaluate_every=1, accumulate=4)
    assert state(tmp_path / "run")["seen"] == 8


def test_without_a_val_split_the_last_weights_count(
    tiny_train: Train, tmp_path: Path, tiny_data: Path
) -> None:
    data = tmp_path / "data.yaml"
    data.write_text(f"train: {{annotations: {tiny_data / 'train.json'}, images: {tiny_data / 'images'}}}\n")
    assert tiny_train(tmp_path / "run", data=data, epochs=1) == tmp_path / "run" / "last.safetensors"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["final"] is None


def test_a_val_split_without_objects_judges_nothing(tiny_train: Train, tmp_path: Path) -> None:
    from instancefcn.data.synthetic import write_shapes

    data = write_shapes(tmp_path / "data", train=2, val=2, size=64)
    content = json.loads((data / "val.json").read_text())
    (data / "val.json").write_text(json.dumps(content | {"annotations": []}))
    assert tiny_train(tmp_path / "run", data=data, epochs=1) == tmp_path / "run" / "last.safetensors"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best_epoch"] is None
    assert metrics["final"]["mask"]["AP"] is None


def test_the_average_is_what_is_exported(tiny_train: Train, tmp_path: Path) -> None:
    tiny_train(tmp_path / "on", epochs=1)
    tiny_train(tmp_path / "off", epochs=1, ema_decay=0)
    on, off = state(tmp_path / "on"), state(tmp_path / "off")
    assert off["average"] is None
    name = "body.0.weight"
    assert torch.equal(load_file(tmp_path / "on" / "last.safetensors")[name], on["average"][f"module.{name}"])
    assert torch.equal(load_file(tmp_path / "off" / "last.safetensors")[name], off["network"][name])
    assert not torch.equal(on["average"][f"module.{name}"], on["network"][name])


def test_a_folder_with_a_run_is_not_overwritten(tiny_train: Train, tmp_path: Path) -> None:
    tiny_train(tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="already holds a run"):
        tiny_train(tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="seed was 0 and is now 1"):
        tiny_train(tmp_path / "run", epochs=2, seed=1, resume=True)
    (tmp_path / "run" / "last.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"holds the best\.safetensors of a run that cannot be resumed"):
        tiny_train(tmp_path / "run", epochs=1)


def test_a_run_whose_folder_was_moved_resumes(tiny_train: Train, tmp_path: Path) -> None:
    tiny_train(tmp_path / "whole", epochs=2)
    tiny_train(tmp_path / "run", epochs=1)
    (tmp_path / "run").rename(tmp_path / "moved")
    tiny_train(tmp_path / "moved", epochs=2, resume=True)
    assert (tmp_path / "moved" / "config.json").read_text().count(str(tmp_path / "moved")) == 1


def test_resume_needs_a_sound_checkpoint(tiny_train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="is missing"):
        tiny_train(run, resume=True)
    tiny_train(run, epochs=1)
    for content in (b"", b"PK\x03\x04 nonsense", (run / "last.ckpt").read_bytes()[:2000]):
        (run / "last.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            tiny_train(run, epochs=2, resume=True)
    torch.save({"step": 3, "network": {}}, run / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"seen, rate, model, .* --set init="):
        tiny_train(run, epochs=2, resume=True)
    (run / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match="nothing to resume"):
        tiny_train(run, epochs=2, resume=True)


def test_a_checkpoint_with_code_in_it_is_refused(tiny_train: Train, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    run = tmp_path / "run"
    tiny_train(run, epochs=1)
    torch.save({"loops": Evil()}, run / "last.ckpt")
    with pytest.raises(CheckpointError, match="damaged"):
        tiny_train(run, epochs=2, resume=True)
    assert not (tmp_path / "ran").exists()


def test_every_problem_of_both_splits_is_listed_before_anything_starts(
    tiny_train: Train, tmp_path: Path, networks: list[TinyNetwork]
) -> None:
    from instancefcn.data.synthetic import write_shapes

    data = write_shapes(tmp_path / "data", train=3, val=2, size=64)
    (data / "images" / "train_0001.png").unlink()
    path = data / "val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        tiny_train(tmp_path / "run", data=data)
    assert len(caught.value.problems) == 2
    assert "train_0001.png" in str(caught.value)
    assert "99" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert networks == []


def test_images_without_objects_train(tiny_train: Train, tmp_path: Path) -> None:
    from instancefcn.data.synthetic import write_shapes

    data = write_shapes(tmp_path / "data", train=4, val=1, size=64)
    path = data / "train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 1]
    path.write_text(json.dumps(content))
    tiny_train(tmp_path / "run", data=data, epochs=1)
    content["annotations"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="data/train"):
        tiny_train(tmp_path / "empty", data=data, epochs=1)


def test_a_changed_test_size_changes_the_training_size_in_proportion() -> None:
    from instancefcn.training.setup import make_config

    places = {"data": "d", "out": "o"}
    usual = make_config(Path("none"), False, places)
    half = make_config(Path("none"), False, {**places, "short_side": usual.short_side // 2})
    assert half.train_short == tuple(round(side / 2) for side in usual.train_short)
    own = make_config(Path("none"), False, {**places, "short_side": 100, "train_short": [90, 110]})
    assert own.train_short == (90, 110)
    places["model"] = "instancefcn_lite"  # which draws from a list, the levels of its pyramid
    usual = make_config(Path("none"), False, places)
    third = make_config(Path("none"), False, {**places, "short_side": 300, "long_side": 500})
    assert third.train_sides == tuple(max(32, round(side / 3)) for side in usual.train_sides)
    assert make_config(Path("none"), False, {**places, "train_short": [200, 300]}).train_sides == ()


def test_a_run_resumes_on_data_that_moved(
    tiny_train: Train, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same bits; and on other data not at all."""
    whole = tmp_path / "whole"
    tiny_train(whole, epochs=2)
    run, moved = tmp_path / "run", tmp_path / "scratch" / "data"
    with monkeypatch.context() as patch:
        stop_at(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            tiny_train(run, epochs=2)
    shutil.copytree(tiny_data, moved)
    tiny_train(run, epochs=2, data=moved, resume=True)
    assert_same_run(whole, run)
    assert json.loads((run / "config.json").read_text())["data"] == str(moved)
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    image = sorted((other / "images").iterdir())[0]
    image.write_bytes(image.read_bytes() + b"more")
    with pytest.raises(DataError, match=image.name):
        tiny_train(run, epochs=3, data=other, resume=True)


def test_two_runs_in_one_folder(tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused at once, while the first continues."""
    run, refused = tmp_path / "run", []

    def second() -> None:
        with pytest.raises(OutputError, match=f"process {os.getpid()} on") as caught:
            tiny_train(run)
        refused.append(caught.value)

    stop_at(monkeypatch, 2, second)
    tiny_train(run, epochs=1)
    stop_at(monkeypatch, 2, second)  # when there is a run to resume
    tiny_train(run, epochs=2, resume=True)
    assert [error.code for error in refused] == ["output", "output"]
    assert state(run)["seen"] == 6
    assert not list(run.glob(".*"))
