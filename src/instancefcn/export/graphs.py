"""The networks as graphs: one image in, a fixed count of objects out, each step as in their `forward`.

What is different is only form. Lists that would be of any length are padded; boxes that do not count stay
where they are with a score of 0; nothing depends on Python's knowledge of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from instancefcn.export.grids import FINE, apart, average, front, suppress, tighten
from instancefcn.geometry import boxes as box_ops
from instancefcn.models.fcis import FCIS
from instancefcn.models.instance_fcn import InstanceFCN, tight_cells
from instancefcn.models.rpn import best_of_groups, large_enough
from instancefcn.models.windows import window_boxes
from instancefcn.ops import ps_average

NMS_IOU = 0.3
"""As in `instancefcn.ops.vote_masks`."""
CANDIDATES = 4096
"""Pairs of window and class in suppression, the best of all. Worse ones matter only where these have fewer
objects than requested."""

Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""Boxes, scores, labels and masks."""


class FCISGraph(nn.Module):
    """`FCIS` for one image.

    Args:
        network: in evaluation mode.
        instances: N, the number of results, padded at the end.
        min_score: objects with a lower score become padding.
        points: M, along each side of a mask's grid.

    Attributes:
        threshold: minimum mask probability of a point that belongs to the object.
    """

    def __init__(self, network: FCIS, instances: int, min_score: float, points: int) -> None:
        super().__init__()
        self.network = network
        self.instances, self.min_score, self.points = instances, min_score, points
        self.threshold = network.head.mask_threshold
        self.rpn_spec = network.rpn.spec.times(max(1.0, instances / network.max_instances))

    def forward(self, image: Tensor) -> Found:
        """An image uint8 [1, 3, H, W], RGB, to N objects, best first.

        Returns:
            boxes: float32 [N, 4], half-open x1, y1, x2, y2 in pixels of the image, around the masks.
            scores: float32 [N], 0 to 1; 0 marks padding.
            labels: int64 [N], from 0.
            masks: float32 [N, M, M]: probabilities at the centres of a grid over each box, rows first.
        """
        network = self.network
        size = (image.shape[2], image.shape[3])
        mean, std = network.backbone.mean, network.backbone.std
        features = network.backbone((image.to(mean.dtype) / 255 - mean) / std)
        maps, box_maps = network.maps(features)
        proposals, there = self.proposals(network.proposal_features(features, maps), size)
        boxes, usable = proposals, there
        if network.head.passes == 2:
            rois = box_ops.to_rois(proposals, 0)
            deltas = ps_average(box_maps, rois, network.head.stride) * network.delta_std
            refined = box_ops.clip(box_ops.decode(proposals, deltas), size)
            boxes, usable = torch.cat((proposals, refined)), torch.cat((there, there))
        usable = usable & large_enough(boxes, network.rpn.spec.min_size)
        rois = box_ops.to_rois(boxes, 0)
        probabilities = network.class_logits(maps, rois).softmax(1) * usable[:, None]
        scores, rows, classes = self.survivors(boxes, probabilities, size)
        alive = scores >= self.min_score

        own = rows[:, None] == torch.arange(boxes.shape[0], device=rows.device)
        near = box_iou(boxes[rows].double(), boxes.double()) >= network.head.vote_iou
        votes = (near | own) & usable & alive[:, None]
        weights = probabilities[:, classes].t() * votes
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
        reach = _reach(boxes, votes)
        which, voter = votes.nonzero().unbind(1)
        masks = network.masks(maps, rois[voter], classes[which]).sigmoid()
        return finish(
            (masks, boxes[voter], which, weights[which, voter]),
            reach,
            (scores, classes - 1, alive),
            self.threshold,
            self.points,
        )

    def proposals(self, level: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes [after_nms, 4], best first, from the features that the RPN sees; and bool [after_nms]: which
        of them are not padding.
        """
        rpn, spec = self.network.rpn, self.rpn_spec
        logits, deltas = rpn(level)
        anchors = rpn.anchors.grid(level.shape[2], level.shape[3])
        boxes = box_ops.clip(box_ops.decode(anchors, deltas[0]), size)
        valid = large_enough(boxes, spec.min_size) & torch.isfinite(logits[0])
        scores = logits[0].masked_fill(~valid, -torch.inf)
        # A small image has fewer than `before_nms` anchors in a group.
        count = rpn.groups * spec.before_nms
        scores = torch.cat((scores, scores.new_full((count,), -torch.inf)))
        boxes = torch.cat((boxes, boxes.new_zeros((count, 4))))
        best = best_of_groups(scores, rpn.groups, spec.before_nms)
        scores, order = scores[best].topk(count)
        boxes = boxes[best[order]]
        rows, there = suppress(boxes, scores, spec.nms_iou, spec.after_nms)
        there = there & torch.isfinite(scores[rows])
        return boxes[rows] * there[:, None], there

    def survivors(
        self, boxes: Tensor, probabilities: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (0 for padding), rows and classes [N] of the best windows after suppression per class."""
        count, classes = boxes.shape[0], probabilities.shape[1] - 1
        scores, order = probabilities[:, 1:].t().reshape(-1).topk(min(CANDIDATES, count * classes))
        rows, labels = order % count, torch.div(order, count, rounding_mode="floor")
        kept, there = suppress(apart(boxes[rows], labels, classes, size), scores, NMS_IOU, self.instances)
        return scores[kept] * there, rows[kept], labels[kept] + 1


def _reach(boxes: Tensor, votes: Tensor) -> Tensor:
    """[N, 4]: the smallest box around those of `boxes` [R, 4] that vote in each row of `votes` bool [N, R];
    zeros for a row without votes.
    """
    far = votes[:, :, None].logical_not() * 1e6
    begin = (boxes[:, :2] + far).amin(1)
    end = (boxes[:, 2:] - far).amax(1)
    return torch.cat((begin, end), 1) * votes.any(1, keepdim=True)


def finish(
    votes: tuple[Tensor, Tensor, Tensor, Tensor],
    reach: Tensor,
    found: tuple[Tensor, Tensor, Tensor],
    threshold: float,
    points: int,
) -> Found:
    """Average the votes, find the extent of each mask and read the masks there. Objects without a mask become
    padding, which is moved to the end.

    Args:
        votes: masks, boxes, areas and weights, as for `average`.
        reach: [N, 4]: boxes that enclose the objects, in pixels of the image.
        found: scores [N], labels [N], and bool [N]: whether there is an object.
        threshold: minimum mask probability of a point that belongs to the object.
        points: along each side of a mask's grid.
    """
    scores, labels, alive = found
    boxes, filled = tighten(average(*votes, reach, FINE), reach, threshold)
    masks = average(*votes, boxes, points)
    alive = alive & filled
    order = front(alive)
    alive = alive[order]
    return (
        boxes[order] * alive[:, None],
        scores[order] * alive,
        labels[order] * alive,
        masks[order] * alive[:, None, None],
    )


class InstanceFCNGraph(nn.Module):
    """`InstanceFCN` for one image of the size with which it is traced; arguments as for `FCISGraph`."""

    def __init__(self, network: InstanceFCN, instances: int, min_score: float, points: int) -> None:
        super().__init__()
        self.network = network
        self.instances, self.min_score, self.points = instances, min_score, points
        self.threshold = network.spec.mask_threshold

    def forward(self, image: Tensor) -> Found:
        """An image uint8 [1, 3, H, W], RGB, to N proposals; see `FCISGraph`. All labels are 0."""
        network = self.network
        size = (image.shape[2], image.shape[3])
        scores, windows, masks = self.windows(image[0].to(network.features.mean.dtype) / 255)
        cells, filled = tight_cells(masks >= self.threshold)
        sides = (windows[:, 2:] - windows[:, :2]).repeat(1, 2) / network.windows.cells
        boxes = box_ops.clip(windows[:, :2].repeat(1, 2) + cells * sides, size)
        usable = filled & box_ops.sides_at_least(boxes, 1.0) & (scores >= self.min_score)
        scores = torch.where(usable, scores, -1.0)
        rows, there = suppress(boxes, scores, network.spec.nms_iou, self.instances)
        alive = there & (scores[rows] >= 0)
        which = torch.arange(self.instances, device=rows.device)
        return finish(
            (masks[rows], windows[rows], which, alive.to(masks.dtype)),
            box_ops.clip(windows[rows], size),
            (scores[rows], torch.zeros_like(rows), alive),
            self.threshold,
            self.points,
        )

    def windows(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [P], windows [P, 4] in pixels of the image [3, H, W], and mask probabilities [P, m, m] of
        the best windows of all levels together, in the order of the levels.
        """
        network, size = self.network, image.shape[1:]
        levels = [network.score_maps(level) for level in network.pyramid(image)]
        flat = torch.cat([logits.flatten() for _, logits in levels])
        best, order = flat.topk(min(network.spec.before_nms, flat.shape[0]))
        scores, windows, masks = [], [], []
        begin = 0
        for number, (maps, logits) in enumerate(levels):
            height, width = network.level_size(size, number)
            rows = ((order >= begin) & (order < begin + logits.numel())).nonzero()[:, 0]
            on_level = window_boxes(order[rows] - begin, logits.shape[1], network.windows)
            begin += logits.numel()
            scores.append(best[rows].sigmoid())
            masks.append(network.assemble(maps, on_level).sigmoid())
            windows.append(box_ops.scale(on_level, size[1] / width, size[0] / height))
        return torch.cat(scores), torch.cat(windows), torch.cat(masks)
