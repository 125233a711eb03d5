"""Region proposal network: anchors, proposals, targets and losses (Faster R-CNN; FCIS section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, TypeAlias

import pydantic.dataclasses
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from instancefcn.geometry import boxes as box_ops
from instancefcn.models.spec_fields import (
    MAX_BOXES,
    MAX_KEPT,
    STRICT,
    BoxCount,
    Channels,
    Factors,
    KeptCount,
    Length,
    SampleCount,
    Share,
)
from instancefcn.models.targets import Target
from instancefcn.ops.suppression import suppress

# smooth L1 with sigma 3: quadratic below 1/9.
BOX_BETA = 1.0 / 9.0

IN_CACHE = 2**17
"""Pairs of an anchor and an object whose IoUs a CPU computes at once."""

Generators: TypeAlias = Sequence[torch.Generator | None]
"""CPU generators, one for each image, so that its draws do not depend on the rest of the batch; None means
torch's global generator."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class AnchorSpec:
    """The anchors of each map cell.

    Attributes:
        scales: square roots of the areas, in units of the stride.
        ratios: height / width.
        stride: pixels per map cell.
    """

    scales: Factors
    ratios: Factors = (0.5, 1.0, 2.0)
    stride: Annotated[int, Field(ge=1, le=1024)] = 16

    def __len__(self) -> int:
        return len(self.scales) * len(self.ratios)

    def base(self) -> Tensor:
        """The A anchors of a cell centred on the origin: float32 [A, 4] in pixels, all scales of the first
        ratio first, from exact square roots without rounding.
        """
        ratios = torch.tensor(self.ratios, dtype=torch.float64).repeat_interleave(len(self.scales))
        sides = self.stride * torch.tensor(self.scales, dtype=torch.float64).repeat(len(self.ratios))
        half_h, half_w = sides * ratios.sqrt() / 2, sides / ratios.sqrt() / 2
        return torch.stack((-half_w, -half_h, half_w, half_h), dim=1).float()

    def grid(self, height: int, width: int, base: Tensor | None = None) -> Tensor:
        """The anchors centred on each cell of a map, row by row: float32 [height * width * A, 4] in pixels.

        Args:
            base: the result of `base()` on the device of the anchors; by default on the CPU.
        """
        base = self.base() if base is None else base
        y = (torch.arange(height, device=base.device) + 0.5) * self.stride
        x = (torch.arange(width, device=base.device) + 0.5) * self.stride
        cy, cx = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack((cx, cy, cx, cy), dim=-1)
        return (centres[:, :, None] + base).reshape(-1, 4)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class RPNSpec:
    """How proposals are made and trained. The defaults are the published values.

    Attributes:
        channels: of the hidden layer.
        before_nms, after_nms: proposals kept before and after non-maximum suppression.
        by_size: whether `before_nms` counts for each size of anchors, as for each level of a feature pyramid.
            Else the many anchors on one large object take the places of those on small ones.
        nms_iou: proposals that overlap a better one by more than this are dropped.
        min_size: proposals with a shorter side, in pixels of the network's input, are dropped; those without
            area always are.
        inside_only: train only anchors that lie entirely inside the image.
        positive_iou, negative_iou: an anchor whose IoU with some object is at least the first is positive;
            below the second with all objects it is negative.
        samples, positive_fraction: anchors of one image in the loss, and the maximum share of positive ones.
    """

    channels: Channels = 512
    before_nms: BoxCount = 6000
    after_nms: KeptCount = 300
    nms_iou: Share = 0.7
    min_size: Length = 16.0
    inside_only: bool = True
    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    samples: SampleCount = 256
    positive_fraction: Share = 0.5
    by_size: bool = False

    def times(self, factor: float) -> RPNSpec:
        """With `factor` (at least 1) times as many proposals, before and after suppression."""
        return replace(
            self,
            before_nms=min(math.ceil(self.before_nms * factor), MAX_BOXES),
            after_nms=min(math.ceil(self.after_nms * factor), MAX_KEPT),
        )


