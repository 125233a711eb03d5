from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instancefcn.cli.train import parse_assignments
from instancefcn.errors import ConfigError
from instancefcn.settings import nest
from instancefcn.training.config import (
    TrainConfig,
    load_config,
    resolve,
    resume_config,
)

PLACES = {"data": "images", "out": "run"}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("epoch", "epochs"),
        ("learning_rat", "learning_rate"),
        ("lerning_rate", "learning_rate"),
        ("augment.flp", "augment.flip"),
        ("flip", "augment.flip"),
        ("augment.color", "augment.colour"),
        ("batchsize", "batch_size"),
        ("lr", "learning_rate"),
        ("imgsz", "short_side"),
    ],
)
def test_unknown_key_suggests_the_nearest(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{key}'; did you mean '{meant}'"):
        resolve({**PLACES, key: 1})


def test_a_key_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'xyzzy_qq'; known are model, data, out, seed"):
        resolve({**PLACES, "xyzzy_qq": 1})


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({**PLACES, "epochs": 0, "optimizer": "adam", "sed": 3})
    for part in ("'epochs' = 0", "'optimizer' = 'adam'", "'sed'; did you mean 'seed'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_short": (500, 400)},
        {"train_sides": (16, 400)},
        {"train_sides": (400, 1200)},
        {"train_short": (100, 900), "train_long": 800},
        {"milestones": [1.5]},
        {"learning_rate": float("nan")},
        {"ema_decay": 1.0},
        {"out": ""},
        {"seed": 2**32},
        {"epochs": True},
        {"minutes": 0},
        {"anchor_sides": (0,)},
        {"anchor_ratios": (1, -2)},
        {"window": -1},
        {"k": True},
        {"train_short": (True, 400)},
        {"augment": {"flip": False}},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        resolve({**PLACES, **wrong})


def test_the_user_wins_over_the_model_over_the_defaults() -> None:
    config = resolve({**PLACES, "epochs": 3}, {"epochs": 7, "batch_size": 9, "augment.flip": 0.0})
    assert (config.epochs, config.batch_size, config.augment.flip) == (3, 9, 0.0)
    assert config.augment.colour == TrainConfig(**PLACES).augment.colour


def test_assignments_are_json_or_text() -> None:
    said = [
        "epochs=3",
        "augment.flip=0",
        "schedule=step",
        "milestones=[0.5, 0.8]",
        "pretrained=False",
        "init=a=b",
    ]
    assert parse_assignments(said) == {
        "epochs": 3,
        "augment": {"flip": 0},
        "schedule": "step",
        "milestones": [0.5, 0.8],
        "pretrained": False,
        "init": "a=b",
    }


@pytest.mark.parametrize("said", ["epochs", "=3", ""])
def test_assignments_need_a_key_and_an_equals_sign(said: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments([said])


def test_dotted_and_nested_keys_meet() -> None:
    assert nest({"a.b": 1, "a": {"c": 2}, "a.d.e": 3}) == {"a": {"b": 1, "c": 2, "d": {"e": 3}}}


@settings(deadline=None)
@given(
    epochs=st.integers(1, 1000),
    rate=st.floats(1e-8, 10),
    flip=st.floats(0, 1),
    milestones=st.lists(st.floats(0.01, 0.99), max_size=3),
    pretrained=st.one_of(st.booleans(), st.just("weights/backbone.safetensors")),
)
def test_json_round_trip(
    epochs: int, rate: float, flip: float, milestones: list[float], pretrained: bool | str
) -> None:
    config = resolve(
        {
            **PLACES,
            "epochs": epochs,
            "learning_rate": rate,
            "augment": {"flip": flip},
            "milestones": milestones,
            "pretrained": pretrained,
        }
    )
    assert resolve(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_file_round_trip_and_its_errors(tmp_path: Path) -> None:
    config, path = resolve({**PLACES, "train_short": (300, 400)}), tmp_path / "config.json"
    config.save(path)
    assert load_config(path) == config
    path.write_text(path.read_text().replace('"epochs"', '"epoch"'))
    with pytest.raises(ConfigError, match=r"config.json: unknown setting 'epoch'; did you mean 'epochs'"):
        load_config(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        load_config(path)
    with pytest.raises(ConfigError, match="is missing"):
        load_config(tmp_path / "none.json")


def test_learning_rate_is_linear_in_the_effective_batch() -> None:
    base = {**PLACES, "learning_rate": 0.02}
    assert resolve({**base, "batch_size": 16}).scaled_learning_rate == pytest.approx(0.02)
    assert resolve({**base, "batch_size": 4}).scaled_learning_rate == pytest.approx(0.005)
    eight = resolve({**base, "batch_size": 2, "accumulate": 3, "devices": 8})
    assert eight.effective_batch == 48
    assert eight.scaled_learning_rate == pytest.approx(0.06)


def test_a_precision_may_be_given_as_a_number() -> None:
    assert resolve({**PLACES, **parse_assignments(["precision=32"])}).precision == "32"
    with pytest.raises(ConfigError, match="'precision' = '16'"):
        resolve({**PLACES, "precision": 16})


def test_a_resumed_run_may_change_its_length_but_not_its_nature() -> None:
    saved = resolve({**PLACES, "seed": 4, "learning_rate": 0.003})
    assert resume_config(saved, {**PLACES, "epochs": 99}) == saved.model_copy(update={"epochs": 99})
    assert resume_config(saved, {"out": "moved"}) == saved.model_copy(update={"out": "moved"})
    with pytest.raises(ConfigError, match=r"seed was 4 and is now 5; augment was") as caught:
        resume_config(saved, {"seed": 5, "augment.flip": 0.1})
    assert "epochs" in str(caught.value)
    with pytest.raises(ConfigError, match="unknown setting 'sed'; did you mean 'seed'"):
        resume_config(saved, {"sed": 4})


def test_a_resumed_run_may_share_its_batches_out_anew() -> None:
    saved = resolve({"data": "d", "out": "o", "batch_size": 2, "devices": 4, "accumulate": 3})
    assert saved.effective_batch == 24
    fewer = resume_config(saved, {"batch_size": 8, "devices": 1})
    assert fewer.effective_batch == 24
    assert fewer.scaled_learning_rate == saved.scaled_learning_rate
    assert resume_config(saved, {"batch_size": 1, "nodes": 2}).nodes == 2
    with pytest.raises(ConfigError, match=r"batches of 8 images .* Give batch_size=4"):
        resume_config(saved, {"devices": 2})
    with pytest.raises(ConfigError, match="cannot be shared out over 3 devices"):
        resume_config(saved, {"devices": 3})
    with pytest.raises(ConfigError, match="accumulate was 3 and is now 6"):
        resume_config(saved, {"batch_size": 2, "accumulate": 6})
