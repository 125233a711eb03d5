"""A run of minutes ends in time, with its schedule at the end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from instancefcn.errors import ConfigError
from instancefcn.training.budget import Budget
from instancefcn.training.interruption import Interrupted
from instancefcn.training.log import read_log
from runs import state, stop_at

Train = Callable[..., Path]


def test_the_total_follows_from_the_pace() -> None:
    """2 seconds a batch after a first one of 30; 10 seconds of evaluation lie in between."""
    budget = Budget(minutes=5)
    assert budget.total(0, spent=0.0) == 3
    assert budget.total(1, spent=30.0) == 3
    assert budget.total(2, spent=32.0) == 2 + 268 // 2
    budget.pause(10.0)
    budget.evaluation = 20.0
    assert budget.total(12, spent=62.0) == 12 + (300 - 62 - 20) // 2
    assert budget.total(130, spent=999.0) == 131, "a batch that is there is trained on"


def test_the_first_batch_of_a_resumed_run_is_left_out() -> None:
    budget = Budget(minutes=1, seen=100)
    assert budget.total(100, spent=20.0) == 103
    assert budget.total(101, spent=30.0) == 103
    assert budget.total(103, spent=34.0) == 103 + 26 // 2


@pytest.mark.usefixtures("curves")
def test_a_run_of_minutes_ends_in_time(tiny_train: Train, tmp_path: Path) -> None:
    run, started = tmp_path / "run", time.monotonic()
    tiny_train(run, minutes=5 / 60, evaluate_every=0)
    assert 4.0 < time.monotonic() - started < 7.5
    rows = [row for row in read_log(run / "log.csv") if "loss" in row]
    peak = max(row["learning_rate"] for row in rows)
    assert rows[-1]["learning_rate"] < 0.05 * peak
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == state(run)["step"] > 6
    assert metrics["final"] is not None
    with pytest.raises(ConfigError, match="minutes"):
        tiny_train(run, minutes=5 / 60, resume=True)


@pytest.mark.usefixtures("curves")
def test_a_stopped_run_of_minutes_spends_the_rest(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            tiny_train(run, minutes=4 / 60, evaluate_every=0)
    assert state(run)["seen"] == 9
    tiny_train(run, minutes=4 / 60, evaluate_every=0, resume=True)
    assert state(run)["seen"] > 9
    assert read_log(run / "log.csv")[-1]["seconds"] == pytest.approx(4.0, abs=1.0)
