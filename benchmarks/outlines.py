"""How far off the outlines of found objects are: displacement and bias of the area, and what they cost in AP.

    python benchmarks/outlines.py DATA --model M [--split val] [--score 0.5] [--mask-thresholds 0.4 0.5]
        [--mask-sizes 21 28] [--json FILE]

An annotated object and a detection of its class match when their masks overlap by more than 0.6 in IoU and
neither touches the border of the image. Of matched objects, with standard errors: the mean displacement of
the mask's centre of mass in x and y (detection minus annotation, pixels of the image), the same in per cent
of the object's side (the root of its area), and the mean excess of its area in per cent. Rows: all objects,
by the size of the network's input, and by the side of the object.

With --mask-thresholds or --mask-sizes the model is measured anew with each value alone instead of its own:
the probability from which a pixel belongs to an object, and the points of a mask's grid along each side.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.ops import box_iou

import instancefcn
from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.evaluation.predictions import encode_instances
from instancefcn.evaluation.run import evaluate_predictions, in_order_of
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.resizing import resized_size
from instancefcn.images.decoding import read_image
from instancefcn.inference.predictor import Predictor
from instancefcn.instances import Instances
from instancefcn.models.fcis import FCIS
from results import write_result

IOU = 0.6
"""Of two masks that match, at least."""
SIDES = (0, 12, 24, 48, 96, 192, math.inf)
"""Between which objects share a row, by the root of their area in pixels of the image."""
MANY = 8
"""Input sizes with a row of their own: those that hold the most objects."""

COLUMNS = (
    ("x", 2, 16),
    ("y", 2, 16),
    ("x_percent", 2, 16),
    ("y_percent", 2, 16),
    ("area_percent", 1, 16),
    ("iou", 3, 18),
)
"""Of the printed table: a figure, its digits, and the width of its column."""


@dataclass(frozen=True)
class Match:
    """An annotated object and its detection.

    Attributes:
        shift: (x, y) from the annotation's centre of mass to the detection's, pixels of the image.
        side: the root of the annotation's area.
        excess: the detection's area over the annotation's, minus 1.
        input_size: (height, width) of the network's input.
        iou: of the two masks.
    """

    shift: tuple[float, float]
    side: float
    excess: float
    input_size: tuple[int, int]
    iou: float


def matches(image: ImageRecord, found: Instances, input_size: tuple[int, int]) -> Iterable[Match]:
    """Every annotated object off the border with the detection of its class that overlaps it most."""
    truth = rasterize(image)  # without crowds
    labels = [annotation.label for annotation in image.annotations if not annotation.crowd]
    inside, detected = off_border(truth), off_border(found.masks)
    near = box_iou(truth.rects.float(), found.masks.rects.float()) > 0
    for index, label in enumerate(labels):
        if not inside[index]:
            continue
        rivals = (near[index] & detected & (found.labels == label)).nonzero()[:, 0].tolist()
        overlaps = [(mask_iou(truth, index, found.masks, rival), rival) for rival in rivals]
        iou, rival = max(overlaps, default=(0.0, -1))
        if iou <= IOU:
            continue
        (x, y, area), (u, v, own) = mass(truth, index), mass(found.masks, rival)
        yield Match((u - x, v - y), math.sqrt(area), own / area - 1, input_size, iou)


def off_border(masks: CroppedMasks) -> Tensor:
    """bool [G]: the masks that have pixels, none of them at the border of the image."""
    height, width = masks.image_size
    boxes = masks.tight_boxes()
    low, high = boxes[:, :2], boxes[:, 2:]
    return (low > 0).all(1) & (high[:, 0] < width) & (high[:, 1] < height)


def mask_iou(a: CroppedMasks, i: int, b: CroppedMasks, j: int) -> float:
    """IoU of two masks of one image whose rectangles overlap."""
    (ax, ay, au, av), (bx, by, bu, bv) = a.rects[i].tolist(), b.rects[j].tolist()
    x, y, u, v = max(ax, bx), max(ay, by), min(au, bu), min(av, bv)
    first, second = a.crop(i).numpy(), b.crop(j).numpy()
    common = first[y - ay : v - ay, x - ax : u - ax] & second[y - by : v - by, x - bx : u - bx]
    both = int(common.sum())
    return both / (int(first.sum()) + int(second.sum()) - both)


def mass(masks: CroppedMasks, index: int) -> tuple[float, float, int]:
    """Centre of mass (x, y) in pixels of the image and area of a mask."""
    rows, columns = np.nonzero(masks.crop(index).numpy())
    x, y = masks.rects[index, :2].tolist()
    return x + columns.mean() + 0.5, y + rows.mean() + 0.5, len(rows)


def mean_and_error(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean and its standard error; None of fewer than two values."""
    if len(values) < 2:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def row(found: Sequence[Match]) -> dict[str, Any]:
    """The figures of some matches, each as [mean, standard error], or None of fewer than two."""
    quantities: dict[str, Callable[[Match], float]] = {
        "x": lambda match: match.shift[0],
        "y": lambda match: match.shift[1],
        "x_percent": lambda match: 100 * match.shift[0] / match.side,
        "y_percent": lambda match: 100 * match.shift[1] / match.side,
        "area_percent": lambda match: 100 * match.excess,
        "iou": lambda match: match.iou,
    }
    means = {name: mean_and_error([of(match) for match in found]) for name, of in quantities.items()}
    return {"objects": len(found), **means}


