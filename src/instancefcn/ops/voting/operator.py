"""Mask voting: overlapping RoIs agree on the mask of an instance (FCIS, section 3.2).

`vote_masks` is the operator and `vote_batch` the same for a batch of images. `reference.py` specifies it;
`survivors.py`, `ballots.py` and `average.py` are its steps.

A batch waits for a GPU three times, whenever a shape must be known: the number of votes, of pixels, and of
instances that have any. (More than `MAX_VOTES` votes wait more often.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """S instances, best first; equal scores by class, then by row. All tensors are on the RoIs' device.

    Attributes:
        boxes: float32 [S, 4], half-open, in pixels of the image. With extent "box" the survivors' boxes,
            clipped; with extent "voters" the boxes around the voted masks.
        scores: float32 [S]: the survivors' probabilities of their classes.
        classes: int64 [S]: indices on the class axis, background being 0 (a label + 1).
        rows: int64 [S]: the RoI that each instance comes from.
        masks: S masks in the image.
        full: there were `max_instances` survivors, so that others may have been left out.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    rows: Tensor
    masks: CroppedMasks
    full: bool = field(default=False, kw_only=True)

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
    """Choose the instances of an image and let the RoIs around each vote on its mask.

    Boxes go through non-maximum suppression class by class, and the best of all classes survive. Every RoI
    that overlaps a survivor votes; its weight is its own probability of the survivor's class. The weights of
    a survivor sum to 1.

    Each voter contributes its mask of the survivor's class. The probabilities are averaged at the centres of
    the image's pixels, and the average is thresholded once. A voter's m x m grid is read bilinearly over its
    box, clamped to the centres of the outermost cells; outside its box its vote is 0. Nothing is
    differentiable.

    Args:
        read_masks: given rows int64 [V] and classes int64 [V] (on the class axis), returns the mask
            probabilities of these pairs, float [V, m, m]. It is called once, or more often if there are more
            than `MAX_VOTES` votes.
        boxes: [R, 4] RoIs, half-open x1, y1, x2, y2 in pixels of the image. RoIs without area are ignored.
        probabilities: [R, C] class probabilities, background at 0.
        image_size: (height, width) of the image.
        nms_iou: a box is removed if its IoU with a better one of its class is above this.
        vote_iou: a RoI votes if its IoU with the survivor is at least this.
        max_instances: the maximum number of survivors.
        min_score: the minimum probability of a survivor.
        threshold: the minimum average of a mask's pixel, above 0 and at most 1.
        extent: "box" averages inside the survivor's box. "voters" averages wherever a voter reaches, so that
            a box that is too small does not cut off its object.

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
    """`vote_masks` for N images with R RoIs each; RoIs without area are padding.

    Args:
        read_masks: as in `vote_masks`, but rows count through all images: RoI r of image n is row n * R + r.
        boxes: [N, R, 4].
        probabilities: [N, R, C].
        image_sizes: N times (height, width).

    Returns:
        One result per image; its `rows` are those of the image.
    """
    check_votes(boxes, probabilities, image_sizes, max_instances, threshold, extent)
    boxes, probabilities = boxes.detach().float(), probabilities.detach().float()
    with stage("suppression"):
        chosen = survivors(boxes, probabilities, nms_iou, min_score, max_instances)
    per_image = chosen[0].shape[1]
    results: list[Result] = []
    for part, ballot in ballots(boxes, probabilities, chosen, vote_iou):
        sizes = [image_sizes[s // per_image] for s in range(part.start, part.stop)]
        flat = boxes.flatten(0, 1), probabilities.flatten(0, 1)
        results.append(_averaged(read_masks, *flat, ballot, sizes, threshold, extent))
    if not results:
        return [_nothing(size, boxes.device) for size in image_sizes]
    return _by_image(chosen, results, image_sizes, max_instances)


def _clip(boxes: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Boxes [S, 4], each clipped to its image."""
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
    """Averages inside the survivors' boxes, or wherever a voter reaches; boxes are then left to `extents`."""
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
    """[S, 4]: the box around the boxes of each survivor's voters, of which the survivor is one."""
    corners, which = boxes[ballot.rows], ballot.which[:, None].expand(-1, 2)
    low = high = boxes.new_zeros((len(ballot.starts) - 1, 2))
    return torch.cat(
        (
            low.scatter_reduce(0, which, corners[:, :2], "amin", include_self=False),
            high.scatter_reduce(0, which, corners[:, 2:], "amax", include_self=False),
        ),
        dim=1,
    )


def _by_image(
    chosen: Survivors, results: Sequence[Result], image_sizes: Sequence[Size], max_instances: int
) -> list[VotedMasks]:
    """Results of runs of survivors, by image, without the survivors that have no pixel."""
    scores, rows, classes = chosen
    per_image = scores.shape[1]
    pixels, rects = (_joined([found[i] for found in results]) for i in (0, 1))  # type: ignore[misc]
    outlines = None if results[0][2] is None else _joined([found[2] for found in results])  # type: ignore[misc]
    with stage("pasting"):
        reached = extents(pixels, rects)
    there = (scores >= 0).flatten()[:, None].long()
    x1, y1, x2, y2, left, _, right, _, found = torch.cat((rects, reached, there), 1).cpu().unbind(1)
    areas, filled = ((x2 - x1) * (y2 - y1)).tolist(), right > left
    ends = list(accumulate(areas, initial=0))
    voted = []
    for n, size in enumerate(image_sizes):
        own = slice(n * per_image, (n + 1) * per_image)
        kept = filled[own].nonzero()[:, 0]
        if len(kept) == per_image:  # the usual case, without a copy
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
                full=int(found[own].sum()) >= max_instances,
            )
        )
    return voted


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat`, without a copy of a single part."""
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
    """Raises ValueError for shapes or settings that `vote_batch` does not accept."""
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be [N, R, 4], got shape {tuple(boxes.shape)}")
    if probabilities.dim() != 3 or probabilities.shape[:2] != boxes.shape[:2] or probabilities.shape[2] < 1:
        images, count = boxes.shape[:2]
        shape = tuple(probabilities.shape)
        raise ValueError(f"probabilities must be [{images}, {count}, C] with C at least 1, got shape {shape}")
    if len(image_sizes) != boxes.shape[0]:
        raise ValueError(
            f"image_sizes must have {boxes.shape[0]} entries, one per image, got {len(image_sizes)}"
        )
    if max_instances < 1:
        raise ValueError(f"max_instances must be at least 1, got {max_instances}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    if extent not in ("box", "voters"):
        raise ValueError(f"extent must be 'box' or 'voters', not {extent!r}")
