"""Times a training step of fcis_lite on a CPU, with our gradient of depthwise filters and with the library's.

    python benchmarks/training_step.py [--threads 2] [--repeats 5] [--size 384 512] [--batch 4] [--json FILE]

The four cases (float32 and bfloat16, each with both gradients) take turns; each figure is the median of the
repeats after one warm-up turn: forward, losses and backward of one batch of random images with two objects
each. Below them, every depthwise convolution of the backbone by itself, forward and backward. On a CPU on
which training refuses bfloat16 only float32 is measured: there a step in bfloat16 takes a minute.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from instancefcn.bfloat16 import convolves_in_bfloat16
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.models import backbone, zoo
from instancefcn.models.targets import Target
from instancefcn.ops import depthwise_convolution
from results import write_result

DTYPES = (torch.float32, torch.bfloat16) if convolves_in_bfloat16() else (torch.float32,)


def library(x: Tensor, filters: Tensor, bias: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    """PyTorch's own, with the same arguments as `depthwise_convolution`."""
    return F.conv2d(x, filters, bias, stride, padding, dilation, x.shape[1])


def medians(cases: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of every case, in turns, after one warm-up turn."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, call in cases.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def step_cases(height: int, width: int, batch: int) -> dict[str, Callable[[], None]]:
    """Training steps of one network on one batch."""
    torch.manual_seed(0)
    network = zoo.build("fcis_lite", 7).train()
    images = [torch.rand(3, height, width) for _ in range(batch)]
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    masks[0, height // 8 : height // 2, width // 8 : width // 2] = 1
    masks[1, height // 3 : -9, width // 2 : -9] = 1
    crops = CroppedMasks.from_dense(masks)
    target = Target(crops.tight_boxes(), torch.tensor([1, 3]), crops, (1.0, 1.0), 1, torch.zeros(0, 4))

    def step(form: Callable[..., Tensor], half: bool) -> None:
        network.zero_grad(set_to_none=True)
        with (
            mock.patch.object(backbone, "depthwise_convolution", form),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            losses = network(images, [target] * batch)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()

    return {
        f"step, {str(dtype)[6:]}, {name}": lambda form=form, dtype=dtype: step(form, dtype != torch.float32)
        for dtype in DTYPES
        for name, form in (("library", library), ("ours", depthwise_convolution))
    }


def layer_cases(batch: int) -> dict[str, Callable[[], None]]:
    """Forward and backward of single layers: (channels, size, cells, dilation) of fcis_lite at 384 x 512."""
    cases: dict[str, Callable[[], None]] = {}
    for channels, size, height, width, dilation in (
        (240, 5, 48, 64, 1),
        (672, 5, 24, 32, 1),
        (1152, 5, 24, 32, 2),
        (1152, 3, 24, 32, 2),
    ):
        for dtype in DTYPES:
            x = torch.randn(batch, channels, height, width).to(dtype, memory_format=torch.channels_last)
            filters = torch.randn(channels, 1, size, size).to(dtype)
            bias = torch.zeros(channels, dtype=dtype)
            for name, form in (("library", library), ("ours", depthwise_convolution)):

                def run(form=form, x=x, filters=filters, bias=bias, dilation=dilation) -> None:  # type: ignore[no-untyped-def]
                    x, filters = x.detach().requires_grad_(), filters.detach().requires_grad_()
                    out = form(x, filters, bias, 1, dilation * (filters.shape[-1] // 2), dilation)
                    torch.autograd.grad(out, (x, filters), out.detach())

                kind = f"{size} x {size}, {channels} channels, {height} x {width}, dilation {dilation}"
                cases[f"{kind}, {str(dtype)[6:]}, {name}"] = run
    return cases


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 512))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = medians(step_cases(*options.size, options.batch), options.repeats)
    results |= medians(layer_cases(options.batch), options.repeats)
    print(f"{'milliseconds':<66}{'library':>9}{'ours':>9}{'ratio':>7}")
    figures = {}
    for name, seconds in results.items():
        if name.endswith(", library"):
            case = name.removesuffix(", library")
            ours = results[f"{case}, ours"]
            figures[case] = {"library": 1000 * seconds, "ours": 1000 * ours}
            print(f"{case:<66}{1000 * seconds:>9.1f}{1000 * ours:>9.1f}{ours / seconds:>7.2f}")
    if options.json is not None:
        write_result(options.json, {"milliseconds": figures})


if __name__ == "__main__":
    main()
