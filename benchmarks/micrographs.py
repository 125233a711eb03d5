"""The measure of the nucleus field, TP / (TP + FP + FN) at IoU 0.5 to 0.9, per image and by modality.

    python benchmarks/micrographs.py DATA --model fcis-nuclei [--split val] [--score S] [--tune-on 100]
        [--tile auto|PIXELS] [--json FILE]

DATA is COCO JSON. An image record may name its "modality"; figures are given for each and for all: the mean
over the images, all objects pooled, and how far off the outlines are (see outlines.py). Where detections
overlap, the better one has the pixel; where annotations do, the later one. The minimum score of a detection
is --score, or else the one of 0.05, 0.1, ..., 0.95 that is best on --tune-on images of the train split,
spread evenly over it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import instancefcn
from instancefcn.cli.options import parse_tile
from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.evaluation.matching import THRESHOLDS, Matches, match, mean_score
from instancefcn.geometry.resizing import resized_size
from instancefcn.inference.predictor import Predictor, Tile
from instancefcn.inference.result_formats import label_map
from instancefcn.instances import Instances
from outlines import Match, matches, row, shown
from results import write_result

SCORES = tuple(round(0.05 * i, 2) for i in range(1, 20))


@dataclass(frozen=True)
class Group:
    """What was found in the images of one modality: an outcome per image, and the outlines that match."""

    outcomes: list[Matches]
    outlines: list[Match]

    def figures(self) -> dict[str, Any]:
        """Mean over the images, all objects together, and how far off the outlines are."""
        return {
            "images": len(self.outcomes),
            "mean": by_threshold(mean_score(self.outcomes)),
            "pooled": by_threshold(reduce(add, self.outcomes).score),
            "outlines": row(self.outlines),
        }


def by_threshold(scores: NDArray[np.float64]) -> dict[str, float]:
    """{"0.5": ..., ..., "0.9": ..., "average": over all thresholds}."""
    named = zip(map(str, THRESHOLDS), scores.tolist(), strict=True)
    return {**dict(named), "average": float(scores.mean())}


def truth_of(image: ImageRecord) -> np.ndarray[Any, Any]:
    """The annotated objects as a label map [H, W]."""
    masks = rasterize(image)
    numbers = np.zeros((image.height, image.width), np.int64)
    for index, (x1, y1, x2, y2) in enumerate(masks.rects.tolist()):
        numbers[y1:y2, x1:x2][masks.crop(index).numpy() > 0] = index + 1
    return numbers


def compare(image: ImageRecord, found: Instances, score: float) -> Matches:
    """The image's annotations and the detections from `score` on."""
    return match(truth_of(image), label_map(found.filter(score)))


def segment(predictor: Predictor, images: Sequence[ImageRecord], tile: Tile = None) -> list[Instances]:
    """What is found in the images with at least the lowest of SCORES."""
    found = []
    for done, image in enumerate(images, start=1):
        found.append(predictor(image.path, score=SCORES[0], tile=tile))
        if done % 20 == 0:
            print(f"{done} of {len(images)} images", file=sys.stderr, flush=True)
    return found


def best_score(predictor: Predictor, train: Dataset, count: int) -> float:
    """The score with the best mean over IoU 0.5 to 0.9 on some images."""
    places = np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int)
    images = [train.images[i] for i in places]
    found = segment(predictor, images)
    means = [
        mean_score([compare(p, f, score) for p, f in zip(images, found, strict=True)]).mean()
        for score in SCORES
    ]
    return SCORES[int(np.argmax(means))]


def modalities(data: Path, split: str) -> dict[int, str]:
    """Image id to modality, where the annotation file says it."""
    records = json.loads((data / f"{split}.json").read_text(encoding="utf-8"))["images"]
    return {record["id"]: record["modality"] for record in records if "modality" in record}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="fcis-nuclei")
    parser.add_argument("--split", default="val")
    parser.add_argument("--score", type=float)
    parser.add_argument("--tune-on", type=int, default=100, metavar="IMAGES")
    parser.add_argument(
        "--tile",
        type=parse_tile,
        default="off",
        metavar="auto|PIXELS",
        help="as of predict; the score is then chosen without tiles",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    predictor = instancefcn.load(options.model, precision="32")
    score = options.score
    if score is None:
        score = best_score(predictor, open_dataset(options.data, "train"), options.tune_on)
    dataset, kinds = open_dataset(options.data, options.split), modalities(options.data, options.split)
    found = segment(predictor, dataset.images, options.tile)
    sides = predictor.preprocessing.short_side, predictor.preprocessing.long_side
    groups: dict[str, Group] = {"all": Group([], [])}
    for image, instances in zip(dataset.images, found, strict=True):
        outcome = compare(image, instances, score)
        outlines = list(
            matches(image, instances.filter(score), resized_size(image.height, image.width, *sides))
        )
        for name in ("all", kinds.get(image.id, "unknown")):
            group = groups.setdefault(name, Group([], []))
            group.outcomes.append(outcome)
            group.outlines.extend(outlines)
    show(score, groups)
    if options.json is not None:
        write_result(
            options.json, {"score": score, **{name: group.figures() for name, group in groups.items()}}
        )


def show(score: float, groups: dict[str, Group]) -> None:
    """Print the table."""
    print(f"detections from score {score}; mean over the images, then all objects together (pooled)")
    print(f"{'':<29}{'images':>9}" + "".join(f"{t:>7}" for t in THRESHOLDS) + f"{'mean':>8}")
    for name, group in groups.items():
        for kind, values in (
            ("", mean_score(group.outcomes)),
            (", pooled", reduce(add, group.outcomes).score),
        ):
            figures = "".join(f"{value:>7.3f}" for value in values) + f"{values.mean():>8.3f}"
            print(f"{name + kind:<29}{len(group.outcomes) if not kind else '':>9}{figures}")
    print("\nmatched objects off the border: detection minus annotation, with standard errors")
    for name, group in groups.items():
        means = row(group.outlines)
        x, y, area = (shown(means[key], 2) for key in ("x", "y", "area_percent"))
        print(f"{name:<29}{means['objects']:>9} objects   x {x} px   y {y} px   area {area} %")


if __name__ == "__main__":
    main()
