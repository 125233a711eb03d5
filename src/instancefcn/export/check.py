"""Comparison of a written file with the network: the images, the comparison and its table."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as vision

from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.resizing import resize_scale
from instancefcn.images.decoding import read_image
from instancefcn.models.fcis import MIN_SCORE
from instancefcn.ops.voting.average import vote_average

if TYPE_CHECKING:
    from instancefcn.export.graphs import FCISGraph, InstanceFCNGraph
    from instancefcn.inference.predictor import Predictor

Run = Callable[[Tensor], tuple[Tensor, ...]]

SCORE = 0.05
"""Minimum score of the objects that are compared. Below it, which of two objects with nearly equal scores
suppresses the other may depend on the last digit."""
SCORE_TOLERANCE, MASK_TOLERANCE, BOX_TOLERANCE = 1e-4, 1e-3, 0.05
"""Between the file and the graph in PyTorch, which compute the same in two libraries."""
MIN_IOU = 0.75
"""Between the file and the network: a mask on a grid and one in pixels, in the worst case."""


@dataclass(frozen=True)
class Row:
    """The results for one image, of objects with a score of at least `SCORE`.

    Attributes:
        image, size: the name of the image, and its (height, width) in the graph.
        objects: the number of objects that the network finds.
        missing: how many of them the file lacks: no object of the same label with nearly the same score and
            mask.
        changed: how many objects of the graph in PyTorch differ in the file, or are additional there.
        score, box, mask: maximum differences of the matching objects: of scores between the file and the
            network, of boxes (pixels) and mask probabilities between the file and the graph in PyTorch.
        iou: minimum IoU between a mask of the file, in pixels, and the network's; 1 without objects.
        seconds, torch_seconds: the times of the file's runtime and of the network in PyTorch.
    """

    image: str
    size: tuple[int, int]
    objects: int
    missing: int
    changed: int
    score: float
    box: float
    mask: float
    iou: float
    seconds: float
    torch_seconds: float

    def problems(self) -> list[str]:
        """The differences beyond the tolerances, one line each."""
        image = f"{self.image}, {self.size[1]} x {self.size[0]} px"
        problems = []
        if self.missing:
            problems.append(f"{image}: {self.missing} of the network's {self.objects} objects are missing")
        if self.changed:
            problems.append(f"{image}: {self.changed} objects differ from those of the graph in PyTorch")
        return problems


def runner(path: Path, form: str) -> Run:
    """A function that runs the file at `path` on an image uint8 [1, 3, H, W]."""
    if form != "onnx":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older torch warns about reading its own files
            program = torch.export.load(path).module()
        return torch.no_grad()(lambda image: program(image))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: tuple(torch.from_numpy(array) for array in session.run(None, {name: image.numpy()}))


def alone(run: Run) -> Run:
    """The same for a file that takes batches, on one image."""
    return lambda image: tuple(result[0] for result in run(image))


def demo_images(predictor: Predictor, dynamic: bool) -> Iterator[tuple[str, Tensor]]:
    """Names and images uint8 [3, H, W]: the bundled photographs and noise. For a dynamic graph all have other
    sizes than the traced image, some of them odd.
    """
    short, long = predictor.preprocessing.short_side, predictor.preprocessing.long_side
    folder = files("instancefcn") / "assets" / "demo"
    factors = (1.0, 0.8, 0.61, 1.1, 0.9, 0.7)
    generator = torch.Generator().manual_seed(0)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".jpg"))
    for name, factor in zip(names, factors, strict=False):
        photograph = read_image(Path(str(folder / name)))
        if not dynamic:
            yield name, letterbox(photograph, (short, long))
        else:
            height, width = photograph.shape[1:]
            scale = resize_scale(height, width, round(factor * short), round(factor * long))
            sides = [max(32, round(side * scale)) for side in (height, width)]
            yield name, vision.resize(photograph, sides, antialias=True)
    sizes = [(short // 2 + 1, long // 3), (short // 3 + 1, short - 1)] if dynamic else [(short, long)]
    for height, width in sizes:
        yield "noise", torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def letterbox(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image scaled to fit `size` (height, width), in the upper left corner of a gray image."""
    scale = min(size[0] / image.shape[1], size[1] / image.shape[2])
    new = [min(side, max(1, round(old * scale))) for side, old in zip(size, image.shape[1:], strict=True)]
    padded = image.new_full((3, *size), 124)
    padded[:, : new[0], : new[1]] = vision.resize(image, new, antialias=True)
    return padded


