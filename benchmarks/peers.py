"""`fcis_resnet50` beside torchvision's Mask R-CNN (ResNet-50, FPN) on a CPU: time, memory, training step.

    python benchmarks/peers.py [--json FILE] [--repeats 3] [--threads 2] [--size 600 800]

Both have 81 classes with background, random weights (speed does not depend on them, but for this: untrained
scores are all alike, so both return their full 100 objects) and the same random images.

* predict: from a decoded image of `--size` to 100 objects with masks at the image's size; the network
  sees the image at that size. Ours: 300 + 300 windows, voted masks kept as crops; Mask R-CNN: its own 1,000
  proposals, masks pasted into full-size arrays.
* convolutions: backbone, score maps and RPN of ours alone; "after" is the rest of predict.
* step: forward and backward, 2 images with 10 objects each, 300 windows an image (ours: OHEM); stem,
  first stage and normalisations of both are frozen, as when they are trained from ImageNet weights.
* memory: of a process of its own that imports the libraries, builds the network and runs it three times:
  maximum resident size of the process, the same without the libraries, and what an image takes beyond the
  loaded network (which is what the promise is about: the libraries alone are most of the rest).

Runs of ours and of the peer alternate; medians after a warm-up. Promises: see LIMITS.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memory import peak
from results import write_result

CLASSES, OBJECTS, WINDOWS = 80, 10, 300
LIMITS = {"after / convolutions": 0.08, "predict": 0.55, "memory": 0.6, "step": 0.7}
"""What is promised: at most this part of the peer's figure, or of the convolutions' time."""


def make_ours() -> nn.Module:
    """`fcis_resnet50` with random weights."""
    from instancefcn.models import zoo

    torch.manual_seed(0)
    return zoo.build("fcis_resnet50", CLASSES)


def make_peer(size: tuple[int, int]) -> nn.Module:
    """Mask R-CNN that sees images at `size` (height, width) and keeps 100 objects whatever they score."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    network: nn.Module = MaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3),
        num_classes=CLASSES + 1,
        min_size=min(size),
        max_size=max(size),
        box_score_thresh=0.0,
        box_detections_per_img=100,
        box_batch_size_per_image=WINDOWS,
    )
    return network


def random_image(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth random colours [3, H, W], 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 9, 12, generator=generator)
    return nn.functional.interpolate(small, size, mode="bicubic")[0].clamp(0, 1)


