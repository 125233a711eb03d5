"""Fit the weights with which `instancefcn.inference.prompts` reads the mask in a box.

    python tools/fit_prompts.py DATA ... [--model instancefcn-objects] [--images 10] [--objects 3]

For objects of the train splits, every point of a tight box has terms (mask logits of the network, shape of
boxes, colours) and is on the object or not. Logistic regression finds the weights of the terms; all data sets
count alike, and all objects of a data set. Colours are seeded by what the other terms say, so the weights are
found twice, the first ones for the seeds.

Prints the constants `WEIGHT` (`object_maps.py` or `class_maps.py`), `PRIOR` and `COLOUR` (`box_mask.py`).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from instancefcn.data.dataset import rasterize
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.images.decoding import read_image
from instancefcn.inference.prompts import PromptReader
from instancefcn.inference.prompts.box_mask import inside_box, prior_terms, region_around
from instancefcn.inference.prompts.colours import colour_logits

POINTS = 800
"""Of each object."""
SMALLEST = 3
"""Objects with a shorter side, in pixels, are left out."""


class Objects:
    """The terms of objects: what the network and the box say, and the groups of the colours."""

    def __init__(self) -> None:
        self.known: list[Tensor] = []
        self.groups: list[Tensor] = []
        self.inside: list[Tensor] = []
        self.truth: list[Tensor] = []
        self.weight: list[float] = []

    @torch.no_grad()
    def add(self, reader: PromptReader, data: Path, images: int, count: int) -> None:
        """The objects of some images of a data set."""
        dataset = open_dataset(data, "train")
        records = random.Random(0).sample(dataset.images, min(images, len(dataset)))
        before = len(self.truth)
        for record in records:
            masks = rasterize(record)
            boxes = masks.tight_boxes()
            usable = ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= SMALLEST).nonzero()[:, 0].tolist()
            pixels = read_image(record.path)
            maps = reader.maps(pixels)
            for index in random.Random(0).sample(usable, min(count, len(usable))):
                x1, y1, x2, y2 = boxes[index].tolist()
                evidence, _ = maps.in_box((x1, y1, x2, y2), None)
                region = region_around(pixels, (x1, y1, x2, y2))
                left, top, right, bottom = region.rect
                full = masks.paste(index)[top:bottom, left:right].float()[None, None]
                size = (len(region.y), len(region.x))
                self.truth.append(F.adaptive_avg_pool2d(full, size)[0, 0] >= 0.5)
                terms = (evidence.at(region.x, region.y), *prior_terms(region, (x1, y1, x2, y2)))
                self.known.append(torch.stack([term.expand(size) for term in terms]))
                self.groups.append(region.groups)
                self.inside.append(inside_box(region, (x1, y1, x2, y2)))
        self.weight += [1 / max(1, len(self.truth) - before)] * (len(self.truth) - before)

    def fit(self, seeds: Tensor | None) -> Tensor:
        """Weights of the network, of the terms of `PRIOR` and, seeded by `seeds` as these, of colour."""
        terms, truths, shares = [], [], []
        for number, (known, truth) in enumerate(zip(self.known, self.truth, strict=True)):
            inside = self.inside[number]
            if seeds is not None:
                object_ = torch.einsum("t,thw->hw", seeds, known).sigmoid() * inside
                known = torch.cat((known, colour_logits(self.groups[number], object_)[None]))
            points = inside.flatten().nonzero()[:, 0]
            generator = torch.Generator().manual_seed(number)
            points = points[torch.randperm(len(points), generator=generator)[:POINTS]]
            terms.append(known.flatten(1)[:, points].t())
            truths.append(truth.flatten()[points])
            shares.append(torch.full((len(points),), self.weight[number] / len(points)))
        return logistic_regression(torch.cat(terms), torch.cat(truths), torch.cat(shares))


def logistic_regression(terms: Tensor, truths: Tensor, shares: Tensor, rounds: int = 25) -> Tensor:
    """Weights [T] of terms [P, T] for truths bool [P], by Newton's method; a little ridge keeps it stable."""
    x, y, share = terms.double(), truths.double(), (shares / shares.sum()).double()
    weights = torch.zeros(x.shape[1], dtype=torch.float64)
    ridge = 1e-3 * torch.eye(x.shape[1], dtype=torch.float64)
    for _ in range(rounds):
        p = (x @ weights).sigmoid()
        slope = x.t() @ (share * (p - y)) + ridge @ weights
        curvature = (x * (share * p * (1 - p))[:, None]).t() @ x + ridge
        weights -= torch.linalg.solve(curvature, slope)
    return weights.float()


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--model", default="instancefcn-objects")
    parser.add_argument("--images", type=int, default=10, help="of each data set")
    parser.add_argument("--objects", type=int, default=3, help="of each image")
    options = parser.parse_args()
    reader, objects = PromptReader.load(options.model), Objects()
    for data in options.data:
        objects.add(reader, data, options.images, options.objects)
    weights = objects.fit(objects.fit(None))
    network, *prior, colour = (round(float(weight), 2) for weight in weights)
    print(f"{len(objects.truth)} objects\nWEIGHT = {network}\nPRIOR = {tuple(prior)}\nCOLOUR = {colour}")


if __name__ == "__main__":
    main()
