from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from instancefcn.training import log as log_module
from instancefcn.training.log import RunLog, plot_curves, read_log, smooth


class Clock:
    """Stands for `time`: a second passes with every look at it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "time", Clock())


def test_rows_with_new_columns_and_a_resumed_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with log.writing():
        log.add(1, 0.5, {"learning_rate": 0.1, "loss": 3.0})
        log.add(2, 1.0, {"learning_rate": 0.2, "loss": 2.0})
        log.add(2, 1.0, {"val/mask_AP": 0.25})
        log.add(3, 1.5, {"learning_rate": 0.2, "loss": 1.0})
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "step,epoch,seconds,learning_rate,loss,val/mask_AP",
        "1,0.5,1.0,0.1,3.0,",
        "2,1.0,2.0,0.2,2.0,",
        "2,1.0,3.0,,,0.25",
        "3,1.5,4.0,0.2,1.0,",
    ]
    # The checkpoint was taken in step 2: what came later is lived again.
    resumed = RunLog(tmp_path, step=2, epoch=1.0)
    assert [row["step"] for row in resumed.rows] == [1, 2, 2]
    assert len(read_log(tmp_path / "log.csv")) == 4  # it may yet be refused
    with resumed.writing():
        assert read_log(tmp_path / "log.csv") == resumed.rows
        assert resumed.seconds == 4.0


def test_a_row_holds_the_means_since_the_last_one(tmp_path: Path) -> None:
    """A resumed run continues the sums that were saved."""
    log = RunLog(tmp_path)
    log.gather({"class": 1.0, "loss": 3.0})
    resumed = RunLog(tmp_path, unfinished=log.unfinished)
    with resumed.writing():
        resumed.gather({"class": 2.0, "loss": 7.0})
        resumed.add_means(2, 1.0, 0.1)
        resumed.gather({"class": 0.25, "loss": 0.5})
        resumed.add_means(3, 1.5, 0.2)
    columns = ("learning_rate", "class", "loss")
    rows = [[row[name] for name in columns] for row in read_log(tmp_path / "log.csv")]
    assert rows == [[0.1, 1.5, 5.0], [0.2, 0.25, 0.5]]


def test_batches_of_one_step_are_told_apart(tmp_path: Path) -> None:
    """Four batches make a step: what came after the checkpoint has its step, too."""
    log = RunLog(tmp_path)
    with log.writing():
        for batch in range(1, 8):
            log.add(batch // 4, batch / 6, {"loss": 1.0})
    resumed = RunLog(tmp_path, step=1, epoch=4 / 6)
    assert [row["seconds"] for row in resumed.rows] == [1, 2, 3, 4]


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with log.writing():
        log.add(1, 0.5, {"loss": 3.0})
    second = RunLog(tmp_path)
    assert second.rows == []
    with second.writing():
        assert read_log(tmp_path / "log.csv") == []


def test_curves(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [
        {
            "step": s,
            "epoch": s / 10,
            "seconds": 2.0 * s,
            "learning_rate": 0.1,
            "loss": 1 / s,
            "class": 0.5 / s,
        }
        for s in range(1, 20)
    ]
    rows.append({"step": 19, "epoch": 1.9, "seconds": 40, "val/mask_AP": 0.3, "val/box_AP": 0.4})
    plot_curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as plot:
        assert plot.width > 1000
    plot_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_smoothing_starts_without_bias() -> None:
    assert smooth([4.0, 4.0, 4.0]) == pytest.approx([4.0] * 3)
    assert smooth([1.0, 2.0], share=0.5) == pytest.approx([1.0, (0.5 * 0.5 * 1 + 0.5 * 2) / 0.75])
