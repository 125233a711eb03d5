"""Times mask voting on a CPU: 100 instances with about 10 voters each in an image of 600 x 800 pixels.

    python benchmarks/voting.py [--json FILE] [--repeats 15] [--threads N] [--seed 0]

`vote_masks` is the whole operator (suppression, voters, average, masks inside the boxes), `vote_average` its
inner step alone, in both forms. Beside them torchvision's `paste_masks_in_image` of the same instances, which
pastes one mask each, without voting, on whole images. Calls alternate, so that all meet the same load;
each figure is the median after warm-up. The promise: `vote_masks` within 15 ms on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from instancefcn import ops
from instancefcn.geometry.boxes import clip
from instancefcn.ops.voting import portable as voting_portable
from instancefcn.ops.voting.average import vote_average
from instancefcn.ops.voting.operator import vote_masks
from instancefcn.published.voting import vote_published
from results import write_result

INSTANCES, VOTERS, CLASSES, M, SIZE = 100, 10, 81, 21, (600, 800)
LIMIT_MS = 15.0
PEER = "paste_masks_in_image"


def make_rois(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [1000, 4], probabilities [1000, 81], masks [1000, 21, 21] of 100 objects with ten RoIs each."""
    generator = torch.Generator().manual_seed(seed)
    span = torch.tensor([SIZE[1], SIZE[0]], dtype=torch.float32)
    centre = torch.rand((INSTANCES, 1, 2), generator=generator) * span
    sides = 50 * 8 ** torch.rand((INSTANCES, 1, 2), generator=generator)  # 50 to 400 pixels
    half = sides / 2 * (1 + 0.06 * torch.randn((INSTANCES, VOTERS, 2), generator=generator))
    centre = centre + 0.04 * sides * torch.randn((INSTANCES, VOTERS, 2), generator=generator)
    boxes = clip(torch.cat((centre - half, centre + half), 2).flatten(0, 1), SIZE)
    label = 1 + torch.arange(INSTANCES).repeat_interleave(VOTERS) % (CLASSES - 1)
    score = 0.5 + 0.4 * torch.rand(INSTANCES * VOTERS, generator=generator)
    probabilities = ((1 - score) / (CLASSES - 1))[:, None].repeat(1, CLASSES).clamp(max=9e-4)
    probabilities[torch.arange(len(label)), label] = score
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(1)
    grid = (torch.arange(M) + 0.5) / M - 0.5
    disc = (0.25 - grid[:, None] ** 2 - grid**2) * 20
    masks = torch.sigmoid(disc + torch.randn((len(label), M, M), generator=generator))
    return boxes, probabilities, masks


def make_cases(seed: int) -> tuple[dict[str, Callable[[], object]], str]:
    """The calls to be timed, and a line on what they work on."""
    boxes, probabilities, masks = make_rois(seed)

    def read(rows: Tensor, classes: Tensor) -> Tensor:
        return masks[rows]

    voted = vote_masks(read, boxes, probabilities, SIZE)
    index = (voted.rows // VOTERS * VOTERS)[:, None] + torch.arange(VOTERS)  # the RoIs of the same object
    weights = probabilities[index, voted.classes[:, None]]
    weights = (weights / weights.sum(1, keepdim=True)).flatten()
    starts = torch.arange(len(voted) + 1) * VOTERS
    votes = (masks, boxes, index.flatten(), weights, starts, voted.masks.rects, 0.4, None)
    cases: dict[str, Callable[[], object]] = {
        "vote_masks": lambda: vote_masks(read, boxes, probabilities, SIZE),
        "vote_published": lambda: vote_published(read, boxes, probabilities, SIZE),
        "vote_average": lambda: vote_average(*votes),
        "vote_average, portable": lambda: voting_portable.vote_average(*votes),
        PEER: lambda: paste_masks_in_image(masks[voted.rows][:, None], boxes[voted.rows], SIZE),
    }
    return (
        cases,
        f"{len(voted)} instances, {VOTERS} votes each, {voted.masks.pixels.numel() / 1e6:.1f} Mpixel",
    )


def measure(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds; the cases take turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 2):
        for name, call in cases.items():
            start = time.perf_counter()
            call()
            if turn >= 2:  # two warm-up turns
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    cases, line = make_cases(arguments.seed)
    times = measure(cases, arguments.repeats)
    ratios = {name: value / times[PEER] for name, value in times.items() if name != PEER}
    kept = times["vote_masks"] <= LIMIT_MS
    print(f"{line}; {SIZE[0]} x {SIZE[1]}, {arguments.threads} threads")
    print(f"{'':26}{'ms':>10}{'/ ' + PEER:>24}")
    for name, value in times.items():
        print(f"{name:26}{value:10.1f}{value / times[PEER]:24.3f}")
    print(f"{'promised at most':26}{LIMIT_MS:10.1f}{'kept' if kept else 'NOT kept':>24}")
    if arguments.json:
        settings = {"threads": arguments.threads, "kernels": ops.HAS_KERNELS}
        figures = {"milliseconds": times, "ratios": ratios, "limit": LIMIT_MS, "kept": kept}
        write_result(arguments.json, settings | figures)


if __name__ == "__main__":
    main()