class RegionProposalNetwork(nn.Module):
    """A 3x3 convolution, then one objectness logit and four box deltas for each anchor.

    The papers have two logits and a softmax, in which only the difference counts: the one logit here.

    Args:
        in_channels: of the features.
        anchors: the anchors of each cell.
        spec: settings of proposals and training.
    """

    base_bits: Tensor

    def __init__(self, in_channels: int, anchors: AnchorSpec, spec: RPNSpec) -> None:
        super().__init__()
        self.anchors, self.spec = anchors, spec
        # A buffer, on the network's device: a copy to the GPU in each step would wait for it, and CUDA graphs
        # forbid it. As integers, which are not rounded when the network is cast to half precision.
        self.register_buffer("base_bits", anchors.base().view(torch.int32), persistent=False)
        self.hidden = nn.Conv2d(in_channels, spec.channels, 3, padding=1)
        self.logits = nn.Conv2d(spec.channels, len(anchors), 1)
        self.deltas = nn.Conv2d(spec.channels, 4 * len(anchors), 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, H, W] to objectness logits [N, T] and deltas [N, T, 4] of T = H * W * A anchors, in
        the order of `grid`.
        """
        hidden = F.relu(self.hidden(features))
        n = features.shape[0]
        logits = self.logits(hidden).permute(0, 2, 3, 1).reshape(n, -1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(n, -1, 4)
        return logits.float(), deltas.float()

    @property
    def groups(self) -> int:
        """Groups of anchors in each of which the best are chosen: see `rank`."""
        return len(self.anchors.scales) if self.spec.by_size else 1

    def grid(self, features: Tensor) -> Tensor:
        """The anchors [T, 4] of features [N, C, H, W], in pixels."""
        return self.anchors.grid(features.shape[2], features.shape[3], self.base_bits.view(torch.float32))

    @torch.no_grad()
    def proposals(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        sizes: Sequence[tuple[int, int]],
        factor: float = 1.0,
    ) -> Tensor:
        """Proposals [N, P, 4], best first, in pixels, each clipped to its image; P is `factor` times
        `after_nms`.

        Where an image has fewer, boxes without area follow, so that the shape is known in advance.

        Args:
            logits, deltas: [N, T] and [N, T, 4]: the output of `forward`.
            anchors: [T, 4].
            sizes: (height, width) of the images.
            factor: at least 1: see `RPNSpec.times`.
        """
        spec = self.spec if factor == 1.0 else self.spec.times(factor)
        ranked = []
        for image_logits, image_deltas, size in zip(logits, deltas, sizes, strict=True):
            competing = image_logits.masked_fill(~on_image(anchors, size, self.anchors.stride), -torch.inf)
            ranked.append(rank(competing, box_ops.decode(anchors, image_deltas), size, spec, self.groups))
        return thin(torch.stack(ranked), spec)

    def loss(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        targets: list[Target],
        sizes: list[tuple[int, int]],
        generators: Generators | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss, each the mean over the images of a batch.

        Objectness: mean logistic loss of the sampled anchors. Boxes: sum of smooth L1 (sigma 3) over the
        positive ones, divided by `samples` (the official normaliser).

        Args:
            logits, deltas, anchors, sizes: as for `proposals`.
            targets: the objects of each image.
            generators: one for each image, from which its anchors are drawn.
        """
        class_losses, box_losses = [], []
        generators = generators or [None] * len(targets)
        for i, (target, size, generator) in enumerate(zip(targets, sizes, generators, strict=True)):
            labels, matched = anchor_labels(anchors, target, size, self.spec, self.anchors.stride)
            positive, negative = sample_anchors(labels, self.spec, generator)
            chosen = torch.cat((positive, negative))
            truth = (labels[chosen] == 1).to(logits.dtype)
            entropy = F.binary_cross_entropy_with_logits(logits[i, chosen], truth, reduction="sum")
            class_losses.append(entropy / max(len(chosen), 1))
            true_deltas = box_ops.encode(anchors[positive], target.boxes[matched[positive]])
            distance = F.smooth_l1_loss(deltas[i, positive], true_deltas, beta=BOX_BETA, reduction="sum")
            box_losses.append(distance / self.spec.samples)
        return torch.stack(class_losses).mean(), torch.stack(box_losses).mean()


