"""Whole networks on a GPU, for `gpu.py`: FCIS by stages, and beside Mask R-CNN, in inference and in training.

FCIS runs in three forms: eager, compiled, and as a CUDA graph (`FORMS`). Compiled is `FCIS.score_windows`,
all before the votes; Mask R-CNN runs eager, as its shapes depend on the images.

Weights and images are random, so nothing is downloaded. A random network finds objects everywhere or
nowhere; so that what follows the scores has something to do, each network's threshold is set to let through
about 200 (window, class) pairs per image, of which at most 100 survive. Both run under bfloat16 autocast, in
channels-last memory.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from gpu_timing import milliseconds, synchronize
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.models import zoo
from instancefcn.models.fcis import FCIS
from instancefcn.models.targets import Target

PAIRS = 200
FORMS: dict[str, dict[str, Any]] = {"compiled": {}, "CUDA graph": {"mode": "reduce-overhead"}}
"""What `torch.compile` is told."""
Call = Callable[[], object]


def cast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast."""
    return torch.autocast(device.type, torch.bfloat16)


def random_images(batch: int, size: tuple[int, int], device: torch.device) -> list[Tensor]:
    """Random ones, [3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand((3, *size), generator=generator).to(device) for _ in range(batch)]


def build(name: str, classes: int, device: torch.device) -> FCIS:
    """One of our networks for inference."""
    torch.manual_seed(0)
    network = zoo.build(name, classes)
    assert isinstance(network, FCIS)
    return network.to(device, memory_format=torch.channels_last).eval()


def mask_rcnn(classes: int, size: tuple[int, int], device: torch.device) -> Any:
    """torchvision's Mask R-CNN for inference; frozen are normalisations, stem and first stage, as in FCIS."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks that without weights every layer is trained
        network = torchvision.models.detection.maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=classes + 1,
            min_size=size[0],
            max_size=max(1000, size[1]),
        )
    for name, parameter in network.backbone.body.named_parameters():
        if name.startswith(("conv1", "bn1", "layer1")) or ".bn" in name or "downsample.1" in name:
            parameter.requires_grad_(False)
    return network.to(device, memory_format=torch.channels_last).eval()


def train_mode(network: nn.Module) -> None:
    """Training mode, but normalisations use their running statistics."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@contextmanager
def watched(module: nn.Module) -> Iterator[list[Any]]:
    """What the module returns, while the block runs."""
    seen: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()


def score_of_rank(probabilities: Tensor, rank: int) -> float:
    """The score that `rank` foreground pairs reach."""
    foreground = probabilities[:, 1:].float().flatten()
    return float(foreground.topk(min(rank, foreground.numel())).values[-1])


def lowest_score(network: FCIS, images: list[Tensor], device: torch.device) -> float:
    """The threshold that lets about `PAIRS` pairs per image through."""
    seen: list[Tensor] = []
    original = network.class_logits

    def remember(maps: Tensor, rois: Tensor) -> Tensor:
        seen.append(original(maps, rois))
        return seen[-1]

    network.class_logits = remember  # type: ignore[method-assign]
    try:
        with torch.inference_mode(), cast(device):
            network(images, min_score=1.1)
    finally:
        del network.class_logits
    return score_of_rank(seen[0].softmax(1), PAIRS * len(images))


def stages(
    network: FCIS, images: list[Tensor], minimum: float, device: torch.device, repeats: int
) -> dict[str, float]:
    """Median milliseconds of the parts of `FCIS.forward`, one after the other; between them the GPU is waited
    for, so that each pays for its own launches: their sum is more than the whole.
    """
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        synchronize(device)
        start = time.perf_counter()
        result = call(*arguments)
        synchronize(device)
        times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return result

    with torch.inference_mode(), cast(device):
        for _ in range(repeats + 3):
            batch, sizes = timed("collate", network.collate, images)
            maps, box_maps, *outputs = timed("convolutions", network.convolve, batch)
            proposals = timed("proposals", network.rpn.proposals, *outputs, sizes)
            windows = timed("scoring", network.score, maps, box_maps, proposals, sizes)
            timed("voting", network.vote_instances, windows, sizes, sizes, minimum, 100)
    return {name: statistics.median(values[3:]) for name, values in times.items()}


def parts(
    network: FCIS, images: list[Tensor], minimum: float, device: torch.device, repeats: int
) -> dict[str, float]:
    """Milliseconds of the convolutions, of all before the votes, and of all; and what follows the
    convolutions, as it adds to them (launches hide behind the GPU's work), as a part of them.
    """
    batch, sizes = network.collate(images)

    def time_of(call: Call) -> float:
        with torch.inference_mode(), cast(device):
            return milliseconds(call, device, repeats)

    def all_of_it() -> object:
        return network.vote_instances(network.score_windows(batch, sizes), sizes, sizes, minimum, 100)

    convolutions = time_of(lambda: network.convolve(batch))
    look, whole = time_of(lambda: network.score_windows(batch, sizes)), time_of(all_of_it)
    return {
        "convolutions ms": convolutions,
        "before the votes ms": look,
        "with the votes ms": whole,
        "ratio": (whole - convolutions) / convolutions,
    }


def throughput(call: Call, batch: int, device: torch.device, repeats: int) -> dict[str, float | None]:
    """Images per second, and the most memory that PyTorch held, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = milliseconds(call, device, repeats)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"ms": taken, "images/s": 1000 * batch / taken, "peak MiB": peak}


