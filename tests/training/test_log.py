from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from instancefcn.training.log import RunLog, plot_curves, read_log, smooth
from instancefcn.training.progress import duration


def test_rows_with_new_columns_and_a_resumed_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.begin()
    log.add(1, 0.5, 2.0, {"learning_rate": 0.1, "loss": 3.0})
    log.add(2, 1.0, 4.0, {"learning_rate": 0.2, "loss": 2.0})
    log.add(2, 1.0, 5.0, {"val/mask_AP": 0.25})
    log.add(3, 1.5, 7.0, {"learning_rate": 0.2, "loss": 1.0})
    log.close()
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "step,epoch,seconds,learning_rate,loss,val/mask_AP",
        "1,0.5,2.0,0.1,3.0,",
        "2,1.0,4.0,0.2,2.0,",
        "2,1.0,5.0,,,0.25",
        "3,1.5,7.0,0.2,1.0,",
    ]
    # The checkpoint was taken in step 2: what came later is lived again.
    resumed = RunLog(tmp_path, step=2, epoch=1.0)
    assert [row["step"] for row in resumed.rows] == [1, 2, 2]
    assert resumed.seconds_before == 5.0
    assert len(read_log(tmp_path / "log.csv")) == 4  # it may yet be refused
    resumed.begin()
    resumed.close()
    assert read_log(tmp_path / "log.csv") == resumed.rows


def test_batches_of_one_step_are_told_apart(tmp_path: Path) -> None:
    """Four batches make a step: what came after the checkpoint has its step, too."""
    log = RunLog(tmp_path)
    log.begin()
    for batch in range(1, 8):
        log.add(batch // 4, batch / 6, 1.0 * batch, {"loss": 1.0})
    log.close()
    resumed = RunLog(tmp_path, step=1, epoch=4 / 6)
    assert [row["seconds"] for row in resumed.rows] == [1, 2, 3, 4]


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.begin()
    log.add(1, 0.5, 2.0, {"loss": 3.0})
    second = RunLog(tmp_path)
    assert second.rows == []
    second.begin()
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


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3661, "1:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
