"""How time and memory grow with windows, classes and image size: all that FCIS does after its features.

    python benchmarks/growth.py [--json FILE] [--plot FILE.png] [--repeats 3] [--threads 2]

`fcis_resnet50`'s head on random features: score maps, box refinement, scoring (the windows twice),
suppression, voting and pasting of 100 masks. One figure changes, the others stay at 300 windows, 81 classes,
600 x 800 pixels. Every point is a process of its own: median seconds after a warm-up, and how far the
largest resident size lies above that before the first run. The exponent is the slope in log-log between the
middle of a series and its end: 1 is linear, 2 for the short side. Making the features is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from memory import peak
from results import write_result

SERIES = {
    "windows": (100, 300, 1000, 3000, 10000),
    "classes": (2, 21, 81, 300, 1200),
    "short side": (300, 600, 1000, 2000),
}
USUAL = {"windows": 300, "classes": 81, "short side": 600}
MASKS = 100


def run_point(point: dict[str, int], repeats: int) -> None:
    """What every process does: print seconds, MiB and the number of objects."""
    from instancefcn.geometry import boxes as box_ops
    from instancefcn.models import zoo
    from instancefcn.models.backbone import STRIDE
    from instancefcn.models.head import ScoreMaps

    torch.manual_seed(0)
    # The smallest backbone there is: it does not run.
    network = zoo.build("fcis_lite", point["classes"] - 1, fused=False).eval()
    paper = zoo.FCIS_RESNET50.head
    network.head, network.maps = paper, ScoreMaps((2048,), point["classes"] - 1, paper)
    with torch.no_grad():
        # Scores must differ, or with 1,200 classes none is worth a vote.
        network.maps.scores.weight.normal_(std=0.2)
    size = (point["short side"], point["short side"] * 4 // 3)
    features = [torch.rand(1, 2048, *(math.ceil(side / STRIDE) for side in size))]
    features = [f.contiguous(memory_format=torch.channels_last) for f in features]
    sides = 32 + 300 * torch.rand(point["windows"], 2)
    corner = torch.rand(point["windows"], 2) * torch.tensor(size[::-1])
    proposals = box_ops.clip(torch.cat((corner - sides / 2, corner + sides / 2), 1), size)[None]

    def detect() -> int:
        with torch.inference_mode():
            maps, box_maps = network.maps(features)
            windows = network.refine_and_score(maps, box_maps, proposals, [size])
            (found,) = network.vote_instances(windows, [size], [size], 0.0, MASKS)
        return len(found)

    before, seconds = peak(), []
    count = detect()
    for _ in range(repeats):
        start = time.perf_counter()
        detect()
        seconds.append(time.perf_counter() - start)
    result = {"seconds": statistics.median(seconds), "mib": peak() - before, "objects": count}
    print(json.dumps(result))


def measure(series: str, value: int, repeats: int, threads: int) -> dict[str, Any]:
    """One point, in a process of its own."""
    point = {**USUAL, series: value}
    command = [sys.executable, __file__, "--point", json.dumps(point)]
    command += ["--repeats", str(repeats), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return {"value": value, **found}


def exponent(rows: list[dict[str, Any]], key: str) -> float:
    """Slope in log-log from the middle of the series to its end."""
    first, last = rows[len(rows) // 2], rows[-1]
    return math.log(last[key] / first[key]) / math.log(last["value"] / first["value"])


def plot(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time and memory over each figure, log-log, with a linear line to compare."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, (series, rows) in enumerate(found.items()):
        values = [row["value"] for row in rows]
        for line, (key, label) in enumerate((("seconds", "seconds"), ("mib", "MiB above the features"))):
            panel = axes[line][column]
            panel.loglog(values, [row[key] for row in rows], marker="o")
            anchor, power = rows[-1], 2 if series == "short side" else 1
            ideal = [anchor[key] * (value / anchor["value"]) ** power for value in values]
            name = "as the pixels" if power == 2 else "linear"
            panel.loglog(values, ideal, linestyle=":", color="gray", label=name)
            panel.set(xlabel=series, ylabel=label)
            panel.set_xticks(values, [f"{value:,}" for value in values])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure all series and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.point:
        run_point(options.point, options.repeats)
        return
    found = {
        series: [measure(series, value, options.repeats, options.threads) for value in values]
        for series, values in SERIES.items()
    }
    for series, rows in found.items():
        print(f"{series:<12}{'ms':>9}{'MiB':>9}{'objects':>9}")
        for row in rows:
            print(f"{row['value']:<12,}{1000 * row['seconds']:>9.1f}{row['mib']:>9.0f}{row['objects']:>9}")
        print(f"exponent: time {exponent(rows, 'seconds'):.2f}, memory {exponent(rows, 'mib'):.2f}\n")
    if options.json:
        write_result(options.json, found)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
