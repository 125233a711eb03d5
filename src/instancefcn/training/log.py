"""What a run writes down while it trains: log.csv, TensorBoard events and curves.png."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instancefcn.errors import ConfigError
from instancefcn.files import atomic_write

FIRST = ("step", "epoch", "seconds", "learning_rate")


class RunLog:
    """Rows of numbers by step, kept in memory and, while `writing`, in log.csv, and sent to TensorBoard when
    it is installed.

    Args:
        out: the run's folder.
        step, epoch: where a resumed run starts; later rows of an earlier, killed attempt are dropped. Several
            batches may share a step, but not an epoch with its fraction.
        unfinished: a resumed run's losses of the batches since its last row, as they were saved.
    """

    def __init__(
        self, out: Path, step: int = 0, epoch: float = 0.0, unfinished: dict[str, Any] | None = None
    ) -> None:
        self.path = out / "log.csv"
        self.rows: list[dict[str, float]] = (
            [row for row in read_log(self.path) if row["epoch"] <= round(epoch, 4)] if step else []
        )
        self.unfinished: dict[str, Any] = unfinished or {"sums": {}, "count": 0}
        self._before = max((row["seconds"] for row in self.rows), default=0.0)
        self._start = time.monotonic()
        self._columns: list[str] = []
        self._step = step
        self._board: Any = None

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, earlier attempts and evaluations included."""
        return self._before + time.monotonic() - self._start

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The run trains inside the block: log.csv becomes what it should be at its start, then gets each row
        as it is added.
        """
        self._start = time.monotonic()
        self._board = _tensorboard(self.path.parent / "tensorboard", self._step)
        self._rewrite()
        try:
            yield
        finally:
            if self._board is not None:
                self._board.close()

    def gather(self, losses: Mapping[str, float]) -> None:
        """Keep the losses of a batch, by name, for the next `add_means`."""
        sums = self.unfinished["sums"]
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        self.unfinished["count"] += 1

    def add_means(self, step: int, epoch: float, rate: float) -> None:
        """One row: the learning rate, and the means of the losses gathered since the last such row."""
        sums, count = self.unfinished["sums"], self.unfinished["count"]
        means = {name: round(value / count, 6) for name, value in sums.items()}
        self.add(step, epoch, {"learning_rate": rate, **means})
        self.unfinished = {"sums": {}, "count": 0}

    def add(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """One row: the run's step, its epoch (with its fraction), and named values."""
        row = {"step": step, "epoch": round(epoch, 4), "seconds": round(self.seconds, 2), **values}
        self.rows.append(row)
        if set(row) <= set(self._columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._rewrite()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def _rewrite(self) -> None:
        names = dict.fromkeys(FIRST) | dict.fromkeys(name for row in self.rows for name in row)
        self._columns = list(names)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic_write(self.path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv, without their empty cells; empty when there is no such file. A last row that a
    killed process or a full disk cut off is left out.

    Raises:
        ConfigError: it is not the log of a run.
    """
    if not path.is_file():
        return []
    try:
        whole = path.read_bytes().rpartition(b"\n")[0].decode("utf-8")
        rows = [
            {name: float(cell) for name, cell in row.items() if name and cell}
            for row in csv.DictReader(io.StringIO(whole, newline=""))
        ]
        if not all({"step", "epoch", "seconds"} <= row.keys() for row in rows):
            raise ValueError("rows without step, epoch or seconds")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ConfigError(f"{path}: is not the log of a run ({error}): move it away") from error
    return rows


def plot_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Losses, learning rate and validation figures over the steps, minutes on the upper axis."""
    from matplotlib.figure import Figure

    train = [row for row in rows if "loss" in row]
    if not train:
        return
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    losses, rate, precision = figure.subplots(1, 3)
    steps = [row["step"] for row in train]
    for name in [key for key in train[-1] if key not in FIRST]:
        values = [row.get(name, float("nan")) for row in train]
        losses.plot(steps, smooth(values), label=name, linewidth=2 if name == "loss" else 1)
    losses.set(title="Losses (smoothed)", ylim=(0, None))
    losses.legend(fontsize="small")
    rate.plot(steps, [row["learning_rate"] for row in train])
    rate.set(title="Learning rate", ylim=(0, None))
    measured = dict.fromkeys(key for row in rows for key in row if key.startswith("val/"))
    for key in measured:
        points = [(row["step"], row[key]) for row in rows if key in row]
        label = key.removeprefix("val/").replace("_", " ")
        precision.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    precision.set(title="Validation", ylim=(0, 1))
    if measured:
        precision.legend(fontsize="small")
    for axes in (losses, rate, precision):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    last = rows[-1]
    if last["step"]:
        pace = last["seconds"] / 60 / last["step"]
        minutes = losses.secondary_xaxis("top", functions=(lambda x: x * pace, lambda m: m / (pace or 1.0)))
        minutes.set_xlabel("minutes")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def smooth(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential average without the bias of its start."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total = share * total + (1 - share) * value
        weight = share * weight + (1 - share)
        smoothed.append(total / weight)
    return smoothed


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    if not step:  # a run that ended before it saved anything may have been here
        for left in folder.glob("events.out.tfevents.*"):
            left.unlink()
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