def on_image(anchors: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """bool [T]: whether an anchor's cell covers a part of an image of `size` (height, width).

    Other cells lie in the padding of a batch. Without them an image has the same anchors alone and in a batch
    with larger images.
    """
    # A cell begins half a stride before its centre. Cells and images begin and end on whole pixels; the half
    # pixel allows for rounding.
    begin = (anchors[:, :2] + anchors[:, 2:]) / 2 - stride / 2
    return (begin[:, 0] < size[1] - 0.5) & (begin[:, 1] < size[0] - 0.5)


def rank(scores: Tensor, candidates: Tensor, size: tuple[int, int], spec: RPNSpec, groups: int = 1) -> Tensor:
    """The `before_nms` best candidates [T, 4] of one image in each of `groups`, clipped to it, best first:
    [groups * before_nms, 4], or fewer where there are fewer. Candidate t is in group t % groups: anchors of a
    cell have their sizes in turn.

    Candidates that are too small, or whose score is not finite, are left out: zeros take their rows.
    """
    candidates = box_ops.clip(candidates, size)
    valid = large_enough(candidates, spec.min_size) & torch.isfinite(scores)
    scores = scores.masked_fill(~valid, -torch.inf)
    best = best_of_groups(scores, groups, min(spec.before_nms, len(scores) // groups))
    best = best.sort().values  # equal scores come in the order of the anchors
    scores, order = scores[best].sort(descending=True, stable=True)
    return candidates[best[order]].masked_fill((scores == -torch.inf)[:, None], 0)


def best_of_groups(scores: Tensor, groups: int, count: int) -> Tensor:
    """int64 [groups * count]: the `count` highest of scores [T] in each group; t is in t % groups."""
    rows = scores.view(-1, groups).t().topk(count).indices
    return (rows * groups + torch.arange(groups, device=rows.device)[:, None]).flatten()


def large_enough(boxes: Tensor, min_size: float) -> Tensor:
    """bool [...]: whether both sides of boxes [..., 4] are at least `min_size` and above zero."""
    return box_ops.sides_at_least(boxes, min_size) & box_ops.have_area(boxes)


def thin(ranked: Tensor, spec: RPNSpec) -> Tensor:
    """The boxes [N, K, 4] (best first) that suppression keeps: [N, after_nms, 4], padded with zeros."""
    rows = suppress(ranked, spec.nms_iou, spec.after_nms)
    padded = F.pad(ranked, (0, 0, 0, 1))  # row K stands for no box
    return padded.gather(1, rows[..., None].expand(-1, -1, 4))


def anchor_labels(
    anchors: Tensor, target: Target, size: tuple[int, int], spec: RPNSpec, stride: int
) -> tuple[Tensor, Tensor]:
    """Labels int64 [T] (1 object, 0 background, -1 not used), and int64 [T]: the index of the object that an
    anchor overlaps most.

    An anchor is positive when its IoU with an object is at least `positive_iou` or the highest of all anchors
    (also where several tie). Not used are anchors in the padding of a batch, those that extend beyond the
    image when `inside_only`, and background of which a crowd region covers half.
    """
    height, width = size
    labels = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    matched = torch.zeros_like(labels)
    if spec.inside_only:
        usable = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    else:
        usable = on_image(anchors, size, stride)
    if len(target.boxes) == 0:
        labels[usable] = 0
    else:
        best, matched, best_of_some = _overlaps(anchors, usable, target.boxes)
        labels[(best < spec.negative_iou) & usable] = 0
        labels[best_of_some | (best >= spec.positive_iou)] = 1
    if len(target.crowd_boxes):
        labels[(labels == 0) & (covered_by(anchors, target.crowd_boxes) >= 0.5)] = -1
    return labels, matched


def _overlaps(anchors: Tensor, usable: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of anchors [T, 4]: float32 [T], its highest IoU with one of objects [G, 4]; int64 [T], the
    index of that object; bool [T], whether its IoU with some object is the highest of all anchors and above
    zero. Anchors that are not `usable` have an IoU of -1.

    On the CPU a few objects at a time, so that their IoUs fit into its cache.
    """
    best = torch.full((len(anchors),), -1.0, device=anchors.device)
    matched = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    best_of_some = torch.zeros_like(usable)
    x1, y1, x2, y2 = anchors.t().contiguous()
    area = (x2 - x1) * (y2 - y1)
    step = len(objects) if anchors.is_cuda else max(1, IN_CACHE // len(anchors))
    for start in range(0, len(objects), step):
        some = objects[start : start + step]
        left, top, right, bottom = some.t()[:, :, None]
        width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
        height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
        common = width.mul_(height)
        iou = common / (area + (right - left) * (bottom - top) - common)
        iou.masked_fill_(~usable, -1.0)
        highest = iou.amax(1, keepdim=True)
        best_of_some |= ((iou == highest) & (highest > 0)).any(0)
        value, index = iou.max(0)
        better = value > best
        best = torch.where(better, value, best)
        matched = torch.where(better, index + start, matched)
    return best, matched, best_of_some


def covered_by(boxes: Tensor, regions: Tensor) -> Tensor:
    """float32 [N]: the largest share of each box [N, 4] that lies inside one of `regions` [K, 4], K >= 1."""
    top_left = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1).clamp(min=1e-9)
    return (overlap / areas[:, None]).max(1).values


def sample_anchors(
    labels: Tensor, spec: RPNSpec, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of the positive and of the negative anchors in the loss: `samples` in all, of which at most
    `positive_fraction` are positive.
    """
    limit = int(spec.samples * spec.positive_fraction)
    positive = random_subset((labels == 1).nonzero()[:, 0], limit, generator)
    negative = random_subset((labels == 0).nonzero()[:, 0], spec.samples - len(positive), generator)
    return positive, negative


def random_subset(indices: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """At most `count` of `indices` [K], drawn without replacement from `generator` (on the CPU), by default
    torch's global one.
    """
    if len(indices) <= count:
        return indices
    # On the CPU for any device, so that a seed gives the same draws everywhere.
    return indices[torch.randperm(len(indices), generator=generator)[:count].to(indices.device)]
