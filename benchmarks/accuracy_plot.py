"""One figure of several comparisons that `accuracy.py` made: mask AP50 against minutes, a panel a dataset.

    python benchmarks/accuracy_plot.py animals7=RUNS[,RUNS...] [nuclei=RUNS...] --out FIGURE.png

Every run is a line, a colour a network, its end a large dot: only there has the learning rate come down.
Seeds of about the same minutes share a number, their mean. The minutes are on a logarithmic scale.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from instancefcn.files import atomic_write

COLOURS = {"fcis": ("FCIS", "C0"), "mask_rcnn": ("Mask R-CNN", "C1")}
TICKS = (1, 2, 5, 10, 20, 50, 100, 200)


def curves(folders: list[Path]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Network and rows of every finished run in the folders; ends the program when there is none."""
    found = []
    for folder in folders:
        for path in sorted(folder.glob("*_seed*/curve.json")):
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["finished"]:
                found.append((path.parent.name.rpartition("_seed")[0], document["rows"]))
    if not found:
        raise SystemExit(f"no finished run of accuracy.py in {', '.join(map(str, folders))}")
    return found


def draw(axes: Any, title: str, runs: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """One panel."""
    ends: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for name, rows in runs:
        label, colour = COLOURS[name]
        minutes, values = [row["minutes"] for row in rows], [row["mask"]["AP50"] for row in rows]
        axes.plot(minutes, values, color=colour, linewidth=1, marker="o", markersize=3, alpha=0.7)
        first = all(other != name for other, _ in ends)
        axes.plot(minutes[-1:], values[-1:], "o", color=colour, markersize=8, label=label if first else None)
        near = (key for key in ends if key[0] == name and 0.9 < key[1] / minutes[-1] < 1.1)
        ends.setdefault(next(near, (name, minutes[-1])), []).append((minutes[-1], values[-1]))
    for points in ends.values():  # the seeds of one budget have one number, their mean
        place = (points[0][0], max(value for _, value in points))
        text = f"{sum(value for _, value in points) / len(points):.2f}"
        axes.annotate(text, place, xytext=(0, 8), textcoords="offset points", ha="center")
    minutes = [row["minutes"] for _, rows in runs for row in rows]
    axes.set(xscale="log", ylim=(0, 1), xlim=(min(minutes) * 0.7, max(minutes) * 1.5), title=title)
    axes.set(xlabel="minutes of training on one core", ylabel="mask AP50 on val")
    axes.set_xticks([tick for tick in TICKS if min(minutes) * 0.7 < tick < max(minutes) * 1.5])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def main() -> None:
    """Read and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("comparisons", nargs="+", metavar="NAME=RUNS,...")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    panels = [text.partition("=") for text in options.comparisons]
    figure = Figure(figsize=(4.4 * len(panels), 4), layout="constrained")
    for axes, (name, _, folders) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        draw(axes, name, curves([Path(folder) for folder in folders.split(",")]))
    with atomic_write(options.out) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    main()
