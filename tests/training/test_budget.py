"""A run of minutes ends in time, with its schedule at the end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from instancefcn.errors import ConfigError
from instancefcn.training.budget import Budget
from instancefcn.training.interruption import Interrupted
from instancefcn.training.log import read_log
from instancefcn.training.loop import Run
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


def test_an_evaluation_takes_at_most_a_quarter_of_the_minutes() -> None:
    budget = Budget(minutes=2)
    assert budget.share() == 1.0
    budget.evaluation = 30.0
    assert budget.share() == 1.0
    budget.evaluation = 90.0
    assert budget.share() == pytest.approx(1 / 3)
    budget.total(0, spent=0.0)
    budget.total(1, spent=10.0)
    assert budget.total(11, spent=20.0) == 11 + (120 - 20 - 30)


def test_the_first_batch_of_a_resumed_run_is_left_out() -> None:
    budget = Budget(minutes=1, seen=100)
    assert budget.total(100, spent=20.0) == 103
    assert budget.total(101, spent=30.0) == 103
    assert budget.total(103, spent=34.0) == 103 + 26 // 2


def slow_machine(self: Run) -> float:
    """A batch takes a second, an evaluation five."""
    return self.seen + 5.0 * (self.budget is not None and self.budget.evaluation is not None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_five(self: Run, budget: Budget) -> None:
        budget.evaluation = 5.0
        budget.pause(5.0)

    monkeypatch.setattr(Run, "spent", slow_machine)
    monkeypatch.setattr(Run, "_time_evaluation", take_five)


@pytest.mark.usefixtures("clock")
def test_a_run_of_minutes_ends_in_time(tiny_train: Train, tmp_path: Path) -> None:
    """60 seconds: two evaluations of 5, one to time it and the last one, and 50 batches of 1 second."""
    run = tmp_path / "run"
    tiny_train(run, minutes=1, evaluate_every=0)
    assert state(run)["seen"] == 50
    rows = [row for row in read_log(run / "log.csv") if "loss" in row]
    assert rows[-1]["learning_rate"] == pytest.approx(
        0.01 * max(row["learning_rate"] for row in rows), rel=0.1
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 50
    assert metrics["final"] is not None
    with pytest.raises(ConfigError, match="minutes"):
        tiny_train(run, minutes=1, resume=True)


@pytest.mark.usefixtures("clock")
def test_a_stopped_run_of_minutes_spends_the_rest(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            tiny_train(run, minutes=1, evaluate_every=0)
    assert state(run)["seen"] == 9
    tiny_train(run, minutes=1, evaluate_every=0, resume=True)
    assert state(run)["seen"] == 50


def test_a_large_val_is_measured_in_part(
    tiny_train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluating all of val would take 30 of 60 seconds; 15 are allowed."""
    monkeypatch.setattr(Run, "spent", lambda self: float(self.seen))
    monkeypatch.setattr(Run, "_time_evaluation", lambda self, budget: setattr(budget, "evaluation", 30.0))
    run = tmp_path / "run"
    tiny_train(run, minutes=1, evaluate_every=0)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["images"] == 1
    assert "1 of the 2 images" in capsys.readouterr().err