def compare(
    name: str, image: Tensor, predictor: Predictor, graph: FCISGraph | InstanceFCNGraph, run: Run
) -> Row:
    """Run the file, the graph in PyTorch and the network on an image uint8 [3, H, W]."""
    size = (image.shape[1], image.shape[2])
    start = time.perf_counter()
    boxes, scores, labels, masks = run(image[None].contiguous())
    seconds = time.perf_counter() - start
    with torch.no_grad():
        same = graph(image[None])
        start = time.perf_counter()
        limit = max(graph.instances, predictor.max_objects)
        (network,) = predictor.network([image.float() / 255], min_score=MIN_SCORE, max_instances=limit)
        torch_seconds = time.perf_counter() - start

    network = network.filter(SCORE)[: graph.instances]
    partner = partners(network.boxes, network.scores, network.labels, (boxes, scores, labels))
    drawn = pasted(boxes, masks, size, graph.threshold)
    ious = torch.tensor([mask_iou(network.masks, i, drawn, j) for i, j in enumerate(partner.tolist())])
    score = (network.scores - scores[partner]).abs()
    found = (score <= SCORE_TOLERANCE) & (ious >= MIN_IOU) & (network.labels == labels[partner])

    counted = same[1] >= SCORE
    own = partners(same[0][counted], same[1][counted], same[2][counted], (boxes, scores, labels))
    box = (same[0][counted] - boxes[own]).abs().amax(1)
    mask = (same[3][counted] - masks[own]).abs().amax((1, 2))
    equal = (box <= BOX_TOLERANCE) & (mask <= MASK_TOLERANCE)
    equal &= ((same[1][counted] - scores[own]).abs() <= SCORE_TOLERANCE) & (same[2][counted] == labels[own])
    return Row(
        name,
        size,
        objects=len(network),
        missing=int((~found).sum()),
        changed=int((~equal).sum()) + max(0, int((scores >= SCORE).sum() - counted.sum())),
        score=_maximum(score[found]),
        box=_maximum(box[equal]),
        mask=_maximum(mask[equal]),
        iou=1 - _maximum(1 - ious[found]),
        seconds=seconds,
        torch_seconds=torch_seconds,
    )


def compare_batch(
    images: Sequence[tuple[str, Tensor]],
    predictor: Predictor,
    graph: FCISGraph | InstanceFCNGraph,
    run: Run,
) -> list[Row]:
    """Run the file on a batch of named images uint8 [3, H, W] of one size, and compare the results of each
    with those of the graph in PyTorch and of the network, which have the image alone.
    """
    batch = torch.stack([image for _, image in images])
    start = time.perf_counter()
    results = run(batch)
    seconds = (time.perf_counter() - start) / len(images)
    rows = []
    for number, (name, image) in enumerate(images):
        called = f"{name} ({number + 1} of {len(images)})"
        row = compare(called, image, predictor, graph, _of_image(results, number))
        rows.append(replace(row, seconds=seconds))
    return rows


def _of_image(results: tuple[Tensor, ...], number: int) -> Run:
    return lambda _: tuple(result[number] for result in results)


def pasted(boxes: Tensor, masks: Tensor, size: tuple[int, int], threshold: float) -> CroppedMasks:
    """Masks in pixels of an image of `size` from grids [N, M, M] over `boxes` [N, 4]: read bilinearly at the
    centres of the pixels, then thresholded.
    """
    rects = box_ops.clip(torch.cat((boxes[:, :2].floor(), boxes[:, 2:].ceil()), 1), size).long()
    starts = torch.arange(len(boxes) + 1)
    weights = torch.ones(len(boxes))
    pixels = vote_average(masks, boxes, starts[:-1], weights, starts, rects, threshold)
    return CroppedMasks(pixels, rects, size)


def partners(boxes: Tensor, scores: Tensor, labels: Tensor, found: Sequence[Tensor]) -> Tensor:
    """int64 [K]: for each box [K, 4] the index of the box in `found` (boxes, scores, labels) that overlaps it
    most among those with the same label and score.

    An arbitrary index where none has; the caller compares.
    """
    overlap = box_iou(boxes, found[0]).nan_to_num()
    other = (scores[:, None] - found[1]).abs() > SCORE_TOLERANCE
    return (overlap - other.float() - (labels[:, None] != found[2]).float()).argmax(1)


def mask_iou(first: CroppedMasks, i: int, second: CroppedMasks, j: int) -> float:
    """IoU of mask `i` of the first and mask `j` of the second."""
    a, b = first.paste(i).bool(), second.paste(j).bool()
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def _maximum(differences: Tensor) -> float:
    return float(differences.max()) if len(differences) else 0.0


def comparison_table(rows: Sequence[Row]) -> str:
    """The rows as a table of plain text."""
    head = ("image", "size", "objects", "agree", "score", "box px", "mask", "IoU", "file s", "PyTorch s")
    lines = [
        (
            row.image,
            f"{row.size[1]} x {row.size[0]}",
            str(row.objects),
            str(row.objects - row.missing),
            f"{row.score:.0e}",
            f"{row.box:.3f}",
            f"{row.mask:.0e}",
            f"{row.iou:.2f}",
            f"{row.seconds:.2f}",
            f"{row.torch_seconds:.2f}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *lines)
    ]
    return "\n".join(text)
