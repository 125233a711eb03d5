"""The ablation of the FCIS paper on a folder of one's own: each part of the method changed alone.

    python benchmarks/ablation.py DATA --out RUNS [--seeds 0] [--epochs 4] [--short-side 320]
        [--precision bf16-mixed] [--rows NAME ...] [--json FILE]

One `fcis_lite` is trained for every row and seed, with the same images, draws and steps, and measured on
val; the last rows are the whole method, tested otherwise. Beside them stand the paper's figures (ResNet-101,
VOC 2012; random sampling against OHEM: COCO). The mask loss weighs 10 times as much as the others, as in the
official code, except in the rows that say 3; RoIs are drawn at random except in the row that says OHEM.
`--rows` trains only some of them. The small images make it affordable on a laptop. A run that was stopped
resumes when the command is given again, a finished one is only read.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import instancefcn
from instancefcn.files import write_json
from instancefcn.models import zoo
from results import write_result
from trainings import add_precision, trained

TRAINED: dict[str, tuple[dict[str, Any], str]] = {
    "translation invariant (k = 1)": ({"k": 1}, "52.5 / 38.5"),
    "separate score maps": ({"joint": False}, "63.9 / 49.7"),
    "FCIS (k = 7)": ({}, "65.7 / 52.1"),
    "FCIS, k = 3": ({"k": 3}, ""),
    "FCIS, k = 5": ({"k": 5}, ""),
    "FCIS, OHEM": ({"sampling": "ohem"}, "COCO AP 28.8 random, 29.2 OHEM"),
    "separate score maps, mask loss x 3": ({"joint": False, "mask_weight": 3}, ""),
    "FCIS, mask loss x 3": ({"mask_weight": 3}, ""),
}
"""Rows with a training of their own: what is changed, and the paper's figures (VOC 2012 mAP^r 0.5 / 0.7)."""
WHOLE = "FCIS (k = 7)"
TESTED: dict[str, dict[str, Any]] = {
    "FCIS, one pass": {"passes": 1},
    "FCIS, no voting": {"voting": False},
    "FCIS, one pass, no voting": {"passes": 1, "voting": False},
}
"""Rows that test the network of WHOLE with another head."""
COLUMNS = (
    ("mask", "AP"),
    ("mask", "AP50"),
    ("mask", "AP75"),
    ("box", "AP"),
    ("voc", "mAP50"),
    ("voc", "mAP70"),
)


def train_row(
    data: Path, folder: Path, changes: dict[str, Any], options: argparse.Namespace, seed: int
) -> Any:
    """The figures of one row and seed."""
    settings = {
        "seed": seed,
        "epochs": options.epochs,
        "precision": options.precision,
        "warmup": 100,
        "ema_decay": 0.995,
        "sampling": "random",
        **changes,
    }
    return trained(data, zoo.FCIS_LITE.name, folder, options.short_side, **settings)


def tested(data: Path, folder: Path, name: str, changes: dict[str, Any]) -> Any:
    """Test the last weights of a run with another head, unless that was done."""
    finished = folder / f"{name}.json"
    if not finished.is_file():
        predictor = instancefcn.load(folder / "last.safetensors", precision="32")
        predictor.network.head = replace(predictor.network.head, **changes)
        write_json(finished, instancefcn.evaluate(data, predictor, tile=None))
    return json.loads(finished.read_text(encoding="utf-8"))


def main() -> None:
    """Train, test and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--short-side", type=int, default=320)
    add_precision(parser)
    parser.add_argument("--rows", nargs="+", choices=list(TRAINED), default=list(TRAINED), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    tests = TESTED if WHOLE in options.rows else {}
    rows: dict[str, list[Any]] = {name: [] for name in (*options.rows, *tests)}
    for seed in options.seeds:
        for name in options.rows:
            number, (changes, _) = list(TRAINED).index(name), TRAINED[name]
            folder = options.out / f"{number}_seed{seed}"
            rows[name].append(train_row(options.data, folder, changes, options, seed))
        whole = options.out / f"{list(TRAINED).index(WHOLE)}_seed{seed}"
        for number, (name, changes) in enumerate(tests.items()):
            rows[name].append(tested(options.data, whole, f"tested_{number}", changes))
    print(f"{'':<34}" + "".join(f"{f'{kind} {name}':>11}" for kind, name in COLUMNS) + "   paper")
    for name, found in rows.items():
        figures = "".join(
            f"{statistics.mean(one[kind][key] for one in found):>11.3f}" for kind, key in COLUMNS
        )
        print(f"{name:<34}{figures}   {TRAINED.get(name, ({}, ''))[1]}".rstrip())
    if options.json is not None:
        entries = [
            {"row": name, "seed": seed, "paper": TRAINED.get(name, ({}, ""))[1], **one}
            for name, found in rows.items()
            for seed, one in zip(options.seeds, found, strict=True)
        ]
        write_result(options.json, {"rows": entries})


if __name__ == "__main__":
    main()
