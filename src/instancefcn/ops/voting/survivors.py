"""The first step of mask voting: the RoIs that become instances, by suppression per class.

There are two forms with equal results. On a CPU, the best candidates of all classes are examined, and more of
them while too few are left. A GPU would be waited for in every round of that, so there all classes are
suppressed side by side.
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
"""Scores, rows and classes (on the class axis), each [N, S], best first, equal scores by class, then by row.
Images with fewer than S survivors are padded with scores of -1."""


def survivors(
    boxes: Tensor, probabilities: Tensor, nms_iou: float, min_score: float, limit: int
) -> Survivors:
    """The `limit` best of every image after suppression per class.

    Args:
        boxes: float32 [N, R, 4].
        probabilities: float32 [N, R, C], background at 0.
        nms_iou, min_score: see `instancefcn.ops.vote_masks`.
    """
    if boxes.is_cuda and not is_portable(boxes.device):
        return side_by_side(boxes, probabilities, nms_iou, min_score, limit)
    found = [one_by_one(*own, nms_iou, min_score, limit) for own in zip(boxes, probabilities, strict=True)]
    longest = max((len(scores) for scores, _, _ in found), default=0)
    padded = [
        [
            pad(part, (0, longest - len(part)), value=value)
            for part, value in zip(own, (-1, 0, 0), strict=True)
        ]
        for own in found
    ]
    scores, rows, classes = (torch.stack(parts) for parts in zip(*padded, strict=True))
    return scores, rows, classes


def one_by_one(
    boxes: Tensor, probabilities: Tensor, nms_iou: float, min_score: float, limit: int
) -> Survivors:
    """`survivors` of one image, boxes [R, 4] and probabilities [R, C], without padding."""
    foreground = probabilities[:, 1:].t()
    valid = (foreground >= min_score) & box_ops.have_area(boxes)
    return best_of(valid.reshape(-1).nonzero()[:, 0], boxes, foreground, nms_iou, limit)


def best_of(
    candidates: Tensor, boxes: Tensor, foreground: Tensor, nms_iou: float, limit: int, ties: bool = False
) -> Survivors:
    """The `limit` best of one image after suppression per class; with `ties` also those that equal the last
    one.

    Suppression among the best n candidates does not depend on worse ones, so only a few are examined.

    Args:
        candidates: int64 [M]: indices into `foreground`, flattened, of the pairs to consider; of equal scores
            the earlier one wins.
        boxes: [R, 4].
        foreground: [C - 1, R]: the probabilities of all classes but background.
    """
    count = boxes.shape[0]
    scores, order = foreground.reshape(-1)[candidates].sort(descending=True, stable=True)
    rows, classes = candidates[order] % max(count, 1), candidates[order] // max(count, 1)
    # Classes are moved apart, so that one suppression serves all. float64 keeps the IoUs exact far from the
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
    """`survivors` of all images without waiting for a GPU: suppress every class, then take the best."""
    images, count, axis = probabilities.shape
    if images == 0 or count == 0 or axis == 1:
        none = boxes.new_zeros((images, 0), dtype=torch.int64)
        return boxes.new_zeros((images, 0)), none, none
    foreground = probabilities[:, :, 1:].transpose(1, 2)  # [N, C, R]
    valid = (foreground >= min_score) & box_ops.have_area(boxes)[:, None]
    scores, order = foreground.masked_fill(~valid, -1).sort(dim=2, descending=True, stable=True)
    image = torch.arange(images, device=boxes.device)[:, None, None]
    ranked = boxes[image, order].double().masked_fill((scores < 0)[..., None], 0)
    per_class = min(limit, count)
    kept = suppress(ranked.flatten(0, 1), nms_iou, per_class).unflatten(0, (images, axis - 1))
    scores = pad(scores, (0, 1), value=-1).gather(2, kept)  # index R is padding
    rows = pad(order, (0, 1)).gather(2, kept)
    best, order = scores.flatten(1).sort(dim=1, descending=True, stable=True)
    best, order = best[:, :limit], order[:, :limit]
    return best, rows.flatten(1).gather(1, order), order // per_class + 1
