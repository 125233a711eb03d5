"""A classical baseline for proposals: selective search (Uijlings et al., IJCV 2013) of OpenCV, fast mode.

    pip install opencv-contrib-python-headless
    python benchmarks/selective_search.py DATA [--split val] [--images N] [--json FILE]

Needs no training. OpenCV gives boxes in its own order of rank. It does not give the regions themselves, so a
box's mask is made of the segments (of the segmentation that the search began with) that lie wholly in it:
all the region's own, and now and then one of its surroundings. The same measure as `instancefcn eval`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from instancefcn.data.formats.layouts import open_dataset
from instancefcn.evaluation.predictions import Encoded, encode_instances
from instancefcn.evaluation.proposals import COUNTS, measure_proposals
from instancefcn.evaluation.report import format_figure
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.decoding import read_image
from instancefcn.instances import OBJECT, Instances
from results import write_result

SEGMENT_SCALES = (150, 300)
"""Of the first segmentations; with HSV and Lab the settings of OpenCV's fast mode."""
SMOOTHING = 0.8


def searches(image: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """For each colour space and scale: the segments [H, W] that the search began with, and its boxes [R, 4]
    (x, y, width, height), best first.

    Args:
        image: [H, W, 3], BGR.
    """
    import cv2

    module = cv2.ximgproc.segmentation
    for space in (cv2.COLOR_BGR2HSV, cv2.COLOR_BGR2Lab):
        colours = cv2.cvtColor(image, space)
        for scale in SEGMENT_SCALES:
            segmentation = module.createGraphSegmentation(SMOOTHING, float(scale))
            search = module.createSelectiveSearchSegmentation()
            search.setBaseImage(image)
            search.addImage(colours)
            search.addGraphSegmentation(segmentation)
            shape = (
                module.createSelectiveSearchSegmentationStrategyFill(),
                module.createSelectiveSearchSegmentationStrategyTexture(),
                module.createSelectiveSearchSegmentationStrategySize(),
            )
            colour = module.createSelectiveSearchSegmentationStrategyColor()
            search.addStrategy(module.createSelectiveSearchSegmentationStrategyMultiple(colour, *shape))
            search.addStrategy(module.createSelectiveSearchSegmentationStrategyMultiple(*shape))
            yield segmentation.processImage(colours), search.process()


def propose(image: NDArray[np.uint8], top: int) -> Instances:
    """The `top` first boxes of all searches in turn, each once, with their masks."""
    height, width = image.shape[:2]
    lists = []
    for segments, boxes in searches(image):
        extents = segment_boxes(segments)
        lists.append([(segments, extents, tuple(box)) for box in boxes[:top].tolist()])
    chosen = {}
    for turn in zip_longest(*lists):
        for entry in turn:
            if entry is not None:
                chosen.setdefault(entry[2], entry)
    crops, corners = [], []
    for segments, extents, (x, y, w, h) in list(chosen.values())[:top]:
        limits = np.array([-x, -y, x + w, y + h])
        inside = (extents * [-1, -1, 1, 1] <= limits).all(1)
        crops.append(torch.from_numpy(inside[segments[y : y + h, x : x + w]]))
        corners.append((x, y))
    masks = CroppedMasks.from_crops(crops, corners, (height, width))
    scores = torch.linspace(1, 0, len(crops))
    labels = torch.zeros(len(crops), dtype=torch.int64)
    return Instances(masks.rects.float(), scores, labels, masks, (OBJECT,), (1,))


def segment_boxes(segments: NDArray[np.int32]) -> NDArray[np.int64]:
    """Half-open boxes [S, 4] (x1, y1, x2, y2) around the segments 0 to S - 1 of a map [H, W]."""
    count = int(segments.max()) + 1
    rows, columns = np.indices(segments.shape)
    boxes = np.empty((count, 4), np.int64)
    for column, (values, start, pick) in enumerate(
        [
            (columns, np.inf, np.minimum),
            (rows, np.inf, np.minimum),
            (columns + 1, 0, np.maximum),
            (rows + 1, 0, np.maximum),
        ]
    ):
        edge = np.full(count, start)
        pick.at(edge, segments.ravel(), values.ravel())
        boxes[:, column] = edge
    return boxes


def main() -> None:
    """Propose, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=None, help="only the first N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        import cv2
    except ImportError:
        raise SystemExit("OpenCV is missing: pip install opencv-contrib-python-headless") from None
    cv2.setRNGSeed(0)
    dataset = open_dataset(options.data, options.split)
    dataset = dataset.subset(range(min(options.images or len(dataset), len(dataset))))
    found: dict[int, Encoded] = {}
    seconds = 0.0
    for number, image in enumerate(dataset.images, start=1):
        pixels = read_image(image.path).flip(0).permute(1, 2, 0).contiguous().numpy()
        started = time.perf_counter()
        proposals = propose(pixels, COUNTS[-1])
        seconds += time.perf_counter() - started
        found[image.id] = encode_instances(proposals)
        if number % 20 == 0:
            left = seconds / number * (len(dataset) - number)
            print(f"{number}/{len(dataset)} images, about {left:.0f} s left", file=sys.stderr, flush=True)
    summary: dict[str, Any] = measure_proposals(dataset, found).summary
    summary |= {"images": len(dataset), "seconds_per_image": round(seconds / max(len(dataset), 1), 3)}
    print(f"{dataset.name}: {len(dataset)} images, {summary['seconds_per_image']:.2f} s per image")
    names = ("AR@10", "AR@100", "AR@1000", "ARs", "ARm", "ARl")
    print(f"{'':<8}" + "".join(f"{name:>9}" for name in names))
    for kind, figures in (("masks", summary), ("boxes", summary["box"])):
        print(f"{kind:<8}" + "".join(f"{format_figure(figures[name]):>9}" for name in names))
    if options.json is not None:
        write_result(options.json, {"proposals": summary})


if __name__ == "__main__":
    main()
