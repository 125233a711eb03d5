from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instancefcn.errors import ConfigError
from instancefcn.studio.labelling import trainer as training
from instancefcn.studio.labelling.trainer import Trainer
from labelling import until

STAND_IN = '''
"""Writes what `instancefcn train` writes, without training."""
import json, signal, sys, time
from pathlib import Path
words = sys.argv[1:]
run = Path(words[words.index("--out") + 1])
run.mkdir()
(run / "words.json").write_text(json.dumps(words))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
rows = "step,epoch,seconds,learning_rate,loss,val/mask_AP", "1,0.5,2.0,0.1,3.5,", "2,1.0,4.0,0.1,2.5,0.25"
(run / "log.csv").write_text("".join(row + "\\n" for row in rows))
if "fail" in words:
    print("reading ..")
    sys.exit("error: train.json: annotation 3 is odd")
while "wait" in words:
    time.sleep(0.05)
(run / "best.safetensors").write_bytes(b"weights")
(run / "metrics.json").write_text('{"best_mask_AP": 0.25}')
'''


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Trainer, list[Path]]]:
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(training, "COMMAND", (sys.executable, str(script)))

    def start(*settings: str) -> tuple[Trainer, list[Path]]:
        ended: list[Path] = []
        trainer = Trainer(tmp_path / "set", tmp_path / "runs", ended.append, settings)
        trainer.start(5)
        return trainer, ended

    return start


def test_a_training_is_watched_to_its_end(start: Any, tmp_path: Path) -> None:
    trainer, ended = start("--set", "workers=0")
    until(lambda: trainer.progress().state == "done")
    until(lambda: ended == [tmp_path / "runs" / "run-1"])
    said = trainer.progress().as_json()
    assert (said["loss"], said["ap"], said["losses"]) == (2.5, 0.25, (3.5, 2.5))
    assert training.measured(ended[0]) == 0.25
    words = (ended[0] / "words.json").read_text()
    assert words.count("--minutes") == 1
    assert '"--minutes", "5"' in words
    assert '"--set", "workers=0"' in words
    # The next run has a folder of its own.
    trainer.start(1)
    until(lambda: len(ended) == 2)
    assert ended[1].name == "run-2"


def test_one_at_a_time_and_it_can_be_stopped(start: Any) -> None:
    trainer, ended = start("wait")
    until(lambda: trainer.progress().loss == 2.5)
    assert trainer.progress().state == "running"
    with pytest.raises(ConfigError):
        trainer.start(5)
    trainer.stop()
    until(lambda: trainer.progress().state == "stopped")
    assert ended == []
    trainer.close()


def test_what_a_failed_training_said_is_shown(start: Any) -> None:
    trainer, ended = start("fail")
    until(lambda: trainer.progress().state == "failed")
    assert trainer.progress().said == "error: train.json: annotation 3 is odd"
    assert ended == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_training_outlives_a_server_that_is_killed(start: Any, tmp_path: Path) -> None:
    first, _ = start("wait")
    until(lambda: first.progress().loss is not None)
    described = first.running()
    ended: list[Path] = []
    second = Trainer(tmp_path / "set", tmp_path / "runs", ended.append)
    second.adopt(described)
    said = second.progress()
    assert (said.state, said.loss, said.minutes) == ("running", 2.5, 5)
    with pytest.raises(ConfigError):
        second.start(1)
    first._process.send_signal(9)
    until(lambda: second.progress().state == "failed")
    # One that ended well in the meantime is taken over, weights and all.
    run = Path(described["run"])
    (run / "best.safetensors").write_bytes(b"weights")
    (run / "metrics.json").write_text("{}")
    third = Trainer(tmp_path / "set", tmp_path / "runs", ended.append)
    third.adopt(described)
    until(lambda: ended == [run])
    assert third.progress().state == "done"


def test_closing_ends_a_training(start: Any) -> None:
    trainer, _ = start("wait")
    until(lambda: trainer.progress().loss is not None)
    trainer.close()
    assert trainer.progress().state == "stopped"
