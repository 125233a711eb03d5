"""Mask voting: overlapping RoIs agree on the mask of an instance (FCIS, section 3.2).

`vote_masks` is the operator, `vote_batch` the same for many pictures; `reference.py` is the
specification; `survivors.py`, `ballots.py` and `average.py` are its steps.

A GPU is waited for three times in a batch, each time because a shape must be known: the number of votes, of
pixels, and of instances that have any. (More than `MAX_VOTES` votes cost more.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor

from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.ops.voting.average import extents, vote_average
from instancefcn.ops.voting.ballots import Ballot, ReadMasks, Result, Size, ballots, read
from instancefcn.ops.voting.survivors import Survivors, survivors
from instancefcn.profiling import stage

Extent = Literal["box", "voters"]


@dataclass(frozen=True, eq=False)
class VotedMasks:
    """S instances, best first; equal scores by class, then by row. They lie where the RoIs did.

    Attributes:
        boxes: float32 [S, 4], half-open, pixels of the picture: the survivors' boxes clipped to it, or the
            boxes around the voted masks where these may leave the survivor's box (extent "voters").
        scores: float32 [S]: the survivors' probabilities of their classes.
        classes: int64 [S]: places on the class axis, background being 0 (a label + 1).
        rows: int64 [S]: the RoI that each instance comes from.
        masks: S masks in the picture.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    rows: Tensor
    masks: CroppedMasks

    def __len__(self) -> int:
        return self.boxes.shape[0]


@torch.no_grad()
def vote_masks(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    image_size: tuple[int, int],
    *,
    nms_iou: float = 0.3,
    vote_iou: float = 0.5,
    max_instances: int = 100,
    min_score: float = 1e-3,
    threshold: float = 0.4,
    extent: Extent = "box",
) -> VotedMasks:
    """Choose the instances of a picture and let the RoIs around each vote its mask.

    Non-maximum suppression thins the boxes class by class, and the best of all classes survive. Every RoI
    that overlaps a survivor votes, with its own probability of the survivor's class as weight (the weights of
    a survivor sum to 1).

    Each voter brings its mask of the survivor's class. The probabilities are averaged at the
    centres of the picture's pixels inside the survivor's box and the average is thresholded once. A voter's m
    x m grid is read bilinearly over its box, clamped at the outermost centres of its cells; outside the box
    its vote is 0.

    The result is a decision: nothing is differentiable.

    Args:
        read_masks: given rows int64 [V] and classes int64 [V] (on the class axis), returns float [V, m, m],
            the mask probabilities of these pairs. Called once with all votes; more often beyond
            `MAX_VOTES` votes.
        boxes: [R, 4] RoIs, half-open x1, y1, x2, y2 in pixels of the picture. A RoI without area takes no
            part.
        probabilities: [R, C] class probabilities, background at 0.
        image_size: (height, width) of the picture.
        nms_iou: a box goes when its IoU with a better one of the same class is above this.
        vote_iou: a RoI votes when its IoU with the survivor is at least this.
        max_instances: how many survive.
        min_score: survivors have at least this probability.
        threshold: what makes a pixel part of an object, above 0, at most 1.
        extent: "box" averages inside the survivor's box; "voters" wherever a voter reaches, so that a box
            that is too small does not cut its object.

    Returns:
        The instances; those without a single pixel are dropped.

    Raises:
        ValueError: shapes do not fit together, or a setting is out of range.
    """
    (voted,) = vote_batch(
        read_masks,
        boxes[None],
        probabilities[None],
        [image_size],
        nms_iou=nms_iou,
        vote_iou=vote_iou,
        max_instances=max_instances,
        min_score=min_score,
        threshold=threshold,
        extent=extent,
    )
    return voted


