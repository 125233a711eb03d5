"""Read many thousand hostile files, each target in processes of bounded memory and time.

    python tools/fuzz.py [--cases 2000] [--seed 0] [--only NAME] [--keep FOLDER]

A case ends in an error of ours, in a right result, or as something else: another exception, a wrong result,
more than SECONDS of CPU time, more than MEGABYTES more memory, or a process that died. Such a case is
kept, with its traceback, and the exit status is then 1. Needs Linux.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzz_targets import Targets
from fuzzing import Target, attempt, case

SECONDS = 20
MEGABYTES = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="of each target; slow ones get a share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="targets whose name holds this")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    arguments = parser.parse_args()
    total = [0, 0, 0]
    heads = ("cases", "errors", "results", "other", "slowest s", "MB")
    print(f"{'target':22}", *(f"{head:>9}" for head in heads), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for target in Targets(Path(folder)).all():
            if arguments.only and arguments.only not in target.name:
                continue
            cases = max(len(target.seeds) + 1, round(arguments.cases * target.share))
            row = campaign(target, arguments.seed, cases, arguments.keep)
            total = [a + b for a, b in zip(total, row[:3], strict=True)]
            figures = (cases, *row[:3], f"{row[3]:.2f}", f"{row[4]:.0f}")
            print(f"{target.name:22}", *(f"{figure:>9}" for figure in figures), flush=True)
    print(f"{'all':22}", *(f"{figure:>9}" for figure in (sum(total), *total)), flush=True)
    raise SystemExit(1 if total[2] else 0)


def campaign(target: Target, seed: int, cases: int, keep: Path) -> tuple[int, int, int, float, float]:
    """Errors, results, others; CPU seconds of the slowest case; MB by which memory grew."""
    context = multiprocessing.get_context("fork")
    # Errors, results, others, number of the case at hand; then seconds and MB.
    counts, worst = context.Array("q", 4), context.Array("d", 2)
    while counts[3] < cases:
        worker = context.Process(target=work, args=(target, seed, cases, keep, counts, worst))
        worker.start()
        worker.join()
        if worker.exitcode != 0:  # it died of the case at hand
            save(target, seed, counts[3], keep, f"the process ended with {worker.exitcode}")
            counts[2] += 1
            counts[3] += 1
    return counts[0], counts[1], counts[2], worst[0], worst[1]


def work(target: Target, seed: int, cases: int, keep: Path, counts: Any, worst: Any) -> None:
    """Cases from the one at hand on."""
    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    bound = used + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # decoders complain there
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while counts[3] < cases:
        start = time.process_time()
        # The signal that follows ends the process, also inside a decoder.
        resource.setrlimit(resource.RLIMIT_CPU, (int(start) + 1 + SECONDS, resource.RLIM_INFINITY))
        try:
            counts[("error", "result").index(attempt(target, seed, counts[3]))] += 1
        except BaseException:
            counts[2] += 1
            save(target, seed, counts[3], keep, traceback.format_exc())
        worst[0] = max(worst[0], time.process_time() - start)
        worst[1] = max(worst[1], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        counts[3] += 1


def save(target: Target, seed: int, number: int, keep: Path, what: str) -> None:
    """Keep a case, and what became of it."""
    keep.mkdir(parents=True, exist_ok=True)
    name = f"{''.join(c if c.isalnum() else '-' for c in target.name)}-{seed}-{number}"
    (keep / f"{name}.bin").write_bytes(case(target, seed, number)[0])
    (keep / f"{name}.txt").write_text(what, encoding="utf-8")


if __name__ == "__main__":
    main()
