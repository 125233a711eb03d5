"""Where a run begins: with the weights of a checkpoint, of a backbone, or with its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instancefcn.errors import ConfigError
from instancefcn.models import zoo
from instancefcn.models.checkpoint import save_checkpoint
from instancefcn.training.config import TrainConfig
from instancefcn.training.run import train
from instancefcn.training.setup import make_config, read_splits, start_from
from tiny import tiny_proposals, tiny_spec
from tiny_command import SETTINGS


@pytest.mark.parametrize(
    ("model", "start", "fits"),
    [
        ("tiny", "tiny", True),
        ("tiny", "other classes", True),
        ("tiny", "tiny_proposals", False),
        ("tiny_proposals", "tiny", False),
        ("tiny", "other backbone", False),
    ],
)
def test_a_checkpoint_of_another_backbone_is_no_start(model: str, start: str, fits: bool) -> None:
    specs: dict[str, zoo.AnySpec] = {"tiny": tiny_spec(), "tiny_proposals": tiny_proposals()}
    specs["other classes"] = specs["tiny"]
    specs["other backbone"] = replace(tiny_spec("test_resnet"), rpn_level=4)
    network = zoo.build(specs[model], 2)
    names = ("a", "b") if start == "other classes" else None
    given: Any = zoo.build(specs[start], 2, class_names=names)
    loaded: Any = SimpleNamespace(network=given, class_names=given.classes.names)
    before = next(iter(network.parameters())).clone()
    if fits:
        new = start_from(network, loaded)
        assert new == ([] if start == "tiny" else ["maps.scores.weight", "maps.scores.bias"])
        assert torch.equal(next(iter(network.parameters())), next(iter(given.parameters())))
    else:
        other = "the checkpoint is an InstanceFCN, this|the checkpoint is an FCIS, this model an InstanceFCN"
        with pytest.raises(ConfigError, match=rf"init: (\d+ of the \d+ tensors of the backbone|{other})"):
            start_from(network, loaded)
        assert torch.equal(next(iter(network.parameters())), before)


def scores_of(network: Any) -> tuple[torch.Tensor, torch.Tensor]:
    k, classes = network.head.k, len(network.classes.names) + 1
    weight, bias = network.maps.scores.weight, network.maps.scores.bias
    return weight.unflatten(0, (k, k, 2, classes)), bias.unflatten(0, (k, k, 2, classes))


def test_score_maps_go_with_their_classes() -> None:
    """The tiny network's classes are two of the checkpoint's three, in another order."""
    given = zoo.build(tiny_spec(), class_names=("cat", "dog", "bird"))
    torch.nn.init.normal_(given.maps.scores.bias)
    network = zoo.build(tiny_spec(), class_names=("bird", "cat"))
    loaded: Any = SimpleNamespace(network=given, class_names=given.classes.names)
    assert start_from(network, loaded) == []
    for own, theirs in zip(scores_of(network), scores_of(given), strict=True):
        assert torch.equal(own, theirs[:, :, :, [0, 3, 1]])


@pytest.mark.parametrize("changes", [{"joint": False}, {"k": 5}])
def test_maps_of_another_meaning_are_new(changes: dict[str, Any]) -> None:
    given = zoo.build(tiny_spec(), 2)
    network = zoo.build(tiny_spec(), 2, **changes)
    loaded: Any = SimpleNamespace(network=given, class_names=given.classes.names)
    assert {"maps.scores.weight", "maps.scores.bias"} <= set(start_from(network, loaded))


def test_a_bias_stays_with_its_filters() -> None:
    """The RPN's filters do not fit, its biases would."""
    given = zoo.build(tiny_spec(), 2)
    torch.nn.init.normal_(given.rpn.deltas.bias)
    state = given.state_dict()
    state["rpn.deltas.weight"] = torch.zeros(1)
    network = zoo.build(tiny_spec(), 2)
    before = network.rpn.deltas.bias.clone()
    other = SimpleNamespace(state_dict=lambda: state)
    loaded: Any = SimpleNamespace(network=given, class_names=given.classes.names)
    given.state_dict = other.state_dict
    assert {"rpn.deltas.weight", "rpn.deltas.bias"} == set(start_from(network, loaded))
    assert torch.equal(network.rpn.deltas.bias, before)


def test_small_sides_are_taken(tmp_path: Path) -> None:
    config = make_config(
        tmp_path / "run", False, {"data": "d", "out": "o", "short_side": 40, "long_side": 64}
    )
    assert config.train_short[0] == 32


def test_a_resumed_run_needs_no_weights_to_start_from(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(zoo.SPECS, "tiny", tiny_spec())
    start = tmp_path / "start.safetensors"
    network = zoo.build("tiny", class_names=("other",))
    save_checkpoint(start, network.state_dict(), tiny_spec(), network.classes)
    settings = {**SETTINGS, "train_short": (64, 64)}
    train(tiny_data, "tiny", out=tmp_path / "run", epochs=1, **{**settings, "init": str(start)})
    said = capsys.readouterr().err
    assert f"not in {start}, so new: maps.scores.weight, maps.scores.bias" in said
    start.unlink()
    train(tiny_data, out=tmp_path / "run", resume=True, epochs=2)
    assert "so new" not in capsys.readouterr().err


@pytest.mark.parametrize("side", ["short_side", "long_side"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, "wide"])
def test_sides_that_cannot_be_are_refused(tmp_path: Path, side: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"setting '{side}'"):
        make_config(tmp_path / "run", False, {"data": "d", "out": "o", side: value})


def test_a_model_that_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[\]"):
        make_config(tmp_path / "run", False, {"data": "d", "out": "o", "model": []})


def test_says_when_there_is_nothing_to_measure_on(shapes_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes_folder, tmp_path / "data")
    for measured in (True, False):
        config = TrainConfig(data=str(tmp_path / "data"), out=str(tmp_path / "out"))
        _, val, doubts = read_splits(config)
        assert (val is not None) is measured
        assert any("--val-share 0.2" in line for line in doubts) is not measured
        (tmp_path / "data" / "val.json").unlink(missing_ok=True)