@torch.no_grad()
def vote_batch(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    image_sizes: Sequence[Size],
    *,
    nms_iou: float = 0.3,
    vote_iou: float = 0.5,
    max_instances: int = 100,
    min_score: float = 1e-3,
    threshold: float = 0.4,
    extent: Extent = "box",
) -> list[VotedMasks]:
    """`vote_masks` for N pictures with R RoIs each, of which those without area are padding.

    Args:
        read_masks: as there, but RoIs are numbered through all pictures: r of picture n is row n * R + r.
        boxes: [N, R, 4].
        probabilities: [N, R, C].
        image_sizes: N times (height, width).

    Returns:
        N results; their `rows` are those of their picture.
    """
    check_votes(boxes, probabilities, image_sizes, max_instances, threshold, extent)
    boxes, probabilities = boxes.detach().float(), probabilities.detach().float()
    with stage("suppression"):
        chosen = survivors(boxes, probabilities, nms_iou, min_score, max_instances)
    most = chosen[0].shape[1]
    results: list[Result] = []
    for part, ballot in ballots(boxes, probabilities, chosen, vote_iou):
        sizes = [image_sizes[s // most] for s in range(part.start, part.stop)]
        flat = boxes.flatten(0, 1), probabilities.flatten(0, 1)
        results.append(_averaged(read_masks, *flat, ballot, sizes, threshold, extent))
    if not results:
        return [_nothing(size, boxes.device) for size in image_sizes]
    return _by_image(chosen, results, image_sizes)


def _clip(boxes: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Boxes [S, 4], each cut to its picture."""
    ends = [0, *(s for s in range(1, len(sizes)) if sizes[s] != sizes[s - 1]), len(sizes)]
    return torch.cat([box_ops.clip(boxes[begin:end], sizes[begin]) for begin, end in pairwise(ends)])


def _averaged(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    ballot: Ballot,
    sizes: Sequence[Size],
    threshold: float,
    extent: Extent,
) -> Result:
    """Averages inside the survivors' boxes, or wherever a voter reaches (without boxes: see `extents`)."""
    with stage("voting"):
        masks = read(read_masks, ballot.rows, ballot.classes)
    clipped = _clip(boxes[ballot.own] if extent == "box" else _reach(boxes, ballot), sizes)
    rects = torch.ceil(clipped.double() - 0.5).long()  # the pixels whose centres are inside
    rects *= (ballot.starts[1:] > ballot.starts[:-1])[:, None]  # padding has no votes
    every = torch.arange(len(masks), device=masks.device)
    with stage("pasting"):
        pixels = vote_average(
            masks, boxes[ballot.rows], every, ballot.weights, ballot.starts, rects, threshold
        )
    return pixels, rects, clipped if extent == "box" else None


def _reach(boxes: Tensor, ballot: Ballot) -> Tensor:
    """[S, 4]: the smallest box around the boxes of each survivor's voters; every survivor has one, itself."""
    corners, which = boxes[ballot.rows], ballot.which[:, None].expand(-1, 2)
    low = high = boxes.new_zeros((len(ballot.starts) - 1, 2))
    return torch.cat(
        (
            low.scatter_reduce(0, which, corners[:, :2], "amin", include_self=False),
            high.scatter_reduce(0, which, corners[:, 2:], "amax", include_self=False),
        ),
        dim=1,
    )


def _by_image(chosen: Survivors, results: Sequence[Result], image_sizes: Sequence[Size]) -> list[VotedMasks]:
    """Results of runs of survivors, by picture, without the survivors that have no pixel."""
    scores, rows, classes = chosen
    most = scores.shape[1]
    pixels, rects = (_joined([found[i] for found in results]) for i in (0, 1))  # type: ignore[misc]
    outlines = None if results[0][2] is None else _joined([found[2] for found in results])  # type: ignore[misc]
    with stage("pasting"):
        reached = extents(pixels, rects)
    x1, y1, x2, y2, left, _, right, _ = torch.cat((rects, reached), 1).cpu().unbind(1)
    areas, filled = ((x2 - x1) * (y2 - y1)).tolist(), right > left
    ends = list(accumulate(areas, initial=0))
    voted = []
    for n, size in enumerate(image_sizes):
        own = slice(n * most, (n + 1) * most)
        kept = filled[own].nonzero()[:, 0]
        if len(kept) == most:  # as nearly always: nothing is copied
            pieces = [pixels[ends[own.start] : ends[own.stop]]]
        else:
            pieces = [pixels[ends[s] : ends[s + 1]] for s in (kept + own.start).tolist()]
        index = kept.to(pixels.device, non_blocking=True)
        masks = CroppedMasks(_joined(pieces) if pieces else pixels[:0], rects[own][index], size)
        voted.append(
            VotedMasks(
                boxes=(reached.float() if outlines is None else outlines)[own][index],
                scores=scores[n, index],
                classes=classes[n, index],
                rows=rows[n, index],
                masks=masks,
            )
        )
    return voted


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat`, which copies even what is whole already."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _nothing(image_size: Size, device: torch.device) -> VotedMasks:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    boxes = torch.zeros((0, 4), device=device)
    return VotedMasks(boxes, boxes[:, 0], none, none, CroppedMasks.empty(image_size).to(device))


def check_votes(
    boxes: Tensor,
    probabilities: Tensor,
    image_sizes: Sequence[Size],
    max_instances: int,
    threshold: float,
    extent: str = "box",
) -> None:
    """Raises ValueError for what cannot be voted on."""
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be [R, 4] in every picture, got shape {tuple(boxes.shape)} of all")
    if probabilities.dim() != 3 or probabilities.shape[:2] != boxes.shape[:2] or probabilities.shape[2] < 1:
        count, shape = boxes.shape[1], tuple(probabilities.shape)
        raise ValueError(
            f"probabilities must be [{count}, C] in every picture, C at least 1, got {shape} of all"
        )
    if len(image_sizes) != boxes.shape[0]:
        raise ValueError(f"image_sizes must be {boxes.shape[0]}, one a picture, got {len(image_sizes)}")
    if max_instances < 1:
        raise ValueError(f"max_instances must be at least 1, got {max_instances}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    if extent not in ("box", "voters"):
        raise ValueError(f"extent must be 'box' or 'voters', not {extent!r}")
