"""Everything that is promised of a GPU, in one call: correctness first, then all figures.

    python benchmarks/gpu.py --out gpu.json [--repeats 20] [--smoke]

Sections: the operators against the reference; their speed, and torchvision's; the stages of fcis_resnet50 at
600 x 1000 in bfloat16, for 1 and 8 images, eager, compiled and as a CUDA graph; its throughput in inference
and training beside torchvision's Mask R-CNN; fcis_lite. Needs torch, torchvision, timm and Triton alone, and
no network. A section that fails is written down as such and the others still run. The file is written
after every section. Promises: the rest takes at most 10 % of the convolutions' time at batch 8; inference at
least 2 times, training at least 1.5 times as fast as Mask R-CNN; kernels at 60 % or more of the bandwidth of
a copy. Without a GPU it says so and ends with status 2; --smoke then tries the code on tiny sizes on the CPU,
whose figures mean nothing. The status is 1 where a section failed or a result was wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

import gpu_kernels
import gpu_networks
from gpu_timing import copy_bandwidth
from instancefcn.files import write_json
from instancefcn.ops import forms


def describe(device: torch.device, repeats: int) -> dict[str, Any]:
    """The machine and the libraries."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "kernels": "Triton" if device.type == "cuda" and forms.has_triton() else "none on this device",
    }
    if device.type == "cuda":
        import triton

        card = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": card.name,
            "memory GiB": card.total_memory / 2**30,
            "multiprocessors": card.multi_processor_count,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": triton.__version__,
        }
    found["copy GB/s"] = copy_bandwidth(device, 2.0 if device.type == "cuda" else 0.01, repeats)
    return found


def finite(value: Any) -> Any:
    """The same without what JSON has no word for: None instead."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Report:
    """Results by section, written to a file after each."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.results: dict[str, Any] = {}
        self.failed: list[str] = []

    def section(self, name: str, measure: Callable[[], Any]) -> Any:
        """Runs and keeps a measurement; its error instead, and None, where it fails."""
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        try:
            result = measure()
        except Exception as problem:
            result = None
            self.results[name] = {"error": repr(problem), "traceback": traceback.format_exc()}
            self.failed.append(name)
            print(f"  FAILED: {problem!r}")
        else:
            self.results[name] = result
            print(f"  {time.perf_counter() - start:.1f} s")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.path is not None:
            write_json(self.path, finite(self.results))
        return result

    def promises(self, batch: int) -> dict[str, Any]:
        """Measured values beside the promised ones; sections that failed are left out."""

        def value(*path: str) -> Any:
            found: Any = self.results
            for key in path:
                found = found.get(key) if isinstance(found, dict) else None
            return found

        def ratio(one: Any, other: Any) -> Any:
            return one / other if one and other else None

        rows: dict[str, tuple[Any, float, bool]] = {
            "rest / convolutions": (
                value(f"fcis_resnet50, batch {batch}", "parts", "ratio"), 0.10, False,
            ),
            "inference / Mask R-CNN": (
                ratio(
                    value(f"fcis_resnet50, batch {batch}", "whole", "images/s"),
                    value(f"Mask R-CNN, batch {batch}", "whole", "images/s"),
                ), 2.0, True,
            ),
            "training / Mask R-CNN": (
                ratio(
                    value("fcis_resnet50, training", "images/s"),
                    value("Mask R-CNN, training", "images/s"),
                ), 1.5, True,
            ),
        }  # fmt: skip
        for name in ("class_scores", "ps_average", "mask_logits"):
            for way in ("forward", "backward"):
                share = value(f"operators, batch {batch}", f"{name}, bfloat16", way, "of copy")
                rows[f"{name} {way}, of a copy's bandwidth"] = (share, 0.6, True)
        return {
            name: {"measured": found, "promised": limit, "kept": found >= limit if more else found <= limit}
            for name, (found, limit, more) in rows.items()
            if found is not None
        }


def measure(report: Report, device: torch.device, smoke: bool, repeats: int) -> None:
    """All sections."""
    size, lite_size, large, classes = (
        ((64, 96), (64, 96), 2, 3) if smoke else ((600, 1000), (512, 683), 8, 80)
    )
    few = {"windows": 5, "classes": 4, "k": 3, "height": 5, "width": 6} if smoke else {}
    sizes = {images: gpu_kernels.Sizes(images, **few) for images in (1, large)}
    machine = report.section("machine", lambda: describe(device, repeats))
    bandwidth = machine["copy GB/s"] if machine else float("nan")
    right = report.section("correctness", lambda: gpu_kernels.correctness(device, sizes[large]))
    if right and not right["ok"]:
        report.failed.append("correctness")
    for batch in (1, large):
        report.section(
            f"operators, batch {batch}",
            lambda batch=batch: gpu_kernels.speed(device, sizes[batch], bandwidth, repeats),
        )
    report.section("vote_average", lambda: gpu_kernels.voting_speed(device, repeats))
    for images in (1, large):
        report.section(
            f"suppression, batch {images}",
            lambda images=images: gpu_kernels.suppression_speed(device, images, smoke, repeats),
        )
    for batch in (1, large):
        for name, pixels in (("fcis_resnet50", size), ("fcis_lite", lite_size)):
            report.section(
                f"{name}, batch {batch}",
                lambda name=name, pixels=pixels, batch=batch: gpu_networks.inference(
                    name, pixels, batch, classes, device, repeats
                ),
            )
        report.section(
            f"Mask R-CNN, batch {batch}",
            lambda batch=batch: gpu_networks.mask_rcnn_inference(size, batch, classes, device, repeats),
        )
    for name, pixels in (("fcis_resnet50", size), ("fcis_lite", lite_size)):
        report.section(
            f"{name}, training",
            lambda name=name, pixels=pixels: gpu_networks.training(
                name, pixels, large, classes, device, repeats
            ),
        )
    report.section(
        "Mask R-CNN, training",
        lambda: gpu_networks.mask_rcnn_training(size, large, classes, device, repeats),
    )
    report.section("promises", lambda: report.promises(large))


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.smoke:
        print("There is no GPU that PyTorch can use, so there is nothing to measure.", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(options.out)
    report.results["smoke"] = options.smoke
    measure(report, device, options.smoke, options.repeats)
    print(json.dumps(report.results.get("promises"), indent=1))
    if options.smoke:
        print("These figures mean nothing: the sizes are tiny (--smoke).")
    if report.failed:
        print(f"failed: {', '.join(report.failed)}", file=sys.stderr)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
