"""What a run is made of: its settings, its data, the weights it starts from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.errors import ConfigError
from instancefcn.models import zoo
from instancefcn.models.checkpoint import save_checkpoint, spec_to_json
from instancefcn.training.config import TrainConfig
from instancefcn.training.loop import train
from instancefcn.training.setup import doubts, make_config, network_spec, read_splits, spec_for
from tiny import tiny_spec
from tiny_command import SETTINGS


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
        splits, report = read_splits(config)
        assert report is not None
        assert ("val" in splits) is measured
        assert any("--val-share 0.2" in line for line in doubts(report)) is not measured
        (tmp_path / "data" / "val.json").unlink(missing_ok=True)


def crowded(shapes: Path, objects: int) -> Dataset:
    """The validation split, with so many copies of an object in its second image."""
    split = open_dataset(shapes, "val")
    first, second = split.images
    crowd = replace(first.annotations[0], crowd=True)
    return replace(
        split, images=(first, replace(second, annotations=(crowd, *second.annotations[:1] * objects)))
    )


def test_a_model_has_room_for_the_objects_of_its_data(
    shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(data=str(shapes_folder), out="o", short_side=512, long_side=853)
    few, many = crowded(shapes_folder, 80), crowded(shapes_folder, 96)
    assert (few.most_objects, many.most_objects) == (80, 96)
    assert spec_for(config, {"train": few}, None) == network_spec(config)
    roomy = spec_for(config, {"train": few, "val": many}, None)
    assert isinstance(roomy, zoo.ModelSpec)
    assert roomy.head.instances == 120
    assert (roomy.rpn.before_nms, roomy.rpn.after_nms) == (1200, 360)
    # A resumed run keeps its room, also one that began with less.
    assert spec_for(config, {"train": few}, spec_to_json(roomy)) == roomy
    assert spec_for(config, {"train": many}, spec_to_json(network_spec(config))) == network_spec(config)
    proposals = TrainConfig(model="instancefcn_lite", data=str(shapes_folder), out="o")
    assert spec_for(proposals, {"train": many}, None) == network_spec(proposals)
