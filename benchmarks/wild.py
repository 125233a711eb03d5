"""Small sets that people made for themselves: what `instancefcn train FOLDER` reaches on each in minutes.

    python benchmarks/wild.py DATA... --out RUNS [--minutes 5] [--threads 1] [--seeds 0]
        [--networks fcis mask_rcnn] [--model fcis_lite] [--set KEY=VALUE ...] [--json FILE]

DATA are annotated folders; of a folder without annotations, every folder in it. Each is trained on as by
`instancefcn train` with its defaults, or with a --model and with --set, and measured on val. `mask_rcnn` is
the peer of mask_rcnn.py, on the backbone and the images of fcis_lite, from ImageNet's weights.

Minutes are those that the process has spent on CPUs for reading images and for training, without evaluation:
with one thread the time on a quiet machine. A set that is done is only read when the command is given again;
one that was stopped is started anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import accuracy
from instancefcn.bfloat16 import bfloat16_is_native
from instancefcn.cli.train import parse_assignments
from instancefcn.data.formats.layouts import open_datasets, splits_of
from instancefcn.errors import DataError
from instancefcn.files import write_json
from instancefcn.models import zoo
from instancefcn.settings import nest
from instancefcn.training import setup
from instancefcn.training.budget import Budget
from instancefcn.training.loop import METRICS, Run
from results import write_result

NETWORKS = ("fcis", "mask_rcnn")
NAMES = ("AP", "AP50", "AP75")


class TimedRun(Run):
    """A run whose budget counts the seconds of this process, without evaluations."""

    _paused: float = 0.0
    _begun: float | None = None

    def spent(self) -> float:
        """Seconds on CPUs since the first batch was read."""
        now = time.process_time()
        if self._begun is None:
            self._begun = now
        return now - self._begun - self._paused

    def _evaluate(self, *arguments: Any) -> None:
        started = time.process_time()
        super()._evaluate(*arguments)
        self._paused += time.process_time() - started

    def _time_evaluation(self, budget: Budget) -> None:
        budget.evaluation = 0.0


def train_fcis(data: Path, folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train as `instancefcn train` does; return the figures."""
    asked = nest(
        {
            "data": str(data),
            "out": str(folder),
            "seed": seed,
            "minutes": options.minutes,
            "workers": 0,
            "accelerator": "cpu",
            **({"model": options.model} if options.model else {}),
        }
    )
    asked |= parse_assignments(options.set)
    config = setup.make_config(folder, False, asked)
    splits = dict(zip(("train", "val"), open_datasets(data, ("train", "val")), strict=True))
    if options.model is None:
        config, plan = setup.follow_plan(config, asked, splits["train"])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "plan.json", plan.as_json())
    run = TimedRun(config, torch.device("cpu"), folder, splits, None)
    run.train()
    minutes = run.spent() / 60
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    sides = {"short_side": config.short_side, "model": config.model}
    return {**figures(metrics["final"]), "steps": metrics["steps"], "minutes": minutes, **sides}


def train_mask_rcnn(data: Path, folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train the peer as accuracy.py does; return the figures."""
    settings = argparse.Namespace(
        data=data,
        model=zoo.FCIS_LITE.name,
        minutes=options.minutes,
        epochs=100_000,
        evaluate_every=100_000,
        short_side=None,
        sampling=None,
        smallest_anchor=32,
        precision="bf16-mixed" if bfloat16_is_native("cpu") else "32",
    )
    splits = open_datasets(data, ("train", "val"))
    last = accuracy.run("mask_rcnn", seed, accuracy.PEER_RATE, splits, folder, settings)[-1]
    return {**figures(last), "steps": last["images"] // 4, "minutes": last["minutes"]}


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Of the masks; AP of an empty val counts as 0."""
    return {name: metrics["mask"][name] or 0.0 for name in NAMES}


def folders(given: list[Path]) -> list[Path]:
    """The annotated folders among those given, or in them."""
    found = []
    for folder in given:
        try:
            splits_of(folder)
            found.append(folder)
        except DataError:
            found += folders(sorted(path for path in folder.iterdir() if path.is_dir()))
    return found


def main() -> None:
    """Train what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["fcis"])
    parser.add_argument("--model", help="of the FCIS, with its own recipe instead of the plan")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as for instancefcn train")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for data in folders(options.data):
        for seed in options.seeds:
            for network in options.networks:
                folder = options.out / data.name / f"{network}_seed{seed}"
                row = {"set": data.name, "network": network, "seed": seed}
                rows.append(row | measured(network, data, folder, seed, options))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(f"{'':<28}" + "".join(f"{name:>8}" for name in (*NAMES, "steps")))
    means = []
    for network in options.networks:
        of_network = [row for row in rows if row["network"] == network]
        names = dict.fromkeys(row["set"] for row in of_network)
        for name in names:
            print_row(f"{name}, {network}", mean([row for row in of_network if row["set"] == name]))
        means.append({"set": f"mean of {len(names)}", "network": network, **mean(of_network)})
        print_row(f"{means[-1]['set']}, {network}", means[-1])
    if options.json is not None:
        write_result(options.json, {"minutes": options.minutes, "rows": rows + means})


def measured(
    network: str, data: Path, folder: Path, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one set, network and seed, trained now unless they are there."""
    result = folder / "result.json"
    asked = {"minutes": options.minutes, "model": options.model, "set": options.set, "data": str(data)}
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        if found["asked"] != asked:
            raise SystemExit(f"{folder} holds a run of {found['asked']}: give another --out")
        return dict(found["figures"])
    for left in folder.glob("*"):  # of a run that was stopped
        if left.is_file():
            left.unlink()
    train = train_fcis if network == "fcis" else train_mask_rcnn
    found = train(data, folder, seed, options)
    write_json(result, {"asked": asked, "figures": found})
    return found


def mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of figures and steps, over the seeds or over all sets."""
    return {key: statistics.mean(row[key] for row in rows) for key in (*NAMES, "steps")}


def print_row(name: str, row: dict[str, Any]) -> None:
    """A line of the table."""
    print(f"{name:<28}" + "".join(f"{row[key]:>8.3f}" for key in NAMES) + f"{row['steps']:>8.0f}")


if __name__ == "__main__":
    main()
