"""Times the operators against torchvision's on a CPU: 300 windows, 81 classes, k = 7, 38 x 63 cells, float32.

    python benchmarks/ops.py [--json FILE] [--repeats 7] [--threads N] [--seed 0]

Both sides read the same values: torchvision's operators from `[1, 2 * 81 * 49, 38, 63]`, contiguous as they
need it, ours from the channels-last memory that a convolution hands over ("copied": from the contiguous one,
with the copy). Calls alternate, so that both meet the same load; each figure is the median after warm-up. The
promise: `class_scores` forward in at most 1/8 of `ps_roi_pool` (output 7), backward in at most 1/2 of its
backward. `ps_roi_pool` computes less (49 values a map, no maximum), so the comparison favours it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from instancefcn import ops
from results import write_result

WINDOWS, CLASSES, K, HEIGHT, WIDTH, STRIDE = 300, 81, 7, 38, 63, 16.0
LIMITS = {"forward": 1 / 8, "backward": 1 / 2}


def make_windows(generator: torch.Generator) -> Tensor:
    """[300, 5] windows like an RPN's: sides log-uniform in 32 to 512 pixels, aspects 1:2 to 2:1, clipped."""
    size = torch.tensor([WIDTH * STRIDE, HEIGHT * STRIDE])
    side = 32 * 16 ** torch.rand(WINDOWS, 1, generator=generator)
    stretch = 2 ** (torch.rand(WINDOWS, 1, generator=generator) - 0.5)
    half = torch.cat([side * stretch, side / stretch], 1) / 2
    centre = torch.rand(WINDOWS, 2, generator=generator) * size
    low, high = (centre - half).clamp(min=0), torch.minimum(centre + half, size)
    return torch.cat([torch.zeros(WINDOWS, 1), low, high], 1)


def make_cases(seed: int) -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """name -> (maps that require a gradient, operator on them)."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(1, 2 * CLASSES * K * K, HEIGHT, WIDTH, generator=generator)
    rois = make_windows(generator)
    labels = torch.randint(1, CLASSES, (WINDOWS,), generator=generator)
    few = torch.arange(0, WINDOWS, 3)  # masks are read for about 100 windows

    def paired(
        flat: Tensor,
    ) -> Tensor:  # channel order (class, outside/inside, part) -> the operators' axes, as a view
        return flat.unflatten(1, (CLASSES, 2, K, K)).permute(0, 3, 4, 2, 1, 5, 6)

    in_cells = paired(planes).permute(0, 5, 6, 1, 2, 3, 4).contiguous().permute(0, 3, 4, 5, 6, 1, 2)
    boxes = in_cells[:, :, :, 0, :8].permute(0, 4, 5, 1, 2, 3).contiguous().permute(0, 3, 4, 5, 1, 2)
    scale = 1 / STRIDE
    return {
        "class_scores": (in_cells, lambda m: ops.class_scores(m, rois, STRIDE)),
        "class_scores (copied)": (planes, lambda m: ops.class_scores(paired(m), rois, STRIDE)),
        "ps_roi_pool": (planes, lambda m: torchvision.ops.ps_roi_pool(m, rois, K, scale)),
        "ps_roi_align": (planes, lambda m: torchvision.ops.ps_roi_align(m, rois, K, scale, 2)),
        "mask_logits, 100 windows": (in_cells, lambda m: ops.mask_logits(m, rois[few], labels[few], STRIDE)),
        "ps_average, 8 maps": (boxes, lambda m: ops.ps_average(m, rois, STRIDE)),
    }


def measure(
    cases: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]], repeats: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of forward and backward; the cases take turns."""
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "backward": []} for name in cases}
    for turn in range(repeats + 2):
        for name, (values, operator) in cases.items():
            maps = values.detach().requires_grad_()
            start = time.perf_counter()
            out = operator(maps)
            middle = time.perf_counter()
            upstream = torch.ones_like(out)
            before = time.perf_counter()
            torch.autograd.grad(out, maps, upstream)
            end = time.perf_counter()
            if turn >= 2:  # two warm-up turns
                times[name]["forward"].append(1000 * (middle - start))
                times[name]["backward"].append(1000 * (end - before))
    return {
        name: {way: statistics.median(values) for way, values in both.items()} for name, both in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    times = measure(make_cases(arguments.seed), arguments.repeats)
    ratios = {
        f"class_scores / {peer}": {way: times["class_scores"][way] / times[peer][way] for way in LIMITS}
        for peer in ("ps_roi_pool", "ps_roi_align")
    }
    print(
        f"{WINDOWS} windows, {CLASSES} classes, k {K}, {HEIGHT} x {WIDTH} cells, {arguments.threads} threads"
    )
    print(f"{'milliseconds':34}{'forward':>10}{'backward':>10}")
    for name, both in times.items():
        print(f"{name:34}{both['forward']:10.1f}{both['backward']:10.1f}")
    for name, both in ratios.items():
        print(f"{name:34}{both['forward']:10.3f}{both['backward']:10.3f}")
    promise = ratios["class_scores / ps_roi_pool"]
    kept = all(promise[way] <= limit for way, limit in LIMITS.items())
    print(f"{'promised at most':34}{LIMITS['forward']:10.3f}{LIMITS['backward']:10.3f}")
    print(f"promise {'kept' if kept else 'NOT kept'}")
    if arguments.json:
        figures = {
            "threads": arguments.threads,
            "kernels": ops.HAS_KERNELS,
            "milliseconds": times,
            "ratios": ratios,
            "limits": LIMITS,
            "kept": kept,
        }
        write_result(arguments.json, figures)


if __name__ == "__main__":
    main()
