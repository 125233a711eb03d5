"""YOLO segmentation networks on a CPU, to set beside `instancefcn bench predict`. In an environment of its
own: their package's licence (AGPL-3.0) keeps it out of ours, and this script imports no `instancefcn`.

    python -m venv yolo && yolo/bin/pip install ultralytics
    yolo/bin/python benchmarks/yolo.py [--threads 2] [--repeats 10] [--size 480 640]
        [--json FILE]

The network alone (normalisations folded, as for prediction; random weights), without its decoding of boxes
and masks; float32, one image, median after a warm-up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from results import write_result

NETWORKS = ("yolo11s-seg", "yolo26n-seg")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    from ultralytics import YOLO, __version__

    torch.set_num_threads(options.threads)
    print(f"ultralytics {__version__}, torch {torch.__version__}, {options.threads} threads")
    figures = {}
    for name in NETWORKS:
        network = YOLO(f"{name}.yaml").model.eval().fuse(verbose=False)
        image = torch.rand(1, 3, *options.size)
        seconds = []
        with torch.inference_mode():
            for turn in range(options.repeats + 3):
                start = time.perf_counter()
                network(image)
                if turn >= 3:
                    seconds.append(time.perf_counter() - start)
        figures[name] = 1000 * statistics.median(seconds)
        print(f"{name:<14}{figures[name]:8.1f} ms at {options.size[0]} x {options.size[1]}")
    if options.json is not None:
        write_result(options.json, {"ultralytics": __version__, "milliseconds": figures})


if __name__ == "__main__":
    main()