def inference(
    name: str, size: tuple[int, int], batch: int, classes: int, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Stages and throughput of one of our networks, in all forms."""
    network, images = build(name, classes, device), random_images(batch, size, device)
    minimum = lowest_score(network, images, device)
    found: dict[str, Any] = {"lowest score": minimum}

    def run() -> Any:
        with torch.inference_mode(), cast(device):
            return network(images, min_score=minimum)

    found["instances per image"] = sum(len(result) for result in run()) / batch
    found["stages"] = stages(network, images, minimum, device, repeats)
    found["parts"] = parts(network, images, minimum, device, repeats)
    found["whole"] = throughput(run, batch, device, repeats)
    eager = network.score_windows
    # Compiling for a CPU takes minutes and tells nothing: there only the tracing is tried.
    forms = FORMS if device.type == "cuda" else {"compiled": {"backend": "aot_eager"}}
    for form, settings in forms.items():
        try:
            torch._dynamo.reset()
            network.score_windows = torch.compile(  # type: ignore[method-assign]
                eager, fullgraph=True, dynamic=False, **settings
            )
            found[form] = {"whole": throughput(run, batch, device, repeats)}
            found[form]["instances per image"] = sum(len(result) for result in run()) / batch
        except Exception as problem:  # a form that fails must not take the other figures along
            found[form] = {"error": f"{type(problem).__name__}: {str(problem)[:2000]}"}
        finally:
            network.score_windows = eager  # type: ignore[method-assign]
    return found


def mask_rcnn_inference(
    size: tuple[int, int], batch: int, classes: int, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Throughput of Mask R-CNN, whole-image masks included."""
    network, images = mask_rcnn(classes, size, device), random_images(batch, size, device)
    with watched(network.roi_heads.box_predictor) as seen, torch.inference_mode(), cast(device):
        network(images)
    network.roi_heads.score_thresh = score_of_rank(seen[0][0].softmax(1), PAIRS * batch)

    def run() -> Any:
        with torch.inference_mode(), cast(device):
            return network(images)

    count = sum(len(result["boxes"]) for result in run()) / batch
    return {"instances per image": count, "whole": throughput(run, batch, device, repeats)}


def objects(size: tuple[int, int], classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Seven rectangles: boxes [7, 4], labels [7] (0-based), masks uint8 [7, H, W]."""
    height, width = size
    masks = torch.zeros((7, height, width), dtype=torch.uint8)
    for g in range(7):
        y, x = height * g // 14, width * g // 14
        masks[g, y : y + height // (2 + g % 3), x : x + width // (2 + g % 4)] = 1
    return CroppedMasks.from_dense(masks).tight_boxes(), torch.arange(7) % classes, masks


def training_step(
    network: Any, call: Callable[[], dict[str, Tensor]], batch: int, device: torch.device, repeats: int
) -> dict[str, float | None]:
    """Forward, losses, backward and a step of SGD."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 1e-5, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast(device):
            losses = call()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()

    return throughput(step, batch, device, repeats)


def training(
    name: str, size: tuple[int, int], batch: int, classes: int, device: torch.device, repeats: int
) -> dict[str, float | None]:
    """A training step of one of our networks."""
    network, images = build(name, classes, device).train(), random_images(batch, size, device)
    boxes, labels, masks = objects(size, classes)
    target = Target(boxes, labels, CroppedMasks.from_dense(masks), (1.0, 1.0), 1, torch.zeros(0, 4))
    targets = [target.to(device)] * batch
    return training_step(network, lambda: network(images, targets), batch, device, repeats)


def mask_rcnn_training(
    size: tuple[int, int], batch: int, classes: int, device: torch.device, repeats: int
) -> dict[str, float | None]:
    """A training step of Mask R-CNN."""
    network, images = mask_rcnn(classes, size, device), random_images(batch, size, device)
    train_mode(network)
    boxes, labels, masks = (value.to(device) for value in objects(size, classes))
    targets = [{"boxes": boxes, "labels": labels + 1, "masks": masks}] * batch
    return training_step(network, lambda: network(images, targets), batch, device, repeats)
