"""Times InstanceFCN: what comes after the convolutions against the convolutions, on real images.

    python benchmarks/propose.py DATA [--model NAME|PATH] [--split val] [--images 10] [--repeats 3]
        [--top 1000] [--threads 2] [--json FILE]

After the convolutions: ranking all windows of all levels, assembling the best, suppression, and refining up
to `top` masks to the image's resolution. The promise: at most a third of the convolutions' time, on two
cores. Medians over the images of the medians of the repeats, after a warm-up image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from instancefcn.data.formats.layouts import open_dataset
from instancefcn.geometry.resizing import resize
from instancefcn.images.decoding import read_image
from instancefcn.inference.predictor import load
from instancefcn.models.instance_fcn import InstanceFCN
from results import write_result

LIMIT = 1 / 3


def measure(
    network: InstanceFCN, image: torch.Tensor, size: tuple[int, int], top: int
) -> tuple[float, float, int]:
    """Seconds of the convolutions, seconds of all that follows, and the number of proposals."""
    start = time.perf_counter()
    levels = [network.score_maps(level) for level in network.pyramid(image)]
    middle = time.perf_counter()
    found = network.finish(network.candidates(levels, image.shape[1:], size, 0.0), size, top)
    return middle - start, time.perf_counter() - middle, len(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="instancefcn-objects")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--top", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    predictor = load(options.model, device="cpu")
    network, sides = predictor.network, predictor.preprocessing
    assert isinstance(network, InstanceFCN), "this benchmark is for proposals"
    dataset = open_dataset(options.data, options.split, check_images=False)
    rows = []
    with torch.inference_mode():
        for number, image in enumerate(dataset.images[: options.images + 1]):
            pixels = resize(read_image(image.path), sides.short_side, sides.long_side)[0]
            runs = [
                measure(network, pixels, (image.height, image.width), options.top)
                for _ in range(options.repeats)
            ]
            if number:
                rows.append([statistics.median(column) for column in zip(*runs, strict=True)])
    before, after, count = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"{len(rows)} images, {network.spec.levels} levels from a short side of {sides.short_side} px")
    print(
        f"convolutions {before:.3f} s, the rest {after:.3f} s for {count:.0f} proposals: {after / before:.3f}"
    )
    print(f"promise: at most {LIMIT:.3f}: {'kept' if after / before <= LIMIT else 'NOT kept'}")
    if options.json is not None:
        seconds = {"convolutions": before, "after": after}
        write_result(options.json, {**seconds, "ratio": after / before, "limit": LIMIT, "proposals": count})


if __name__ == "__main__":
    main()
