"""The operators on a GPU, for `gpu.py`: their results against the reference, and their speed.

Speed is at the size of the paper's network: 300 windows per image, 81 classes, k = 7, 38 x 63 cells, maps in
the channels-last memory that a convolution hands over. Beside every time stands the memory that must be moved
at least: of the forward operators every value that some window reads, once; of a gradient the whole of it,
written once, and the maps, where they are read. `reads` counts the values again for every window that reads
them; caches may serve the repetitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from gpu_timing import kernel_milliseconds, milliseconds
from instancefcn import ops
from instancefcn.ops import portable, reference
from instancefcn.ops.suppression import suppress, with_torchvision
from instancefcn.ops.voting import portable as voting_portable
from instancefcn.ops.voting import reference as voting_reference
from instancefcn.ops.voting.average import extents, vote_average

STRIDE = 16.0
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Sizes:
    """Of one measurement."""

    images: int = 1
    windows: int = 300
    classes: int = 81
    k: int = 7
    height: int = 38
    width: int = 63


@dataclass
class Inputs:
    """Maps of a type, in the memory order of the network; windows like a region proposal network's."""

    paired: Tensor
    boxes: Tensor
    rois: Tensor
    labels: Tensor

    @classmethod
    def make(cls, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
        """Random ones, the same every time: sides of 32 to 512 pixels, aspects 1:2 to 2:1, clipped."""
        generator = torch.Generator().manual_seed(0)
        cells = (sizes.images, sizes.height, sizes.width, sizes.k, sizes.k)
        count = sizes.images * sizes.windows
        extent = torch.tensor([sizes.width * STRIDE, sizes.height * STRIDE])
        side = 32 * 16 ** torch.rand(count, 1, generator=generator)
        stretch = 2 ** (torch.rand(count, 1, generator=generator) - 0.5)
        half = torch.cat([side * stretch, side / stretch], 1) / 2
        centre = torch.rand(count, 2, generator=generator) * extent
        image = torch.arange(count)[:, None] // sizes.windows
        corners = [(centre - half).clamp(min=0), torch.minimum(centre + half, extent)]
        paired = torch.randn((*cells, 2, sizes.classes), generator=generator).to(device, dtype)
        boxes = torch.randn((*cells, 4), generator=generator).to(device, dtype)
        return cls(
            paired.permute(0, 3, 4, 5, 6, 1, 2),
            boxes.permute(0, 3, 4, 5, 1, 2),
            torch.cat([image.float(), *corners], 1).to(device),
            torch.randint(sizes.classes, (count,), generator=generator).to(device),
        )

    def calls(self, form: Any) -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
        """The operators of a form: maps, and a function of them."""
        return {
            "class_scores": (self.paired, lambda maps: form.class_scores(maps, self.rois, STRIDE)),
            "ps_average": (self.boxes, lambda maps: form.ps_average(maps, self.rois, STRIDE)),
            "mask_logits": (
                self.paired,
                lambda maps: form.mask_logits(maps, self.rois, self.labels, STRIDE, 21),
            ),
        }

    def double(self, device: str | torch.device) -> Inputs:
        """The same in float64 on a device."""
        moved = [value.to(device) for value in (self.paired.double(), self.boxes.double())]
        return Inputs(*moved, self.rois.to(device), self.labels.to(device))


def with_gradient(maps: Tensor, operator: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Result, and gradient of a weighted sum of it."""
    maps = maps.detach().requires_grad_()
    out = operator(maps)
    upstream = torch.linspace(-1, 2, out.numel(), device=out.device).reshape(out.shape).to(out)
    return out.detach(), torch.autograd.grad(out, maps, upstream)[0]


def error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative where values are above 1."""
    if not got.numel():
        return 0.0
    expected = expected.to(got.device)
    return float(((got.double() - expected).abs() / expected.abs().clamp(min=1)).max())


def correctness(device: torch.device, large: Sizes) -> dict[str, Any]:
    """Largest errors: small maps against `reference.py`, full ones against the plain form in float64."""
    found: dict[str, Any] = {}
    for dtype, tolerance in TOLERANCE.items():
        for label, sizes, form in (
            ("small", Sizes(2, 7, 3, 3, 5, 6), reference),
            ("full", large, portable),
        ):
            inputs = Inputs.make(sizes, dtype, device)
            exact = inputs.double("cpu" if form is reference else device).calls(form)
            for name, (maps, operator) in inputs.calls(ops).items():
                pair = with_gradient(maps, operator)
                errors = [error(*both) for both in zip(pair, with_gradient(*exact[name]), strict=True)]
                again = with_gradient(maps, operator)
                found[f"{name}, {str(dtype)[6:]}, {label}"] = {
                    "forward": errors[0],
                    "backward": errors[1],
                    "same twice": all(torch.equal(*both) for both in zip(pair, again, strict=True)),
                    "ok": max(errors) <= tolerance,
                }
    found["vote_average"] = voting_correctness(device)
    found["suppress"] = suppression_correctness(device)
    found["ok"] = all(entry["ok"] for entry in found.values())
    return found


def votes(device: torch.device, crops: int, voters: int, side: int) -> list[Tensor]:
    """Survivors of an image of side x side pixels, each with voters that lie around it."""
    generator = torch.Generator().manual_seed(1)
    half = side * (0.05 + 0.1 * torch.rand((crops, 2), generator=generator))
    centre = half + torch.rand((crops, 2), generator=generator) * (side - 2 * half)
    box = torch.cat([centre - half, centre + half], 1)
    around = box.repeat_interleave(voters, 0)
    around = around + 0.1 * side * 0.2 * torch.randn(around.shape, generator=generator)
    around[:, 2:] = torch.maximum(around[:, 2:], around[:, :2] + 1)
    count = crops * voters
    given = [
        torch.rand((count, 21, 21), generator=generator),
        around,
        torch.arange(count),
        torch.full((count,), 1 / voters),
        torch.arange(0, count + 1, voters),
        box.round().long(),
    ]
    return [values.to(device) for values in given]


def voting_correctness(device: torch.device) -> dict[str, Any]:
    """Averages against the reference's loops and the plain form."""
    small, large = votes(device, 3, 4, 60), votes(device, 20, 10, 600)
    got = vote_average(*small, None)
    masks, boxes, _, weights, _, rects = (values.double().cpu().numpy() for values in small)
    expected = [
        voting_reference.vote_average(
            masks[4 * s : 4 * s + 4],
            boxes[4 * s : 4 * s + 4],
            weights[4 * s : 4 * s + 4],
            rects[s].astype(int),
        ).reshape(-1)
        for s in range(3)
    ]
    errors = [
        error(got, torch.from_numpy(np.concatenate(expected))),
        error(vote_average(*large, None), voting_portable.vote_average(*large, None, None)),
    ]
    pixels, rects = vote_average(*large, 0.4), large[-1]
    outlines = torch.equal(extents(pixels, rects), voting_portable.extents(pixels, rects))
    return {
        "small": errors[0], "full": errors[1], "extents": outlines,
        "ok": max(errors) <= 1e-5 and outlines,
    }  # fmt: skip


def ranked(device: torch.device, lists: int, length: int, dtype: torch.dtype) -> Tensor:
    """Boxes [lists, length, 4] like those of a region proposal network, around some objects."""
    generator = torch.Generator().manual_seed(2)
    objects = torch.rand((lists, 40, 2), generator=generator) * 900
    which = torch.randint(40, (lists, length, 1), generator=generator).expand(-1, -1, 2)
    corner = objects.gather(1, which) + 12 * torch.randn((lists, length, 2), generator=generator)
    sides = 60 + 30 * torch.rand((lists, length, 2), generator=generator)
    return torch.cat((corner, corner + sides), 2).to(device, dtype)


def suppression_correctness(device: torch.device) -> dict[str, Any]:
    """Rows that differ from torchvision's on the CPU: none should."""
    wrong = {}
    for dtype in (torch.float32, torch.float64):
        boxes = ranked(device, 3, 3000, dtype)
        for iou in (0.3, 0.7):
            other = with_torchvision(boxes.cpu(), iou, 300)
            key = f"{str(dtype)[6:]}, IoU {iou}"
            wrong[key] = int((suppress(boxes, iou, 300).cpu() != other).sum())
    return {"rows that differ": wrong, "ok": not any(wrong.values())}


def suppression_speed(device: torch.device, images: int, smoke: bool, repeats: int) -> dict[str, Any]:
    """Proposals (6000 boxes per image, 300 stay) and instances (80 classes with 600 boxes)."""
    found = {}
    for name, lists, length, count, dtype, iou in (
        ("proposals", images, 6000, 300, torch.float32, 0.7),
        ("classes", images * 80, 600, 100, torch.float64, 0.3),
    ):
        boxes = ranked(device, 2 if smoke else lists, 50 if smoke else length, dtype)
        calls = {
            "ours": partial(suppress, boxes, iou, count),
            "torchvision": partial(with_torchvision, boxes, iou, count),
        }
        found[name] = {
            form: {
                "ms": milliseconds(call, device, repeats),
                "gpu ms": kernel_milliseconds(call, device, repeats),
            }
            for form, call in calls.items()
        }
    return found


def covered(inputs: Inputs, sizes: Sizes) -> tuple[int, int]:
    """(cell, part) pairs that windows overlap: all together, and each counted once."""
    batch, x1, y1, x2, y2 = portable._cells(inputs.rois, STRIDE)
    rows = (portable._shares(y1, y2, sizes.k, sizes.height) > 0).flatten(1).float()
    columns = (portable._shares(x1, x2, sizes.k, sizes.width) > 0).flatten(1).float()
    once = 0
    for n in range(sizes.images):
        own = batch == n
        once += int(((rows[own].t() @ columns[own]) > 0).sum())
    return int((rows.sum(1) * columns.sum(1)).sum()), once


def speed(device: torch.device, sizes: Sizes, bandwidth: float, repeats: int) -> dict[str, Any]:
    """Times and bandwidths of our operators and torchvision's, in float32 and half precision."""
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inputs = Inputs.make(sizes, dtype, device)
        every, once = covered(inputs, sizes)
        points = len(inputs.rois) * 21 * 21 * 8
        depth = {"class_scores": 2 * sizes.classes, "ps_average": 4}
        cases = inputs.calls(ops)
        for name, (maps, operator) in cases.items():
            least, reads = (n * depth[name] if name in depth else points for n in (once, every))
            gradient = maps.numel() * (2 if name == "class_scores" else 1)
            entry = times(maps, operator, device, repeats)
            entry["forward"] |= rate(entry["forward"], least, reads, maps, bandwidth)
            entry["backward"] |= rate(entry["backward"], gradient, gradient, maps, bandwidth)
            found[f"{name}, {str(dtype)[6:]}"] = entry
        planes = inputs.paired.permute(0, 4, 3, 1, 2, 5, 6).flatten(1, 4).contiguous()
        for name, extra in (("ps_roi_pool", ()), ("ps_roi_align", (2,))):
            given = inputs.rois.to(dtype), sizes.k, 1 / STRIDE, *extra
            call = partial(run_peer, getattr(torchvision.ops, name), given)
            try:
                entry = times(planes, call, device, repeats)
            except Exception as problem:  # not every type is supported there
                entry = {"error": str(problem).splitlines()[0]}
            found[f"{name}, {str(dtype)[6:]}"] = entry
    return found


def run_peer(operator: Callable[..., Tensor], given: tuple[Any, ...], maps: Tensor) -> Tensor:
    """torchvision's operator on maps."""
    return operator(maps, *given)


def times(
    maps: Tensor, operator: Callable[[Tensor], Tensor], device: torch.device, repeats: int
) -> dict[str, Any]:
    """Milliseconds of a call and of the GPU's work in it, forward and backward."""
    maps = maps.detach().requires_grad_()
    out = operator(maps)
    upstream = torch.ones_like(out)

    def forward() -> None:
        with torch.no_grad():
            operator(maps)

    def backward() -> None:
        torch.autograd.grad(out, maps, upstream, retain_graph=True)

    return {
        way: {
            "ms": milliseconds(call, device, repeats),
            "gpu ms": kernel_milliseconds(call, device, repeats),
        }
        for way, call in (("forward", forward), ("backward", backward))
    }


def rate(timed: dict[str, float], least: int, reads: int, maps: Tensor, bandwidth: float) -> dict[str, float]:
    """GB/s of what must be moved, its share of the bandwidth of a copy, and GB/s of all reads."""
    seconds = timed["gpu ms"] / 1000
    gigabytes = least * maps.element_size() / 1e9
    return {
        "GB": gigabytes,
        "GB/s": gigabytes / seconds,
        "of copy": gigabytes / seconds / bandwidth,
        "reads GB/s": reads * maps.element_size() / 1e9 / seconds,
    }


def voting_speed(device: torch.device, repeats: int) -> dict[str, Any]:
    """100 survivors with 10 voters each, in 600 x 600 pixels."""
    given = votes(device, 100, 10, 600)
    found = {}
    for form in ("fastest", "portable"):
        with ops.using(form):  # type: ignore[arg-type]
            found[form] = {
                "ms": milliseconds(lambda: vote_average(*given, 0.4), device, repeats),
                "gpu ms": kernel_milliseconds(lambda: vote_average(*given, 0.4), device, repeats),
            }
    return found
