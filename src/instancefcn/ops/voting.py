"""Mask voting: overlapping RoIs agree on the mask of an instance (FCIS, section 3.2).

`vote_masks` is the operator, `voting_reference` its specification, `voting_step` its heavy inner step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import box_iou, nms

from instancefcn import boxes as box_ops
from instancefcn.masks import CroppedMasks
from instancefcn.ops.voting_step import vote_average
from instancefcn.stages import stage

ReadMasks = Callable[[Tensor, Tensor], Tensor]
Order = Literal["paper", "published"]
Extent = Literal["box", "voters"]
_Result = tuple[Tensor, CroppedMasks, Tensor | None]  # boxes, masks, averages

# Votes are read and averaged in groups of about this many, so that an untrained network, whose every RoI may
# vote for every class, cannot ask for gigabytes. The votes of a trained network's picture fit in one group.
MAX_VOTES = 32768


@dataclass(frozen=True, eq=False)
class VotedMasks:
    """S instances, best first; equal scores by class, then by row. They lie in the host's memory.

    Attributes:
        boxes: float32 [S, 4], half-open, pixels of the picture: the survivors' boxes clipped to it, or the
            boxes around the voted masks where these may leave the survivor's box (extent "voters", order
            "published").
        scores: float32 [S]: the survivors' probabilities of their classes.
        classes: int64 [S]: places on the class axis, background being 0 (a label + 1).
        rows: int64 [S]: the RoI that each instance comes from.
        masks: S masks in the picture.
        probabilities: float32 [S, m, m]: the averaged votes inside `boxes`; None in order "paper".
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    rows: Tensor
    masks: CroppedMasks
    probabilities: Tensor | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True)
class _Ballot:
    """V votes: v is the mask of RoI `rows[v]` for survivor `which[v]`, with `weights[v]`; those of survivor s
    begin at `starts[s]`.
    """

    which: Tensor
    rows: Tensor
    classes: Tensor
    weights: Tensor
    starts: Tensor


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
    order: Order = "paper",
    extent: Extent = "box",
) -> VotedMasks:
    """Choose the instances of a picture and let the RoIs around each vote its mask.

    Non-maximum suppression thins the boxes class by class, and the best of all classes survive. Every RoI
    that overlaps a survivor votes, with its own probability of the survivor's class as weight (the weights of
    a survivor sum to 1).

    Order "paper": each voter brings its mask of the survivor's class. The probabilities are averaged at the
    centres of the picture's pixels inside the survivor's box and the average is thresholded once. A voter's m
    x m grid is read bilinearly over its box, clamped at the outermost centres of its cells; outside the box
    its vote is 0.

    Order "published" (the official code and ChainerCV): each voter brings the mask of its own best foreground
    class, read over its box rounded to whole pixels and thresholded before the average. The pixels whose
    average reaches `threshold` give the instance's box; the average inside it, resized to m x m, is its
    probability; that, resized back, is its mask where above `threshold`. Survivors that tie with the last one
    stay as well, and of equal scores of a class that comes first which numpy's sort puts first.

    The result is a decision: nothing is differentiable.

    Args:
        read_masks: given rows int64 [P] and classes int64 [P] (on the class axis), returns float [P, m, m],
            the mask probabilities of these pairs. Called once with the pairs that vote, each once; more often
            beyond `MAX_VOTES` votes.
        boxes: [R, 4] RoIs, half-open x1, y1, x2, y2 in pixels of the picture. A RoI without area takes no
            part.
        probabilities: [R, C] class probabilities, background at 0.
        image_size: (height, width) of the picture.
        nms_iou: a box goes when its IoU with a better one of the same class is above this.
        vote_iou: a RoI votes when its IoU with the survivor is at least this.
        max_instances: how many survive.
        min_score: survivors have at least this probability.
        threshold: what makes a pixel part of an object, above 0, at most 1.
        order: "paper" or "published".
        extent: order "paper" only: "box" averages inside the survivor's box; "voters" wherever a voter
            reaches, as the published order always does, so that a box that is too small does not cut its
            object.

    Returns:
        The instances; those without a single pixel are dropped.

    Raises:
        ValueError: shapes do not fit together, or a setting is out of range.
    """
    _check(boxes, probabilities, max_instances, threshold, order, extent)
    boxes, probabilities = boxes.detach().float(), probabilities.detach().float()
    published = order == "published"
    with stage("suppression"):
        scores, rows, classes = _survivors(boxes, probabilities, nms_iou, min_score, max_instances, published)
    results: list[_Result] = []
    for part, which, voters in _groups(boxes, rows, vote_iou):
        ballot = _ballot(probabilities, voters, classes[part], which)
        if order == "paper":
            alone = rows[part] if extent == "box" else None
            result = _paper(read_masks, boxes, probabilities, alone, ballot, image_size, threshold)
        else:
            result = _published(read_masks, boxes, probabilities, ballot, image_size, threshold)
        results.append(result)
    if not results:
        return _nothing(image_size)
    averages = [found[2] for found in results if found[2] is not None]
    voted = VotedMasks(
        boxes=torch.cat([found[0] for found in results]).cpu(),
        scores=scores.cpu(),
        classes=classes.cpu(),
        rows=rows.cpu(),
        masks=_concatenated([found[1] for found in results]),
        probabilities=torch.cat(averages).cpu() if averages else None,
    )
    return _without_empty(voted)


