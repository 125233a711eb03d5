"""Training from the page: `instancefcn train` in a process of its own, watched by the files of its run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instancefcn.errors import ConfigError, InstanceFCNError
from instancefcn.files import writable
from instancefcn.models.checkpoint import locate
from instancefcn.training.log import read_log

COMMAND = (sys.executable, "-m", "instancefcn")
"""How the program is started."""

METRICS = "metrics.json"
OUTPUT = "output.txt"
"""What a training says, beside its run."""

NICE = 10
"""How far a training steps back behind the page, where the system knows that."""

LOG_EVERY = 5
"""Batches between two rows of a run's log: it lasts minutes."""

TAIL = 2000
"""Characters of what a failed training said that the page shows."""


@dataclass(frozen=True)
class Progress:
    """How a training is going, or how it ended.

    Attributes:
        state: "running", "done", "stopped" or "failed".
        run: the folder of the run.
        minutes: how long it was asked to take.
        seconds: how long it has taken, with its start and its end.
        spent: how much of its minutes is over: they are for training alone.
        loss: of the latest row of the log.
        ap: mask AP on the held-out images, the latest; None when nothing is held out or measured yet.
        losses: all losses so far, for a curve.
        said: the end of what a failed training said.
    """

    state: str
    run: Path
    minutes: float
    seconds: float
    spent: float
    loss: float | None
    ap: float | None
    losses: tuple[float, ...]
    said: str = ""

    def as_json(self) -> dict[str, Any]:
        """What the page shows."""
        return {
            "state": self.state,
            "run": self.run.name,
            "minutes": self.minutes,
            "seconds": round(self.seconds, 1),
            "left": round(max(0.0, 60 * self.minutes - self.spent), 1),
            "loss": self.loss,
            "ap": self.ap,
            "losses": self.losses,
            "said": self.said,
        }


class Orphan:
    """A training whose server was killed: the process lives on. As much of `subprocess.Popen` as is needed.

    Args:
        pid: of the process.
        run: the folder of its run.
    """

    def __init__(self, pid: int, run: Path) -> None:
        self.pid, self._run = pid, run

    def poll(self) -> int | None:
        """None while it runs, 0 when it ended well, 1 when it did not."""
        try:
            # Another process may have got the number since.
            alive = os.fsencode(self._run) in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            alive = False
        return None if alive else int(not (self._run / METRICS).is_file())

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended. Raises TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self._run), timeout or 0)
            time.sleep(0.2)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to it."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Trainer:
    """At most one training at a time.

    Args:
        data: the data set's folder.
        runs: where runs go: run-1, run-2, ..
        on_end: called, in a thread, with the folder of a run that ended and has weights.
        settings: further words of the command.
    """

    def __init__(
        self, data: Path, runs: Path, on_end: Callable[[Path], None], settings: Sequence[str] = ()
    ) -> None:
        self._data, self._runs, self._on_end, self._settings = data, runs, on_end, tuple(settings)
        self._process: subprocess.Popen[bytes] | Orphan | None = None
        self._run: Path | None = None
        self._minutes, self._began = 0.0, 0.0
        self._ended: float | None = None
        self._stopping = False
        self._lock = threading.Lock()

    def start(self, minutes: float) -> None:
        """Begin a training on what is written.

        Raises:
            ConfigError: one is running.
            OutputError: the run's folder cannot be written.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise ConfigError("a training is running: stop it first")
            with writable():
                self._runs.mkdir(parents=True, exist_ok=True)
                self._run = self._new_run()
                # Beside the run: `train` makes the folder itself.
                output = self._output(self._run).open("wb")
            words = [*COMMAND, "train", str(self._data), "--out", str(self._run), "--minutes", f"{minutes:g}"]
            words += ["--json", "--set", f"log_every={LOG_EVERY}", *self._settings]
            with output:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
            with contextlib.suppress(AttributeError, OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)
            self._watch(minutes, time.monotonic())

    def adopt(self, training: dict[str, Any]) -> None:
        """Go on watching what `running` described before the server was killed."""
        with self._lock:
            self._run = Path(training["run"])
            self._process = Orphan(training["pid"], self._run)
            self._watch(training["minutes"], time.monotonic() - (time.time() - training["began"]))

    def running(self) -> dict[str, Any] | None:
        """The training that runs, for `adopt`; None when none does."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return None
            began = time.time() - (time.monotonic() - self._began)
            return {"run": str(self._run), "pid": self._process.pid, "minutes": self._minutes, "began": began}

    def _watch(self, minutes: float, began: float) -> None:
        self._minutes, self._began, self._ended, self._stopping = minutes, began, None, False
        threading.Thread(target=self._wait, args=(self._process, self._run), daemon=True).start()

    def stop(self) -> None:
        """Ask the training to save and end."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._stopping = True
                self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the training, and wait until it has."""
        self.stop()
        if self._process is not None:
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def progress(self) -> Progress | None:
        """How the latest training is going; None before the first."""
        with self._lock:
            process, run = self._process, self._run
            if process is None or run is None:
                return None
            status = process.poll()
            seconds = (self._ended or time.monotonic()) - self._began
            state = "running" if status is None else "done" if status == 0 else "failed"
            if state == "failed" and self._stopping:
                state = "stopped"
        rows: list[dict[str, float]] = []
        with contextlib.suppress(InstanceFCNError):  # a log that is being rewritten
            rows = read_log(run / "log.csv")
        losses = [row["loss"] for row in rows if "loss" in row]
        figures = [row["val/mask_AP"] for row in rows if "val/mask_AP" in row]
        said = self._said(run) if state == "failed" else ""
        best = max(figures, default=None) if state != "running" else (figures[-1] if figures else None)
        return Progress(
            state,
            run,
            self._minutes,
            seconds,
            _spent(run, rows),
            losses[-1] if losses else None,
            best,
            tuple(round(loss, 4) for loss in losses[-400:]),
            said,
        )

    def _wait(self, process: subprocess.Popen[bytes] | Orphan, run: Path) -> None:
        process.wait()
        self._ended = time.monotonic()
        with contextlib.suppress(InstanceFCNError):  # it ended before it had weights
            locate(run)
            self._on_end(run)

    def _new_run(self) -> Path:
        number = 1
        while (run := self._runs / f"run-{number}").exists() or self._output(run).exists():
            number += 1
        return run

    def _output(self, run: Path) -> Path:
        return run.with_name(f"{run.name}-{OUTPUT}")

    def _said(self, run: Path) -> str:
        text = self._output(run).read_text(encoding="utf-8", errors="replace")[-TAIL:]
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [i for i, line in enumerate(lines) if line.startswith("error:")]
        return "\n".join(lines[errors[-1] :] if errors else lines[-5:])


def _spent(run: Path, rows: Sequence[dict[str, float]]) -> float:
    """Seconds of training so far: those of the log's last row, and those since it was written."""
    if not rows:
        return 0.0
    try:
        since = time.time() - (run / "log.csv").stat().st_mtime
    except OSError:
        since = 0.0
    return rows[-1]["seconds"] + max(0.0, since)


def measured(run: Path) -> float | None:
    """Mask AP on the held-out images of a finished run; None when it was not measured."""
    try:
        value = json.loads((run / METRICS).read_text(encoding="utf-8"))["best_mask_AP"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int | float) else None
