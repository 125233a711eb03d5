"""The paper's comparison of k, the parts along each side of a window: recall at equal budget.

    python benchmarks/parts.py DATA --out RUNS [--k 1 3 5 7] [--seeds 0] [--epochs 4]
        [--short-side 400] [--json FILE]

One `instancefcn_lite` is trained for every k and seed, with the same images, draws, steps and sizes, and
measured on val. The small images make it affordable on a laptop. A run that was stopped resumes when the
command is given again, a finished one is only read.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from instancefcn.models import zoo
from results import write_result
from trainings import trained

FIGURES = ("AR@10", "AR@100", "AR@1000")
PAPER = {3: (0.383, 0.492, 0.521), 5: (0.389, 0.497, 0.526), 7: (0.388, 0.497, 0.527)}
"""InstanceFCN with VGG-16 on the val split of PASCAL VOC 2012 (Dai et al., 2016)."""


def measure(data: Path, folder: Path, k: int, seed: int, epochs: int, short_side: int) -> dict[str, Any]:
    """The "proposals" figures at the end of one run."""
    spec = zoo.INSTANCEFCN_LITE
    sides = [side for side in spec.training["train_sides"] if side <= short_side]
    settings = {
        "k": k,
        "seed": seed,
        "epochs": epochs,
        "train_sides": sides,
        "warmup": 100,
        "ema_decay": 0.995,
    }
    proposals: dict[str, Any] = trained(data, spec.name, folder, short_side, **settings)["proposals"]
    return proposals


def main() -> None:
    """Train, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 3, 5, 7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--short-side", type=int, default=400)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: dict[int, list[dict[str, Any]]] = {k: [] for k in options.k}
    for seed in options.seeds:
        for k in options.k:
            folder = options.out / f"k{k}_seed{seed}"
            rows[k].append(measure(options.data, folder, k, seed, options.epochs, options.short_side))
    print(f"{'':<4}{'masks':<24}{'boxes':<24}{'paper, masks (VOC 2012)'}")
    print("k   " + 3 * "".join(f"{name:<8}" for name in FIGURES))
    for k, found in rows.items():
        masks = "".join(f"{_mean([f[name] for f in found]):<8}" for name in FIGURES)
        boxes = "".join(f"{_mean([f['box'][name] for f in found]):<8}" for name in FIGURES)
        print(f"{k:<4}{masks}{boxes}" + "".join(f"{value:<8.3f}" for value in PAPER.get(k, ())))
    if len(options.seeds) > 1:
        spread = max(
            max(f[name] for f in found) - min(f[name] for f in found)
            for found in rows.values()
            for name in FIGURES
        )
        print(f"means over {len(options.seeds)} seeds; the same k differs by at most {spread:.3f} (masks)")
    if options.json is not None:
        entries = [
            {"k": k, "seed": seed, **one, "paper": dict(zip(FIGURES, PAPER.get(k, (None,) * 3), strict=True))}
            for k, found in rows.items()
            for seed, one in zip(options.seeds, found, strict=True)
        ]
        write_result(options.json, {"rows": entries})


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}"


if __name__ == "__main__":
    main()