def _survivors(
    boxes: Tensor, probabilities: Tensor, nms_iou: float, min_score: float, limit: int, published: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, rows and classes [S] of the `limit` best after suppression per class; `published` keeps what
    ties with the last, and takes equals of a class in the order of `numpy_ranks`.

    What suppression leaves of the best n candidates does not depend on worse ones: few are looked at.
    """
    count = boxes.shape[0]
    foreground = probabilities[:, 1:].t()
    wanted = (foreground >= min_score) & _has_area(boxes)
    if published:
        usable = _has_area(boxes).nonzero()[:, 0]
        ranked = usable[numpy_ranks(foreground[:, usable])]
        places = (ranked + count * torch.arange(len(ranked), device=ranked.device)[:, None]).reshape(-1)
        places = places[wanted.reshape(-1)[places]]
    else:
        places = wanted.reshape(-1).nonzero()[:, 0]
    scores, order = foreground.reshape(-1)[places].sort(descending=True, stable=True)
    rows, classes = places[order] % max(count, 1), places[order] // max(count, 1)
    # Classes are moved apart so that one suppression serves all; float64 keeps the IoUs exact far from the
    # origin.
    candidates = boxes[rows].double()
    if len(rows):
        candidates += (classes * (candidates.amax() - candidates.amin() + 1))[:, None]
    examined = 8 * limit
    while True:
        kept = nms(candidates[:examined], scores[:examined].double(), nms_iou).sort().values
        done = examined >= len(scores)
        chosen = kept[:limit]
        if len(chosen) == limit and published:
            last = scores[kept[limit - 1]]
            done = done or bool(scores[examined - 1] < last)
            chosen = kept[scores[kept] >= last]
        elif len(chosen) == limit:
            done = True
        if done:
            return scores[chosen], rows[chosen], classes[chosen] + 1
        examined *= 4


def numpy_ranks(scores: Tensor) -> Tensor:
    """int64 [C, R]: each class's rows, best first, as the published codes rank `scores` [C, R]: by
    `numpy.argsort`, reversed.

    A window and its refined box often have exactly equal scores, as they touch the same cells, and which
    stays is up to the sort. numpy's own for floats has changed since; for its longest float it has not.
    """
    array = scores.cpu().numpy().astype(np.longdouble)
    return torch.from_numpy(np.argsort(array, axis=1)[:, ::-1].copy()).to(scores.device)


def _has_area(boxes: Tensor) -> Tensor:
    """Boolean [R]: finite boxes that are wide and high."""
    return boxes.isfinite().all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _groups(boxes: Tensor, rows: Tensor, vote_iou: float) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Runs of survivors with at most `MAX_VOTES` votes, or just one: the run; each vote's survivor, voter."""
    if not len(rows):
        return
    overlap = box_iou(boxes[rows].double(), boxes.double())
    overlap.scatter_(1, rows[:, None], 1.0)  # rounding must not take a survivor's own vote
    votes = (overlap >= vote_iou) & _has_area(boxes)
    survivor, voter = votes.nonzero().unbind(1)
    ends = votes.sum(1).cumsum(0).tolist()
    first = begin = 0
    for last in range(len(rows)):
        if last + 1 == len(rows) or ends[last + 1] - begin > MAX_VOTES:
            yield slice(first, last + 1), survivor[begin : ends[last]] - first, voter[begin : ends[last]]
            first, begin = last + 1, ends[last]


def _ballot(probabilities: Tensor, voters: Tensor, classes: Tensor, which: Tensor) -> _Ballot:
    """The votes of RoIs `voters` for survivors `which` of the given `classes`."""
    weights = probabilities[voters, classes[which]].double()
    totals = weights.new_zeros(len(classes)).index_add_(0, which, weights)
    weights = weights / totals[which].clamp(min=1e-300)
    starts = torch.searchsorted(which, torch.arange(len(classes) + 1, device=which.device))
    return _Ballot(which, voters, classes[which], weights.float(), starts)


def _read(read_masks: ReadMasks, rows: Tensor, classes: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair's masks once: float32 [P, m, m], their rows [P], and the place of every pair among them."""
    pairs, index = torch.unique(rows * axis + classes, return_inverse=True)
    rows = pairs // axis
    masks = read_masks(rows, pairs % axis)
    m = masks.shape[-1] if masks.dim() == 3 else 0
    if masks.shape != (len(pairs), m, m) or m == 0:
        raise ValueError(f"read_masks must return [{len(pairs)}, m, m] with m > 0, got {tuple(masks.shape)}")
    return masks.detach().float(), rows, index


def _paper(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    rows: Tensor | None,
    ballot: _Ballot,
    size: tuple[int, int],
    threshold: float,
) -> _Result:
    """Averages inside the boxes of `rows`, or wherever a voter reaches when None."""
    with stage("voting"):
        masks, mask_rows, index = _read(read_masks, ballot.rows, ballot.classes, probabilities.shape[1])
    clipped = box_ops.clip(_reach(boxes, ballot) if rows is None else boxes[rows], size)
    rects = torch.ceil(clipped.double() - 0.5).long()  # the pixels whose centres are inside
    with stage("pasting"):
        pixels = vote_average(masks, boxes[mask_rows], index, ballot.weights, ballot.starts, rects, threshold)
    voted = CroppedMasks(pixels.cpu(), rects.cpu(), size)  # moved once: each mask is looked at by itself
    return voted.tight_boxes() if rows is None else clipped, voted, None


def _reach(boxes: Tensor, ballot: _Ballot) -> Tensor:
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


def _published(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    ballot: _Ballot,
    size: tuple[int, int],
    threshold: float,
) -> _Result:
    best = probabilities[:, 1:].argmax(1) + 1
    masks, mask_rows, index = _read(read_masks, ballot.rows, best[ballot.rows], probabilities.shape[1])
    rounded = boxes[mask_rows].round()
    corners, crops, averages, tight = [], [], [], []
    starts = ballot.starts.tolist()
    for begin, end in pairwise(starts):  # singly: an average may be a large picture
        voters, weights = index[begin:end], ballot.weights[begin:end]
        seen = box_ops.clip(rounded[voters], size)
        rect = torch.cat((seen[:, :2].amin(0), seen[:, 2:].amax(0))).long()[None]
        start = ballot.starts.new_tensor((0, end - begin))
        flat = vote_average(masks, rounded, voters, weights, start, rect, None, binarize=threshold)
        x1, y1, x2, y2 = rect[0].tolist()
        box, average, crop = _tightened(flat.view(y2 - y1, x2 - x1), masks.shape[-1], threshold)
        tight.append((box[0] + x1, box[1] + y1, box[2] + x1, box[3] + y1))
        corners.append((box[0] + x1, box[1] + y1))
        averages.append(average)
        crops.append(crop)
    voted = CroppedMasks.from_crops([crop.cpu() for crop in crops], corners, size)
    return torch.tensor(tight, dtype=boxes.dtype), voted, torch.stack(averages)


def _tightened(average: Tensor, m: int, threshold: float) -> tuple[tuple[int, int, int, int], Tensor, Tensor]:
    """The box around what reaches the threshold; the average in it at m x m; the mask made of that.

    `interpolate` reads as OpenCV does: half-pixel centres, clamped at the edges, no smoothing.
    """
    reached = average >= threshold
    rows, columns = reached.any(1).nonzero()[:, 0], reached.any(0).nonzero()[:, 0]
    if not len(rows):
        return (0, 0, 0, 0), average.new_zeros((m, m)), average.new_zeros((0, 0), dtype=torch.bool)
    x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    inside = average[None, None, y1:y2, x1:x2]
    small = interpolate(inside, size=(m, m), mode="bilinear", align_corners=False).clamp(0, 1)
    crop = interpolate(small, size=(y2 - y1, x2 - x1), mode="bilinear", align_corners=False) > threshold
    return (x1, y1, x2, y2), small[0, 0], crop[0, 0]


def _without_empty(result: VotedMasks) -> VotedMasks:
    """Drops survivors whose votes reach the threshold nowhere."""
    if len(result) == 0:
        return result
    ends = result.masks.offsets.tolist()
    occupied = torch.stack([result.masks.pixels[begin:end].any() for begin, end in pairwise(ends)])
    kept = occupied.nonzero()[:, 0]
    if len(kept) == len(result):
        return result
    return VotedMasks(
        boxes=result.boxes[kept],
        scores=result.scores[kept],
        classes=result.classes[kept],
        rows=result.rows[kept],
        masks=result.masks[kept],
        probabilities=None if result.probabilities is None else result.probabilities[kept],
    )


def _concatenated(masks: list[CroppedMasks]) -> CroppedMasks:
    if len(masks) == 1:
        return masks[0]
    return CroppedMasks(
        torch.cat([m.pixels for m in masks]), torch.cat([m.rects for m in masks]), masks[0].image_size
    )


def _nothing(image_size: tuple[int, int]) -> VotedMasks:
    none = torch.zeros(0, dtype=torch.int64)
    return VotedMasks(torch.zeros((0, 4)), torch.zeros(0), none, none, CroppedMasks.empty(image_size))


def _check(
    boxes: Tensor, probabilities: Tensor, max_instances: int, threshold: float, order: str, extent: str
) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [R, 4], got shape {tuple(boxes.shape)}")
    if probabilities.dim() != 2 or probabilities.shape[0] != boxes.shape[0] or probabilities.shape[1] < 1:
        shape = tuple(probabilities.shape)
        raise ValueError(f"probabilities must be [{boxes.shape[0]}, C] with C at least 1, got {shape}")
    if max_instances < 1:
        raise ValueError(f"max_instances must be at least 1, got {max_instances}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    if order not in ("paper", "published"):
        raise ValueError(f"order must be 'paper' or 'published', not {order!r}")
    if extent not in ("box", "voters"):
        raise ValueError(f"extent must be 'box' or 'voters', not {extent!r}")
