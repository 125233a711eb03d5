"""The command under torchrun, and with children of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from instancefcn.data.synthetic import write_shapes

pytestmark = pytest.mark.distributed
TESTS = Path(__file__).parents[1]
COMMAND = TESTS / "tiny_command.py"
SETTINGS = ("--model=tiny", "--set=batch_size=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data"), train=4, val=3, size=96)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *sys.path]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_torchrun(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from torch.distributed.run import main

    words = ("train", data, "--out", tmp_path / "run", "--epochs=1", *SETTINGS)
    main(["--standalone", "--nproc-per-node=2", str(COMMAND), *map(str, words)])
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'run' / 'best.safetensors'}\n"
    assert err.count("batches of 1 x 2 on cpu") == 1
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2


def test_two_devices_stop_together_when_the_first_process_is_asked_to(data: Path, tmp_path: Path) -> None:
    """SIGTERM reaches the process that was started by hand, not its child."""
    run = tmp_path / "run"
    words = ("train", data, "--out", run, "--epochs=500", "--set=devices=2", *SETTINGS)
    process = subprocess.Popen(
        [sys.executable, str(COMMAND), *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    begin = time.monotonic()
    while not (run / "last.ckpt").exists() and time.monotonic() - begin < 900:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.count("stopped by SIGTERM after batch") == 1, err
    assert err.count("all is saved. Go on with") == 1, err