def rows(found: Sequence[Match]) -> dict[str, dict[str, Any]]:
    """All matches, by the size of the input, and by the side of the object."""
    table = {"all": row(found)}
    common = [size for size, _ in Counter(match.input_size for match in found).most_common(MANY)]
    for height, width in sorted(common):
        own = [match for match in found if match.input_size == (height, width)]
        table[f"input {height} x {width}"] = row(own)
    if other := [match for match in found if match.input_size not in common]:
        table["other inputs"] = row(other)
    for low, high in pairwise(SIDES):
        if own := [match for match in found if low <= match.side < high]:
            table[f"side {low} to {high} px" if high < math.inf else f"side from {low} px"] = row(own)
    return table


def measure(predictor: Predictor, dataset: Dataset, score: float) -> dict[str, Any]:
    """{"AP", "AP50", "AP75" of all detections, "rows": of the matches} on a split."""
    found: list[Match] = []
    encoded = {}
    sides = predictor.preprocessing.short_side, predictor.preprocessing.long_side
    for done, image in enumerate(dataset.images, start=1):
        (instances,) = predictor.run([read_image(image.path)])
        instances = in_order_of(dataset, instances)
        encoded[image.id] = encode_instances(instances)
        size = resized_size(image.height, image.width, *sides)
        found += matches(image, instances.filter(score), size)
        if done % 20 == 0:
            print(f"{done} of {len(dataset)} images", file=sys.stderr, flush=True)
    masks = evaluate_predictions(dataset, encoded)["mask"]
    return {**{name: masks[name] for name in ("AP", "AP50", "AP75")}, "rows": rows(found)}


def variants(predictor: Predictor, thresholds: list[float], sizes: list[int]) -> dict[str, Predictor]:
    """The model as it is, or with each mask threshold and each mask size alone."""
    changes = {f"mask threshold {value}": {"mask_threshold": value} for value in thresholds}
    changes |= {f"mask size {value}": {"mask_size": value} for value in sizes}
    if not changes:
        return {"as it is": predictor}
    network = predictor.network
    if not isinstance(network, FCIS):
        raise SystemExit("--mask-thresholds and --mask-sizes are settings of FCIS")
    own = network.head

    class Changed(Predictor):
        """The same network with another head's settings while it runs."""

        def __init__(self, **change: Any) -> None:
            self.__dict__.update(predictor.__dict__)
            self.head = replace(own, **change)

        def run(self, *arguments: Any, **options: Any) -> list[Instances]:
            network.head = self.head
            return super().run(*arguments, **options)

    return {name: Changed(**change) for name, change in changes.items()}


def show(name: str, figures: dict[str, Any]) -> None:
    """Print one table."""
    print(f"{name}: mask AP {figures['AP']:.3f}, AP50 {figures['AP50']:.3f}, AP75 {figures['AP75']:.3f}")
    print(
        f"{'':<22}{'objects':>8}{'x, px':>16}{'y, px':>16}{'x, %':>15}{'y, %':>15}{'area, %':>15}{'IoU':>7}"
    )
    for label, values in figures["rows"].items():
        cells = "".join(f"{shown(values[key], digits):>{width}}" for key, digits, width in COLUMNS)
        print(f"{label:<22}{values['objects']:>8}{cells}")


def shown(figure: tuple[float, float] | None, digits: int) -> str:
    """Mean and standard error as text."""
    return "-" if figure is None else f"{figure[0]:+.{digits}f} ± {figure[1]:.{digits}f}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--score", type=float, default=0.5, help="of the detections that are matched")
    parser.add_argument("--mask-thresholds", type=float, nargs="+", default=[])
    parser.add_argument("--mask-sizes", type=int, nargs="+", default=[])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.split)
    predictor = instancefcn.load(options.model, precision="32")
    results = {}
    for name, variant in variants(predictor, options.mask_thresholds, options.mask_sizes).items():
        results[name] = measure(variant, dataset, options.score)
        show(name, results[name])
    if options.json is not None:
        write_result(options.json, {"split": options.split, **results})


if __name__ == "__main__":
    main()
