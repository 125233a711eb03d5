"""RoIs for training: which objects they stand for, which of them count, and their masks (FCIS section
3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

from instancefcn.models.rpn import covered_by, random_subset
from instancefcn.models.targets import Target

# A cell of a RoI's mask target belongs to the object when the mask, read bilinearly, is at least this. The
# official code has 0.4, which grows an outline by a tenth of a pixel: a small object's area by per cents.
MASK_TARGET_THRESHOLD = 0.5

Method = Literal["random", "ohem"]


@dataclass(frozen=True)
class SamplingSpec:
    """Which RoIs of a picture enter the loss.

    Attributes:
        method: "random" draws `rois` before the forward pass; "ohem" runs all and keeps the `rois` of highest
            loss.
        rois: RoIs of one picture in the loss.
        foreground_fraction: with "random", the most of them that may be objects.
        foreground_iou: a RoI that overlaps an object by at least this much stands for it.
        background_iou: with "random", background RoIs overlap some object by at least this much (0.1 VOC, 0
            COCO).
        fill: with "random", fill up to `rois` with any other RoIs, labelled background, as the official code
            does.
    """

    method: Method = "ohem"
    rois: int = 128
    foreground_fraction: float = 0.25
    foreground_iou: float = 0.5
    background_iou: float = 0.0
    fill: bool = True


@dataclass(frozen=True, eq=False)
class RoITargets:
    """What the RoIs of one picture should become.

    Attributes:
        rois: float32 [R, 4], pixels of the network's input.
        labels: int64 [R], on the class axis of the score maps: 0 background, 1 + class, -1 not to be used.
        matched: int64 [R]: index of the object that a foreground RoI stands for; 0 elsewhere.
    """

    rois: Tensor
    labels: Tensor
    matched: Tensor


def assign_rois(
    proposals: Tensor, target: Target, spec: SamplingSpec, generator: torch.Generator | None = None
) -> RoITargets:
    """Labels for the RoIs of one picture: the `proposals` [P, 4] and, behind them, the boxes of the objects
    themselves.

    With "random" sampling only the RoIs drawn from `generator` come back, foreground first; with "ohem" all
    do.
    """
    rois = torch.cat((proposals, target.boxes))
    if len(target.boxes):
        overlap, matched = box_iou(rois, target.boxes).max(1)
    else:
        overlap, matched = (
            rois.new_zeros(len(rois)),
            torch.zeros(len(rois), dtype=torch.int64, device=rois.device),
        )
    foreground = overlap >= spec.foreground_iou
    if len(target.boxes):
        labels = torch.where(foreground, target.labels[matched] + 1, 0)
    else:
        labels = torch.zeros_like(matched)
    if len(target.crowd_boxes):
        labels[~foreground & (covered_by(rois, target.crowd_boxes) >= 0.5)] = -1
    matched = torch.where(foreground, matched, 0)
    if spec.method == "random":
        chosen, labels = _draw(labels, overlap, spec, generator)
        return RoITargets(rois[chosen], labels, matched[chosen])
    return RoITargets(rois, labels, matched)


def _draw(
    labels: Tensor, overlap: Tensor, spec: SamplingSpec, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Indices of the drawn RoIs and their labels."""
    most = round(spec.rois * spec.foreground_fraction)
    foreground = random_subset((labels > 0).nonzero()[:, 0], most, generator)
    candidates = ((labels == 0) & (overlap >= spec.background_iou)).nonzero()[:, 0]
    background = random_subset(candidates, spec.rois - len(foreground), generator)
    chosen = torch.cat((foreground, background))
    drawn = labels[chosen]
    if spec.fill and len(chosen) < spec.rois:
        free = labels >= 0
        free[chosen] = False
        extra = random_subset(free.nonzero()[:, 0], spec.rois - len(chosen), generator)
        chosen, drawn = torch.cat((chosen, extra)), torch.cat((drawn, torch.zeros_like(labels[extra])))
    return chosen, drawn


def mask_targets(rois: Tensor, matched: Tensor, target: Target, size: int) -> Tensor:
    """The objects' masks as RoIs see them.

    The annotated mask is read bilinearly at the centres of the RoI's size x size grid, without resizing it
    and without rounding the RoI. (The official code pastes, rounds and resizes in turn, to the same effect
    within a pixel.)

    Args:
        rois: [F, 4], pixels of the network's input.
        matched: int64 [F]: the object of each RoI.

    Returns:
        float32 [F, size, size], 0 or 1.
    """
    steps = (torch.arange(size, device=rois.device, dtype=rois.dtype) + 0.5) / size
    x = (rois[:, :1] + (rois[:, 2:3] - rois[:, :1]) * steps) / target.scale[0]
    y = (rois[:, 1:2] + (rois[:, 3:4] - rois[:, 1:2]) * steps) / target.scale[1]
    reading = target.masks.sample(x[:, None, :], y[:, :, None], matched[:, None, None])
    return (reading >= MASK_TARGET_THRESHOLD).float()


def hardest(losses: Tensor, count: int) -> Tensor:
    """Boolean [R]: the `count` RoIs of highest loss (online hard example mining, without suppression among
    them).
    """
    keep = torch.zeros(len(losses), dtype=torch.bool, device=losses.device)
    keep[losses.detach().topk(min(count, len(losses))).indices] = True
    return keep
