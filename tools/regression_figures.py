"""Measure the bundled models on tests/data_sets and store the figures that tests/test_accuracy.py expects.

    python tools/regression_figures.py

Run it after a bundled model, or a convention that changes results, has changed.
"""

from __future__ import annotations

from pathlib import Path

import instancefcn
from instancefcn.files import write_json

DATA = Path(__file__).resolve().parents[1] / "tests" / "data_sets"
FIGURES = DATA / "figures.json"
MODELS = {
    "fcis-animals7": ("animals", "val", "mask", "AP"),
    "fcis-nuclei": ("nuclei", "val", "mask", "AP"),
    "fcis-objects": ("animals", "val", "mask", "AP"),
    "instancefcn-objects": ("animals", "half", "proposals", "AR@100"),
}
"""For each bundled model the folder and split, and which figure of `instancefcn.evaluate` is stored."""


def measure(model: str) -> float:
    """The figure of one bundled model, 0 to 1, in float32: the same on every CPU."""
    folder, split, group, name = MODELS[model]
    return float(instancefcn.evaluate(DATA / folder, model, split=split, precision="32")[group][name])


def main() -> None:
    figures = {model: round(measure(model), 4) for model in MODELS}
    write_json(FIGURES, figures)
    for model, (folder, split, group, name) in MODELS.items():
        print(f"{model}: {group} {name} {figures[model]:.4f} on {folder}/{split}")


if __name__ == "__main__":
    main()
