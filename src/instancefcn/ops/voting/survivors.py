"""The first step of mask voting: the windows that become instances, by suppression class by class.

Two forms with equal answers. What suits a CPU looks at the best candidates of all classes, and at more of
them while too few are left; a GPU would be waited for at every turn, so there all classes are suppressed side
by side, whatever they hold.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.ops import nms

from instancefcn.geometry import boxes as box_ops
from instancefcn.ops.forms import is_portable
from instancefcn.ops.suppression import suppress

Survivors = tuple[Tensor, Tensor, Tensor]
"""Scores, rows and classes (on the class axis), each [N, S], best first, equal ones by class, then by row. In
pictures with fewer than S survivors others follow, whose scores are -1."""


def survivors(
    boxes: Tensor, probabilities: Tensor, nms_iou: float, min_score: float, limit: int
) -> Survivors:
    """The `limit` best of every picture after suppression per class.

    Args:
        boxes: float32 [N, R, 4].
        probabilities: float32 [N, R, C], background at 0.
        nms_iou, min_score: see `instancefcn.ops.vote_masks`.
    """
    if boxes.is_cuda and not is_portable(boxes.device):
        return side_by_side(boxes, probabilities, nms_iou, min_score, limit)
    found = [one_by_one(*own, nms_iou, min_score, limit) for own in zip(boxes, probabilities, strict=True)]
    most = max((len(scores) for scores, _, _ in found), default=0)
    padded = [
        [pad(part, (0, most - len(part)), value=value) for part, value in zip(own, (-1, 0, 0), strict=True)]
        for own in found
    ]
    scores, rows, classes = (torch.stack(parts) for parts in zip(*padded, strict=True))
    return scores, rows, classes


def one_by_one(
    boxes: Tensor, probabilities: Tensor, nms_iou: float, min_score: float, limit: int
) -> Survivors:
    """Of one picture, boxes [R, 4] and probabilities [R, C]: at most `limit`."""
    foreground = probabilities[:, 1:].t()
    wanted = (foreground >= min_score) & box_ops.have_area(boxes)
    return best_of(wanted.reshape(-1).nonzero()[:, 0], boxes, foreground, nms_iou, limit)


def best_of(
    candidates: Tensor, boxes: Tensor, foreground: Tensor, nms_iou: float, limit: int, ties: bool = False
) -> Survivors:
    """The `limit` best of one picture after suppression per class; with `ties` also their last one's equals.

    What suppression leaves of the best n candidates does not depend on worse ones: few are looked at.

    Args:
        candidates: int64 [M]: places in `foreground`, flattened, of the pairs that take part; of equal scores
            the earlier one is the better.
        boxes: [R, 4].
        foreground: [C - 1, R]: the probabilities of all classes but background.
    """
    count = boxes.shape[0]
    scores, order = foreground.reshape(-1)[candidates].sort(descending=True, stable=True)
    rows, classes = candidates[order] % max(count, 1), candidates[order] // max(count, 1)
    # Classes are moved apart so that one suppression serves all; float64 keeps the IoUs exact far from the
    # origin.
    moved = boxes[rows].double()
    if len(rows):
        moved += (classes * (moved.amax() - moved.amin() + 1))[:, None]
    examined = 8 * limit
    while True:
        kept = nms(moved[:examined], scores[:examined].double(), nms_iou).sort().values
        done = examined >= len(scores)
        chosen = kept[:limit]
        if len(chosen) == limit and ties:
            last = scores[kept[limit - 1]]
            done = done or bool(scores[examined - 1] < last)
            chosen = kept[scores[kept] >= last]
        elif len(chosen) == limit:
            done = True
        if done:
            return scores[chosen], rows[chosen], classes[chosen] + 1
        examined *= 4


def side_by_side(
    boxes: Tensor, probabilities: Tensor, nms_iou: float, min_score: float, limit: int
) -> Survivors:
    """Of all pictures at once, without waiting: every class is suppressed by itself, then the best of all
    classes are taken.
    """
    images, count, axis = probabilities.shape
    if images == 0 or count == 0 or axis == 1:
        none = boxes.new_zeros((images, 0), dtype=torch.int64)
        return boxes.new_zeros((images, 0)), none, none
    foreground = probabilities[:, :, 1:].transpose(1, 2)  # [N, C, R]
    wanted = (foreground >= min_score) & box_ops.have_area(boxes)[:, None]
    scores, order = foreground.masked_fill(~wanted, -1).sort(dim=2, descending=True, stable=True)
    image = torch.arange(images, device=boxes.device)[:, None, None]
    ranked = boxes[image, order].double().masked_fill((scores < 0)[..., None], 0)
    most = min(limit, count)
    kept = suppress(ranked.flatten(0, 1), nms_iou, most).unflatten(0, (images, axis - 1))
    scores = pad(scores, (0, 1), value=-1).gather(2, kept)  # place R is where no box is left
    rows = pad(order, (0, 1)).gather(2, kept)
    best, place = scores.flatten(1).sort(dim=1, descending=True, stable=True)
    best, place = best[:, :limit], place[:, :limit]
    return best, rows.flatten(1).gather(1, place), place // most + 1
