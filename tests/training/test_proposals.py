"""InstanceFCN through the same training as FCIS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import instancefcn
from instancefcn.errors import ConfigError
from instancefcn.models import checkpoint, zoo
from instancefcn.training.log import read_log
from instancefcn.training.loop import train
from tiny import tiny_proposals


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo.SPECS, "tiny", tiny_proposals())


@pytest.mark.usefixtures("tiny_model")
def test_train_resume_evaluate(tiny_data: Path, tmp_path: Path) -> None:
    """Classes do not matter: the data has three, the model one."""
    settings = {
        "epochs": 1,
        "batch_size": 2,
        "workers": 0,
        "pretrained": False,
        "accelerator": "cpu",
        "optimizer": "adamw",
        "train_sides": (64, 96, 144),
        "train_long": 192,
        "evaluate_every": 1,
    }
    train(tiny_data, "tiny", out=tmp_path / "run", **settings)
    best = train(tiny_data, out=tmp_path / "run", resume=True, epochs=2)
    loaded = checkpoint.load_checkpoint(best)
    assert loaded.class_names == ("object",)
    assert loaded.metadata["model"]["kind"] == "instance_fcn"
    summary = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert summary["best_AR@100"] == summary["best"]["proposals"]["AR@100"], "not chosen by precision"
    assert "val/AR@100" in read_log(tmp_path / "run" / "log.csv")[-1]
    metrics = summary["final"]
    assert metrics["per_class"].keys() == {"object"}
    assert 0 <= metrics["proposals"]["AR@10"] <= metrics["proposals"]["AR@1000"] <= 1
    measured = instancefcn.evaluate(tiny_data, best)
    assert measured["proposals"]["AR@1000"] == pytest.approx(
        json.loads((tmp_path / "run" / "metrics.json").read_text())["best"]["proposals"]["AR@1000"], abs=0.02
    )


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sampling": "ohem"}, "settings of FCIS"),
        ({"joint": False}, "settings of FCIS"),
        ({"mask_weight": 3}, "settings of FCIS"),
        ({"k": 0}, "k"),
    ],
)
def test_settings_of_fcis_are_refused(
    tiny_data: Path, tmp_path: Path, setting: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_data, "tiny", out=tmp_path / "run", pretrained=False, workers=0, **setting)
