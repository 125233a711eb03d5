"""Region proposal network: anchors, proposals, targets and losses (Faster R-CNN; FCIS section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from instancefcn.geometry import boxes as box_ops
from instancefcn.models.targets import Target
from instancefcn.ops.suppression import suppress

# smooth L1 with sigma 3: quadratic below 1/9.
BOX_BETA = 1.0 / 9.0

Generators: TypeAlias = Sequence[torch.Generator | None]
"""On the CPU, one a picture, so that what is drawn for it does not depend on the rest of its batch; None for
torch's global one."""


@dataclass(frozen=True)
class AnchorSpec:
    """Anchors of every map cell.

    Attributes:
        scales: square roots of the areas, in units of the stride.
        ratios: height / width.
        stride: pixels per map cell.
    """

    scales: tuple[float, ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    stride: int = 16

    def __len__(self) -> int:
        return len(self.scales) * len(self.ratios)

    def base(self) -> Tensor:
        """float32 [A, 4] around the origin, pixels; ratio-major, then scale; exact square roots, no
        rounding.
        """
        ratios = torch.tensor(self.ratios, dtype=torch.float64).repeat_interleave(len(self.scales))
        sides = self.stride * torch.tensor(self.scales, dtype=torch.float64).repeat(len(self.ratios))
        half_h, half_w = sides * ratios.sqrt() / 2, sides / ratios.sqrt() / 2
        return torch.stack((-half_w, -half_h, half_w, half_h), dim=1).float()

    def grid(self, height: int, width: int, base: Tensor | None = None) -> Tensor:
        """float32 [height * width * A, 4], pixels: the anchors centred on every cell of a map, row by row.

        Args:
            base: `base()` on the device where the anchors are wanted.
        """
        base = self.base() if base is None else base
        y = (torch.arange(height, device=base.device) + 0.5) * self.stride
        x = (torch.arange(width, device=base.device) + 0.5) * self.stride
        cy, cx = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack((cx, cy, cx, cy), dim=-1)
        return (centres[:, :, None] + base).reshape(-1, 4)


@dataclass(frozen=True)
class RPNSpec:
    """How proposals are made and trained; the defaults are the published ones.

    Attributes:
        channels: of the hidden layer.
        before_nms, after_nms: proposals kept before and after non-maximum suppression.
        nms_iou: proposals that overlap a better one by more than this are dropped.
        min_size: proposals with a shorter side, in pixels of the network's input, are dropped, and at 0 those
            without area.
        inside_only: train only anchors that lie wholly inside the picture.
        positive_iou, negative_iou: an anchor above the first is an object, below the second background.
        samples, positive_fraction: anchors in the loss of one picture, and the most of them that may be
            objects.
    """

    channels: int = 512
    before_nms: int = 6000
    after_nms: int = 300
    nms_iou: float = 0.7
    min_size: float = 16.0
    inside_only: bool = True
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256
    positive_fraction: float = 0.5


class RegionProposalNetwork(nn.Module):
    """A 3x3 convolution, then one objectness logit and four box deltas an anchor.

    The papers' two-way softmax has one more logit than it needs: only the difference counts, which is what is
    learnt here.
    """

    base_bits: Tensor

    def __init__(self, in_channels: int, anchors: AnchorSpec, spec: RPNSpec) -> None:
        super().__init__()
        self.anchors, self.spec = anchors, spec
        # Where the network is: a copy to a GPU in every step would wait for it, and no CUDA graph allows it.
        # As integers, which a network in half precision does not round.
        self.register_buffer("base_bits", anchors.base().view(torch.int32), persistent=False)
        self.hidden = nn.Conv2d(in_channels, spec.channels, 3, padding=1)
        self.logits = nn.Conv2d(spec.channels, len(anchors), 1)
        self.deltas = nn.Conv2d(spec.channels, 4 * len(anchors), 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, H, W] to objectness logits [N, H * W * A] and deltas [N, H * W * A, 4], in `grid`
        order.
        """
        hidden = F.relu(self.hidden(features))
        n = features.shape[0]
        logits = self.logits(hidden).permute(0, 2, 3, 1).reshape(n, -1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(n, -1, 4)
        return logits.float(), deltas.float()

    def grid(self, features: Tensor) -> Tensor:
        """[T, 4]: the anchors of features [N, C, H, W]."""
        return self.anchors.grid(features.shape[2], features.shape[3], self.base_bits.view(torch.float32))

    @torch.no_grad()
    def proposals(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Proposals [N, after_nms, 4], best first, in pixels, each clipped to its picture's size (height,
        width). Where a picture has fewer, boxes without area follow: the shape is known beforehand.

        Args:
            logits, deltas: [N, T] and [N, T, 4]: the output of `forward`.
            anchors: [T, 4].
        """
        ranked = []
        for own_logits, own_deltas, size in zip(logits, deltas, sizes, strict=True):
            competing = own_logits.masked_fill(~on_image(anchors, size, self.anchors.stride), -torch.inf)
            ranked.append(rank(competing, box_ops.decode(anchors, own_deltas), size, self.spec))
        return thin(torch.stack(ranked), self.spec)

    def loss(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        targets: list[Target],
        sizes: list[tuple[int, int]],
        generators: Generators | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss, each the mean over the pictures of a batch.

        Objectness: mean of the logistic losses of the sampled anchors. Boxes: sum of smooth L1 (sigma 3) over
        the sampled objects, divided by `samples` (the official normaliser). Anchors are drawn from
        `generators`, one a picture.
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
            wanted = box_ops.encode(anchors[positive], target.boxes[matched[positive]])
            difference = F.smooth_l1_loss(deltas[i, positive], wanted, beta=BOX_BETA, reduction="sum")
            box_losses.append(difference / self.spec.samples)
        return torch.stack(class_losses).mean(), torch.stack(box_losses).mean()


def on_image(anchors: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Boolean [T]: the anchor's cell covers some of a picture of `size` (height, width).

    The other cells lie in the padding of a batch: a picture has the same anchors alone and among larger ones.
    """
    # A cell begins half a stride before its centre; the half pixel is for rounding, as cells and pictures
    # begin and end on whole ones.
    begin = (anchors[:, :2] + anchors[:, 2:]) / 2 - stride / 2
    return (begin[:, 0] < size[1] - 0.5) & (begin[:, 1] < size[0] - 0.5)


def rank(scores: Tensor, candidates: Tensor, size: tuple[int, int], spec: RPNSpec) -> Tensor:
    """The `before_nms` best candidates [T, 4] of one picture, clipped to it; zeros behind them where fewer
    compete. Those that are too small, or whose score is not finite, never do.
    """
    candidates = box_ops.clip(candidates, size)
    valid = large_enough(candidates, spec.min_size) & torch.isfinite(scores)
    scores = scores.masked_fill(~valid, -torch.inf)
    best = scores.topk(min(spec.before_nms, len(scores)), sorted=False).indices
    best = best.sort().values  # equal scores in the order of the anchors (at the cut any of them may stay)
    scores, order = scores[best].sort(descending=True, stable=True)
    return candidates[best[order]].masked_fill((scores == -torch.inf)[:, None], 0)


def large_enough(boxes: Tensor, min_size: float) -> Tensor:
    """Boolean [...]: boxes [..., 4] whose sides are at least `min_size` long, and longer than nothing."""
    return box_ops.sides_at_least(boxes, min_size) & box_ops.have_area(boxes)


def thin(ranked: Tensor, spec: RPNSpec) -> Tensor:
    """What suppression leaves of boxes [N, K, 4], best first: [N, after_nms, 4], zeros at the end."""
    rows = suppress(ranked, spec.nms_iou, spec.after_nms)
    padded = F.pad(ranked, (0, 0, 0, 1))  # place K is where no box is left
    return padded.gather(1, rows[..., None].expand(-1, -1, 4))


def anchor_labels(
    anchors: Tensor, target: Target, size: tuple[int, int], spec: RPNSpec, stride: int
) -> tuple[Tensor, Tensor]:
    """Labels [T] (1 object, 0 background, -1 not used) and the index of the best object [T] of every anchor.

    Positive: IoU of at least `positive_iou`, or the best of an object (all that tie). Anchors of the padding
    of a batch, those that leave the picture when `inside_only`, and background half covered by a crowd region
    are not used.
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
        iou = box_iou(anchors, target.boxes)
        iou[~usable] = -1.0
        best, matched = iou.max(1)
        labels[(best < spec.negative_iou) & usable] = 0
        best_of_object = iou.max(0).values
        ties = ((iou == best_of_object) & (best_of_object > 0)).any(1)
        labels[ties | (best >= spec.positive_iou)] = 1
    if len(target.crowd_boxes):
        labels[(labels == 0) & (covered_by(anchors, target.crowd_boxes) >= 0.5)] = -1
    return labels, matched


def covered_by(boxes: Tensor, regions: Tensor) -> Tensor:
    """[N]: the largest share of each box [N, 4] that lies inside one of `regions` [K, 4], K >= 1."""
    top_left = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1).clamp(min=1e-9)
    return (overlap / areas[:, None]).max(1).values


def sample_anchors(
    labels: Tensor, spec: RPNSpec, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of the positive and negative anchors in the loss: `samples` in all, at most a share of them
    positive.
    """
    most = int(spec.samples * spec.positive_fraction)
    positive = random_subset((labels == 1).nonzero()[:, 0], most, generator)
    negative = random_subset((labels == 0).nonzero()[:, 0], spec.samples - len(positive), generator)
    return positive, negative


def random_subset(indices: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """At most `count` of `indices` [K], drawn without replacement from `generator` (on the CPU), or from
    torch's global one.
    """
    if len(indices) <= count:
        return indices
    # Drawn on the CPU on every device, so that a seed means the same everywhere.
    return indices[torch.randperm(len(indices), generator=generator)[:count].to(indices.device)]
