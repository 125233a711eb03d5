"""RoIs for training: the objects they match, which are sampled, and their masks (FCIS section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pydantic.dataclasses
import torch
from torch import Tensor
from torchvision.ops import box_iou

from instancefcn.models.rpn import covered_by, random_subset
from instancefcn.models.spec_fields import STRICT, SampleCount, Share
from instancefcn.models.targets import Target

MASK_TARGET_THRESHOLD = 0.5
"""A cell of a RoI's mask target belongs to the object when the mask, read bilinearly, is at least this. The
official code has 0.4, which moves outlines outwards by a tenth of a pixel: some per cent of a small object's
area."""

Method = Literal["random", "ohem"]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class SamplingSpec:
    """Which RoIs of an image enter the loss.

    Attributes:
        method: "random" draws `rois` before the forward pass; "ohem" scores all and keeps the `rois` of
            highest loss.
        rois: RoIs of one image in the loss.
        foreground_fraction: with "random", the maximum share of foreground among them.
        foreground_iou: a RoI is foreground when its IoU with an object is at least this.
        background_iou: with "random", the minimum IoU of a background RoI with some object (0.1 for VOC, 0
            for COCO).
        fill: with "random", any other RoIs, labelled background, complete the number of `rois`, as in the
            official code.
    """

    method: Method = "ohem"
    rois: SampleCount = 128
    foreground_fraction: Share = 0.25
    foreground_iou: Share = 0.5
    background_iou: Share = 0.0
    fill: bool = True


@dataclass(frozen=True, eq=False)
class RoITargets:
    """The RoIs of one image with their labels.

    Attributes:
        rois: float32 [R, 4] in pixels of the network's input.
        labels: int64 [R], on the class axis of the score maps: 0 background, 1 + class, -1 not used.
        matched: int64 [R]: index of the object that a foreground RoI matches; 0 elsewhere.
    """

    rois: Tensor
    labels: Tensor
    matched: Tensor


def assign_rois(
    proposals: Tensor, target: Target, spec: SamplingSpec, generator: torch.Generator | None = None
) -> RoITargets:
    """Labels for the RoIs of one image: the `proposals` [P, 4], followed by the boxes of the objects.

    With "random" sampling the result holds only the RoIs drawn from `generator`, foreground first; with
    "ohem" all of them.
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
    """Indices and labels of the drawn RoIs."""
    limit = round(spec.rois * spec.foreground_fraction)
    foreground = random_subset((labels > 0).nonzero()[:, 0], limit, generator)
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
    """The objects' masks on the grids of RoIs.

    The annotated mask is read bilinearly at the centres of the RoI's size x size cells. Neither is the mask
    resized nor the RoI rounded. (The official code pastes, rounds and resizes, with the same result within a
    pixel.)

    Args:
        rois: [F, 4] in pixels of the network's input.
        matched: int64 [F]: the object of each RoI.
        size: cells along each side.

    Returns:
        float32 [F, size, size], 0 or 1.
    """
    steps = (torch.arange(size, device=rois.device, dtype=rois.dtype) + 0.5) / size
    x = (rois[:, :1] + (rois[:, 2:3] - rois[:, :1]) * steps) / target.scale[0]
    y = (rois[:, 1:2] + (rois[:, 3:4] - rois[:, 1:2]) * steps) / target.scale[1]
    values = target.masks.sample(x[:, None, :], y[:, :, None], matched[:, None, None])
    return (values >= MASK_TARGET_THRESHOLD).float()


def hardest(losses: Tensor, count: int) -> Tensor:
    """bool [R]: the `count` RoIs of highest loss (online hard example mining, without suppression)."""
    keep = torch.zeros(len(losses), dtype=torch.bool, device=losses.device)
    keep[losses.detach().topk(min(count, len(losses))).indices] = True
    return keep