def objects(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [10, 4], labels [10] from 1, filled masks uint8 [10, H, W]."""
    generator = torch.Generator().manual_seed(1)
    sides = 40 + 200 * torch.rand(OBJECTS, 2, generator=generator)
    corner = torch.rand(OBJECTS, 2, generator=generator) * (torch.tensor(size[::-1]) - sides)
    boxes = torch.cat((corner, corner + sides), 1).round()
    masks = torch.zeros(OBJECTS, *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return boxes, 1 + torch.randint(0, CLASSES, (OBJECTS,), generator=generator), masks


def predict(network: nn.Module, image: Tensor) -> int:
    """One whole inference; the number of objects."""
    with torch.inference_mode():
        (result,) = network([image])
    return len(result) if not isinstance(result, dict) else len(result["boxes"])


def make_steps(size: tuple[int, int]) -> dict[str, Callable[[], float]]:
    """A training step, forward and backward, of ours and of the peer: each returns its loss."""
    from instancefcn.geometry.cropped_masks import CroppedMasks
    from instancefcn.models.targets import Target

    boxes, labels, masks = objects(size)
    images = [random_image(size, seed) for seed in (0, 1)]
    cropped = CroppedMasks.from_dense(masks)
    none = torch.zeros((0, 4))
    targets = [Target(boxes, labels - 1, cropped, (1.0, 1.0), i, none) for i in (0, 1)]
    dicts = [{"boxes": boxes, "labels": labels, "masks": masks}] * 2
    ours, peer = make_ours().train(), make_peer(size).train()

    def step(network: nn.Module, truth: list[Any]) -> float:
        network.zero_grad()
        loss = sum(network(images, truth).values())
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss.item()

    return {"ours": lambda: step(ours, targets), "peer": lambda: step(peer, dicts)}


def alternate(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each of `runs`, which take turns, after one warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def time_predict(size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Seconds of predict, and of ours the convolutions and all that follows."""
    from instancefcn.inference.timing import CONVOLUTIONS
    from instancefcn.profiling import listen

    ours, peer, image = make_ours().eval(), make_peer(size).eval(), random_image(size)
    for network in (ours, peer):
        found = predict(network, image)
        assert found == 100, f"{type(network).__name__} found {found} objects instead of 100"
    parts: list[float] = []

    def run_ours() -> None:
        with listen() as seconds:
            predict(ours, image)
        parts.append(sum(seconds[name] for name in CONVOLUTIONS if name in seconds))

    figures = alternate({"ours": run_ours, "peer": lambda: predict(peer, image)}, repeats)
    figures["convolutions"] = statistics.median(parts[1:])  # of the same runs, without the warm-up
    return figures


def measure_memory(which: str, size: tuple[int, int]) -> dict[str, float]:
    """Maximum resident MiB of a process of its own that runs `which` three times: with the libraries alone,
    with the network, and in the end.
    """
    command = [sys.executable, __file__, "--memory-of", which, "--size", *map(str, size)]
    command += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown: dict[str, float] = json.loads(done.stdout)
    return grown


def run_for_memory(which: str, size: tuple[int, int]) -> None:
    """What `measure_memory` starts."""
    import torchvision.models.detection  # noqa: F401

    import instancefcn.models.zoo  # noqa: F401

    grown = {"libraries": peak()}
    network = (make_ours() if which == "ours" else make_peer(size)).eval()
    grown["network"] = peak()
    for _ in range(3):
        predict(network, random_image(size))
    print(json.dumps({**grown, "process": peak()}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=[600, 800], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--memory-of", choices=["ours", "peer"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = (options.size[0], options.size[1])
    if options.memory_of:
        run_for_memory(options.memory_of, size)
        return
    # First, while this process is small: Linux counts it into the peak of those it starts.
    memory = {name: measure_memory(name, size) for name in ("ours", "peer")}
    for grown in memory.values():
        grown["without libraries"] = grown["process"] - grown["libraries"]
        grown["image"] = grown["process"] - grown["network"]
    predicted = time_predict(size, options.repeats)
    steps = alternate(make_steps(size), options.repeats)
    after = predicted["ours"] - predicted["convolutions"]
    ratios = {
        "after / convolutions": after / predicted["convolutions"],
        "predict": predicted["ours"] / predicted["peer"],
        "memory": memory["ours"]["image"] / memory["peer"]["image"],
        "step": steps["ours"] / steps["peer"],
    }
    print(f"{size[0]} x {size[1]} pixels, {CLASSES + 1} classes, {options.threads} threads")
    print(f"{'':<28}{'ours':>9}{'peer':>9}{'ratio':>9}{'at most':>9}")
    rows = [
        ("predict, ms", 1000 * predicted["ours"], 1000 * predicted["peer"], "predict"),
        ("memory of an image, MiB", memory["ours"]["image"], memory["peer"]["image"], "memory"),
        ("training step, ms", 1000 * steps["ours"], 1000 * steps["peer"], "step"),
        ("after / convolutions, ms", 1000 * after, 1000 * predicted["convolutions"], "after / convolutions"),
    ]
    figures: dict[str, dict[str, float]] = {}
    for name, ours, peer, key in rows:
        figures[name] = {"ours": ours, "peer": peer, "ratio": ratios[key], "limit": LIMITS[key]}
        kept = "" if ratios[key] <= LIMITS[key] else "  NOT kept"
        print(f"{name:<28}{ours:>9.0f}{peer:>9.0f}{ratios[key]:>9.3f}{LIMITS[key]:>9.2f}{kept}")
    print("(the last row: ours alone)")
    for name in ("without libraries", "process"):
        ours, peer = memory["ours"][name], memory["peer"][name]
        figures[f"memory, {name}, MiB"] = {"ours": ours, "peer": peer, "ratio": ours / peer}
        print(f"{f'memory, {name}, MiB':<28}{ours:>9.0f}{peer:>9.0f}{ours / peer:>9.3f}")
    if options.json is not None:
        write_result(options.json, {"threads": options.threads, "figures": figures})


if __name__ == "__main__":
    main()
