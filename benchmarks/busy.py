"""CPU time and time of a training step and of a prediction, on a quiet machine and beside other programs.

    python benchmarks/busy.py [--repeats 7] [--size 384 512] [--batch 4] [--load N] [--json FILE]

Three processes take turns: one thread; all cores as OpenMP and malloc are by themselves; and all cores as the
command line sets them (cpu_settings.py). Each figure is a median. First the machine is left as it is (quiet,
if nothing else runs); then --load other processes compute all the time, by default one per core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS = ("one thread", "defaults", "command line")
REST = 0.1
"""Seconds between two turns: the threads of the one before must have gone to sleep."""
OURS = ("GOMP_", "KMP_", "OMP_", "MALLOC_", "NUMBA_NUM", "THP_")


class Turns:
    """A process that does its work once whenever it is asked."""

    def __init__(self, setting: str, options: argparse.Namespace) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        words = ["--size", *map(str, options.size), "--batch", str(options.batch), "--child", setting]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *words],
            env=clean | ({"OMP_NUM_THREADS": "1"} if setting == SETTINGS[0] else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask()

    def ask(self, work: str = "") -> dict[str, float]:
        """Seconds of the CPU, of them in the system, and of the clock."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def child(setting: str, size: tuple[int, int], batch: int) -> None:
    """Do what standard input asks for, and print how long it took."""
    if setting == SETTINGS[2]:
        from instancefcn.cpu_settings import set_up_cpu

        set_up_cpu()
    import torch

    import instancefcn
    from training_step import step_cases

    torch.manual_seed(0)
    predictor = instancefcn.load("fcis-animals7")
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    step = step_cases(*size, batch)["step, float32, ours"]
    works: dict[str, Callable[[], Any]] = {"step": step, "predict": lambda: predictor.run([image], 0.5)}
    for work in works.values():
        work()
    for line in sys.stdin:
        if not line.strip():
            print("{}", flush=True)
            continue
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        works[line.strip()]()
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        system = after.ru_stime - before.ru_stime
        answer = {"cpu": after.ru_utime - before.ru_utime + system, "system": system, "wall": wall}
        print(json.dumps(answer), flush=True)


@contextmanager
def load(count: int) -> Iterator[None]:
    """Other processes that compute while the block runs."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measured(turns: dict[str, Turns], machine: str, repeats: int) -> list[dict[str, Any]]:
    """A row of medians for each work and setting."""
    rows: list[dict[str, Any]] = []
    for work in ("step", "predict"):
        found: dict[str, list[dict[str, float]]] = {setting: [] for setting in turns}
        for _ in range(repeats):
            for setting, turn in turns.items():
                time.sleep(REST)
                found[setting].append(turn.ask(work))
        for setting, answers in found.items():
            medians = {key: statistics.median(answer[key] for answer in answers) for key in answers[0]}
            rows.append({"work": work, "setting": setting, "machine": machine, **medians})
            print(
                f"{work:<9}{setting:<14}{machine:<7}"
                + "".join(f"{1000 * medians[key]:>10.0f}" for key in ("cpu", "system", "wall")),
                flush=True,
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 512))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--load", type=int, default=os.cpu_count(), help="processes that compute beside")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, tuple(options.size), options.batch)
        return
    from results import write_result

    turns = {setting: Turns(setting, options) for setting in SETTINGS}
    print(f"{'milliseconds':<30}{'CPU':>10}{'system':>10}{'clock':>10}")
    rows = measured(turns, "quiet", options.repeats)
    with load(options.load):
        rows += measured(turns, "busy", options.repeats)
    for turn in turns.values():
        turn.close()
    if options.json is not None:
        write_result(options.json, {"load": options.load, "rows": rows})


if __name__ == "__main__":
    main()
