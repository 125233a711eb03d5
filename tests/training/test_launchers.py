"""The command under torchrun, and with children of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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
    assert state["step"] == 2


@pytest.fixture
def two_devices(data: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of two processes that has saved once, in the folder `run`."""
    run = tmp_path / "run"
    words = ("train", data, "--out", run, "--epochs=500", "--set=devices=2", *SETTINGS)
    command = [sys.executable, str(COMMAND), *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        begin = time.monotonic()
        while not (run / "last.ckpt").exists() and time.monotonic() - begin < 900:
            time.sleep(0.2)
        yield process
        process.kill()


def children_of(process: subprocess.Popen[str]) -> list[int]:
    """Those that run Python code of ours."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_two_devices_stop_together_when_the_first_process_is_asked_to(
    two_devices: subprocess.Popen[str],
) -> None:
    """SIGTERM reaches the process that was started by hand, not its child."""
    two_devices.send_signal(signal.SIGTERM)
    _, err = two_devices.communicate(timeout=900)
    assert two_devices.returncode == 128 + signal.SIGTERM, err
    assert err.count("stopped by SIGTERM after batch") == 1, err
    assert err.count("everything is saved. Resume with") == 1, err


@pytest.mark.skipif(sys.platform != "linux", reason="processes are listed otherwise")
def test_a_process_whose_child_dies_ends_too(two_devices: subprocess.Popen[str]) -> None:
    (child,) = children_of(two_devices)
    os.kill(child, signal.SIGKILL)
    _, err = two_devices.communicate(timeout=900)
    assert two_devices.returncode == 2, err
    assert "error: another process has ended or does not answer" in err
