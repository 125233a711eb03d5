"""Measure the bundled models on tests/data_sets and store the figures that tests/test_accuracy.py expects.

    python tools/regression_figures.py

Run it after a bundled model, or a convention that changes results, has changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import instancefcn
from instancefcn.files import write_json

DATA = Path(__file__).resolve().parents[1] / "tests" / "data_sets"
FIGURES = DATA / "figures.json"
MODELS = {
    "fcis-animals7": ("animals", "mask", "AP"),
    "fcis-nuclei": ("nuclei", "mask", "AP"),
    "instancefcn-objects": ("animals", "proposals", "AR@100"),
}
"""The data set of each bundled model, and the figure of `instancefcn.evaluate` that is kept."""


def measure(model: str) -> float:
    """The figure of one bundled model, 0 to 1."""
    folder, group, name = MODELS[model]
    return float(instancefcn.evaluate(DATA / folder, model)[group][name])


def main() -> None:
    figures = {}
    for model, (folder, group, name) in MODELS.items():
        figures[model] = round(measure(model), 4)
        print(f"{model}: {group} {name} {figures[model]:.4f} on {folder}", file=sys.stderr)
    write_json(FIGURES, figures)


if __name__ == "__main__":
    main()
