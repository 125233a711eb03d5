"""Mask voting as in the official code and ChainerCV; `instancefcn.ops.vote_masks` votes as in the paper.

Each voter contributes the mask of its own best foreground class, read over its box rounded to whole pixels
and thresholded before the average. The instance's box encloses the pixels whose average reaches the
threshold. The average inside it, resized to m x m, is its probability; resized back and thresholded, its
mask. Instances that tie with the last one are kept too. Equal scores of a class are ranked as numpy sorts
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.ops.voting.average import extents, vote_average
from instancefcn.ops.voting.ballots import Ballot, ReadMasks, Size, ballots, read
from instancefcn.ops.voting.operator import VotedMasks, check_votes
from instancefcn.ops.voting.survivors import Survivors, best_of
from instancefcn.profiling import stage


@dataclass(frozen=True, eq=False)
class PublishedVotes(VotedMasks):
    """Instances, whose boxes enclose their averaged votes.

    Attributes:
        probabilities: float32 [S, m, m]: the averaged votes inside `boxes`.
    """

    probabilities: Tensor


@torch.no_grad()
def vote_published(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    image_size: Size,
    *,
    nms_iou: float = 0.3,
    vote_iou: float = 0.5,
    max_instances: int = 100,
    min_score: float = 1e-3,
    threshold: float = 0.4,
    classes: Sequence[int] | None = None,
) -> PublishedVotes:
    """Choose the instances of an image, and make their masks from the votes of the RoIs around them.

    Args:
        read_masks: as for `vote_masks`; called once with all RoIs that vote, more often beyond `MAX_VOTES`
            votes.
        boxes, probabilities, image_size, nms_iou, vote_iou, max_instances, min_score, threshold: see
            `vote_masks`. The result has more than `max_instances` when others tie with the last one.
        classes: of the instances, on the class axis; None for all.

    Raises:
        ValueError: shapes do not fit together, or a setting is out of range.
    """
    check_votes(boxes[None], probabilities[None], [image_size], max_instances, threshold)
    boxes, probabilities = boxes.detach().float(), probabilities.detach().float()
    with stage("suppression"):
        wanted = probabilities
        if classes is not None:
            wanted = torch.zeros_like(probabilities)
            wanted[:, classes] = probabilities[:, classes]
        chosen = _survivors(boxes, wanted, nms_iou, min_score, max_instances)
    scores, rows, labels = chosen
    runs = [
        _voted(read_masks, boxes, probabilities, ballot, image_size, threshold)
        for _, ballot in ballots(
            boxes[None], probabilities[None], (scores[None], rows[None], labels[None]), vote_iou
        )
    ]
    if not runs:
        nothing = CroppedMasks.empty(image_size).to(boxes.device)
        return PublishedVotes(
            boxes[:0], scores[:0], labels[:0], rows[:0], nothing, boxes.new_zeros((0, 1, 1))
        )
    pixels, rects, outlines, averages = (torch.cat(parts) for parts in zip(*runs, strict=True))
    with stage("pasting"):
        reached = extents(pixels, rects)
    kept = (reached[:, 2] > reached[:, 0]).nonzero()[:, 0]
    masks = CroppedMasks(pixels, rects, image_size)[kept]
    return PublishedVotes(
        *(outlines[kept], scores[kept], labels[kept], rows[kept], masks, averages[kept]),
        full=len(scores) >= max_instances,
    )


def _survivors(
    boxes: Tensor, probabilities: Tensor, nms_iou: float, min_score: float, limit: int
) -> Survivors:
    """The `limit` best of boxes [R, 4] with probabilities [R, C], and those that tie with the last one."""
    foreground = probabilities[:, 1:].t()
    usable = box_ops.have_area(boxes).nonzero()[:, 0]
    ranked = usable[numpy_ranks(foreground[:, usable])]
    first = len(boxes) * torch.arange(len(ranked), device=ranked.device)[:, None]
    candidates = (ranked + first).reshape(-1)
    candidates = candidates[(foreground >= min_score).reshape(-1)[candidates]]
    return best_of(candidates, boxes, foreground, nms_iou, limit, ties=True)


def numpy_ranks(scores: Tensor) -> Tensor:
    """int64 [C, R]: the rows of each class, best first, as the published codes rank `scores` [C, R]: by
    `numpy.argsort`, reversed.

    A window and its refined box often have equal scores, as they touch the same cells; which is kept depends
    on the sort. Newer numpy sorts float32 and float64 differently, but its longest float as before.
    """
    array = scores.cpu().numpy().astype(np.longdouble)
    return torch.from_numpy(np.argsort(array, axis=1)[:, ::-1].copy()).to(scores.device)


def _voted(
    read_masks: ReadMasks,
    boxes: Tensor,
    probabilities: Tensor,
    ballot: Ballot,
    size: Size,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels, rectangles, boxes and averages of the instances of a ballot."""
    roi, index = ballot.rows.unique(return_inverse=True)
    masks = read(read_masks, roi, probabilities[roi, 1:].argmax(1) + 1)
    m, rounded = masks.shape[-1], boxes[roi].round()
    pixels, rects, averages, tight = [], [], [], []
    for begin, end in pairwise(ballot.starts.tolist()):
        # One at a time: an average can be as large as the image.
        voters, weights = index[begin:end], ballot.weights[begin:end]
        seen = box_ops.clip(rounded[voters], size)
        rect = torch.cat((seen[:, :2].amin(0), seen[:, 2:].amax(0))).long()[None]
        start = ballot.starts.new_tensor((0, end - begin))
        flat = vote_average(masks, rounded, voters, weights, start, rect, None, binarize=threshold)
        x1, y1, x2, y2 = rect[0].tolist()
        box, average, crop = _tightened(flat.view(y2 - y1, x2 - x1), m, threshold)
        tight.append((box[0] + x1, box[1] + y1, box[2] + x1, box[3] + y1))
        rects.append((*tight[-1][:2], tight[-1][0] + crop.shape[1], tight[-1][1] + crop.shape[0]))
        averages.append(average)
        pixels.append(crop.flatten())
    rectangles = torch.tensor(rects, dtype=torch.int64, device=boxes.device)
    outlines = torch.tensor(tight, dtype=boxes.dtype, device=boxes.device)
    return torch.cat(pixels).to(torch.uint8), rectangles, outlines, torch.stack(averages)


def _tightened(average: Tensor, m: int, threshold: float) -> tuple[tuple[int, int, int, int], Tensor, Tensor]:
    """The box around the pixels that reach the threshold; the average inside it at m x m; the mask from it.

    `interpolate` reads like OpenCV: half-pixel centres, clamped at the edges, no smoothing.
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
