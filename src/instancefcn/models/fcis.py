"""Fully convolutional instance-aware segmentation (Li et al., CVPR 2017), in reading order.

One network looks at the picture once. Its last layer gives, for each of k x k parts of an object and for
every class and background, an *outside* and an *inside* score map: "this pixel lies in part (i, j) of the
window, but off (on) the object". A window needs nothing more: every part of it is read from its own pair of
maps, then

* max(inside, outside), averaged over the window, is how well the class explains the window (detection);
* softmax(outside, inside), pixel by pixel, is the mask (segmentation).

`FCIS.forward` is the whole story: features, proposals, score maps (`head`), and then either losses or
instances.

In shapes: N pictures, T anchors and P proposals of each, R windows of each in inference (P, or 2 P in two
passes), M RoIs of all pictures together, F of them foreground; C classes, m mask cells along a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instancefcn.geometry import boxes as box_ops
from instancefcn.instances import Instances
from instancefcn.models import distributed as across
from instancefcn.models.backbone import Backbone, parameter_groups
from instancefcn.models.head import Classes, ClassMaps, HeadSpec, ScoreMaps
from instancefcn.models.rpn import Generators, RegionProposalNetwork
from instancefcn.models.sampling import RoITargets, SamplingSpec, assign_rois, hardest, mask_targets
from instancefcn.models.targets import Target
from instancefcn.ops import ps_average
from instancefcn.ops.voting.operator import vote_batch
from instancefcn.profiling import stage

# Standard deviations of box deltas, by which the box branch is scaled (official code).
DELTA_STD = (0.2, 0.2, 0.5, 0.5)
# Scores below this are noise; without a floor 600 windows times all classes would mean thousands of votes.
LEAST_SCORE = 1e-3


@dataclass(frozen=True, eq=False)
class Windows:
    """All that inference knows of N pictures before it decides on instances.

    Attributes:
        maps: the score maps of all pictures, with C + 1 classes.
        boxes: [N, R, 4], pixels of the network's input: the proposals, then each of them refined. Those that
            are too small, and the padding of pictures with fewer proposals, are zeros.
        probabilities: [N, R, C + 1] of the classes, background at 0.
    """

    maps: ClassMaps
    boxes: Tensor
    probabilities: Tensor


class FCIS(nn.Module):
    """Joint detection and segmentation from inside/outside score maps.

    Args:
        backbone: C3 at stride 8, C4 and C5 at stride 16.
        rpn: proposals.
        rpn_level: 4 to propose from C4 (the paper), 5 from C5, 0 from the features of the score maps.
        head: the position-sensitive head.
        sampling: the RoIs of a training step.
        classes: names and ids; background is added inside.
    """

    delta_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        rpn: RegionProposalNetwork,
        rpn_level: int,
        head: HeadSpec,
        sampling: SamplingSpec,
        classes: Classes,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn = backbone, rpn
        self.maps = ScoreMaps(backbone.channels, len(classes), head)
        self.rpn_level, self.head, self.sampling, self.classes = rpn_level, head, sampling, classes
        self.register_buffer("delta_std", torch.tensor(DELTA_STD), persistent=False)
        own = [*self.rpn.modules(), self.maps.scores, self.maps.deltas]
        if not head.fused:
            own += self.maps.reduce.modules()
        for module in own:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    # -- the whole network
    # ------------------------------------------------------------------------------------------

    def forward(
        self,
        images: list[Tensor],
        targets: list[Target] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        min_score: float = 0.0,
        max_instances: int | None = None,
        generators: Generators | None = None,
    ) -> Any:
        """Losses while training, instances otherwise.

        Args:
            images: N tensors [3, H, W], RGB, 0 to 1, at the size the network should see; sizes may differ.
            targets: training only: the annotated objects, in the images' pixels.
            image_sizes: (height, width) of the original pictures, in which instances are wanted; the images'
                own when None.
            min_score: instances below this score are not worth a vote, nor below LEAST_SCORE.
            max_instances: the most instances of one picture; the head's own limit when None.
            generators: training only: one an image, from which its anchors and RoIs are drawn.

        Returns:
            In training mode dict of scalar losses: "rpn_class", "rpn_box", "class", "box", "mask".
            In evaluation mode list of N `Instances`.

        Raises:
            ValueError: training without targets.
        """
        batch, sizes = self.collate(images)
        if not self.training:
            windows = self.score_windows(batch, sizes)
            limit = self.head.instances if max_instances is None else max_instances
            return self.vote_instances(windows, sizes, image_sizes or sizes, min_score, limit)
        if targets is None or len(targets) != len(images):
            raise ValueError("training needs one target for every image")
        targets = [target.to(batch.device) for target in targets]
        generators = generators or [None] * len(images)
        maps, box_maps, logits, deltas, anchors = self.convolve(batch)
        proposals = self.rpn.proposals(logits.detach(), deltas.detach(), anchors, sizes)
        rpn_class, rpn_box = self.rpn.loss(logits, deltas, anchors, targets, sizes, generators)
        samples = [
            assign_rois(own[box_ops.have_area(own)], target, self.sampling, generator)
            for own, target, generator in zip(proposals, targets, generators, strict=True)
        ]
        return {"rpn_class": rpn_class, "rpn_box": rpn_box, **self.losses(maps, box_maps, samples, targets)}

    def collate(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalised pictures in one tensor [N, 3, H, W], zeros to the right and below the smaller ones, and
        their sizes. In training H and W are the largest of all processes.
        """
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        mean, std = self.backbone.mean, self.backbone.std
        if self.training:
            height, width = across.largest(sizes, mean.device)
        else:
            height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
        batch = mean.new_zeros((len(images), 3, height, width)).contiguous(memory_format=torch.channels_last)
        for i, image in enumerate(images):
            batch[i, :, : sizes[i][0], : sizes[i][1]] = (image.to(mean) - mean) / std
        return batch, sizes

    def convolve(self, batch: Tensor) -> tuple[ClassMaps, Tensor, Tensor, Tensor, Tensor]:
        """Pictures [N, 3, H, W] to score maps, box maps, and of every anchor the objectness logit [N, T], box
        deltas [N, T, 4] and place [T, 4].
        """
        with stage("backbone"):
            features = self.backbone(batch)
        with stage("score maps"):
            maps, box_maps = self.maps(features)
            level = self.proposal_features(features, maps)
            logits, deltas = self.rpn(level)
        return maps, box_maps, logits, deltas, self.rpn.grid(level)

    def proposal_features(self, features: Sequence[Tensor], maps: ClassMaps) -> Tensor:
        """What the RPN looks at: C4 or C5 of C3, C4 and C5, or what the score maps are made of."""
        return features[self.rpn_level - 3] if self.rpn_level else maps.features

    # -- reading windows from the maps
    # ------------------------------------------------------------------------------

    def rois(self, boxes: Tensor) -> Tensor:
        """RoIs [N * R, 5] of boxes [N, R, 4]."""
        return torch.cat([box_ops.to_rois(own, i) for i, own in enumerate(boxes)])

    def class_logits(self, maps: ClassMaps, rois: Tensor) -> Tensor:
        """Class logits [M, C + 1] of RoIs [M, 5]: the window means of max(inside, outside)."""
        return maps.class_logits(rois, self.head.stride).float()

    def masks(self, maps: ClassMaps, rois: Tensor, classes: Tensor) -> Tensor:
        """Mask logits [M, m, m] of RoIs [M, 5], each for one class [M] (background is 0)."""
        return maps.mask_logits(rois, classes, self.head.stride, self.head.mask_size).float()

    # -- training
    # ---------------------------------------------------------------------------------------------------

    def losses(
        self, maps: ClassMaps, box_maps: Tensor, samples: list[RoITargets], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Class, box and mask loss of the sampled RoIs.

        Class: mean over the RoIs (of all processes that train together). Box and mask: sum over the
        foreground RoIs, divided by the number of RoIs that the pictures should have (`sampling.rois` each),
        so that both weigh as much as the foreground does; the mask loss of a RoI is the mean over its cells,
        times `mask_weight`.
        """
        rois = torch.cat([box_ops.to_rois(sample.rois, i) for i, sample in enumerate(samples)])
        labels = torch.cat([sample.labels for sample in samples])
        foreground = (labels > 0).nonzero()[:, 0]
        logits = self.class_logits(maps, rois)
        class_loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")

        deltas = ps_average(box_maps, rois[foreground], self.head.stride).float()
        box_targets, masks = self.foreground_targets(samples, targets)
        box_loss = torch.zeros_like(class_loss)
        box_loss[foreground] = F.smooth_l1_loss(deltas, box_targets, reduction="none").sum(1)
        mask_loss = torch.zeros_like(class_loss)
        mask_logits = self.masks(maps, rois[foreground], labels[foreground])
        entropy = F.binary_cross_entropy_with_logits(mask_logits, masks, reduction="none")
        mask_loss[foreground] = self.head.mask_weight * entropy.mean((1, 2))

        keep = labels >= 0
        if self.sampling.method == "ohem":
            total = (class_loss + box_loss + mask_loss).masked_fill(~keep, -1.0).detach()
            counts = [len(sample.rois) for sample in samples]
            keep &= torch.cat([hardest(part, self.sampling.rois) for part in total.split(counts)])
        normaliser = self.sampling.rois * len(samples)
        return {
            "class": (class_loss * keep).sum() / across.normaliser(keep.sum()),
            "box": (box_loss * keep).sum() / normaliser,
            "mask": (mask_loss * keep).sum() / normaliser,
        }

    def foreground_targets(self, samples: list[RoITargets], targets: list[Target]) -> tuple[Tensor, Tensor]:
        """Scaled box deltas [F, 4] and masks [F, m, m] that the F foreground RoIs of a batch should have."""
        deltas, masks = [], []
        for sample, target in zip(samples, targets, strict=True):
            chosen = (sample.labels > 0).nonzero()[:, 0]
            rois, matched = sample.rois[chosen], sample.matched[chosen]
            deltas.append(box_ops.encode(rois, target.boxes[matched]) / self.delta_std)
            masks.append(mask_targets(rois, matched, target, self.head.mask_size))
        return torch.cat(deltas), torch.cat(masks)

    # -- inference
    # --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score_windows(self, batch: Tensor, sizes: list[tuple[int, int]]) -> Windows:
        """All windows of pictures [N, 3, H, W] and what they are: propose, refine the boxes, score proposals
        and refined boxes on the same maps.

        Every shape is known beforehand and nobody waits for a GPU, so that
        `torch.compile(network.score_windows, fullgraph=True)` and a CUDA graph can hold it (docs/speed.md).
        """
        maps, box_maps, logits, deltas, anchors = self.convolve(batch)
        with stage("proposals"):
            proposals = self.rpn.proposals(logits, deltas, anchors, sizes)
        with stage("scoring"):
            return self.refine_and_score(maps, box_maps, proposals, sizes)

    def refine_and_score(
        self, maps: ClassMaps, box_maps: Tensor, proposals: Tensor, sizes: list[tuple[int, int]]
    ) -> Windows:
        """Proposals [N, P, 4] to twice as many windows: themselves, and where their deltas move them (to
        themselves alone in one pass).
        """
        boxes = proposals
        if self.head.passes == 2:
            shifts = ps_average(box_maps, self.rois(proposals), self.head.stride).float() * self.delta_std
            moved = box_ops.decode(proposals, shifts.view_as(proposals))
            refined = torch.stack([box_ops.clip(*own) for own in zip(moved, sizes, strict=True)])
            boxes = torch.cat((proposals, refined), 1)
        boxes = boxes * box_ops.sides_at_least(boxes, self.rpn.spec.min_size)[..., None]
        probabilities = self.class_logits(maps, self.rois(boxes)).softmax(1)
        return Windows(maps, boxes, probabilities.unflatten(0, boxes.shape[:2]))

    @torch.no_grad()
    def vote_instances(
        self,
        windows: Windows,
        sizes: list[tuple[int, int]],
        image_sizes: list[tuple[int, int]],
        min_score: float,
        max_instances: int,
    ) -> list[Instances]:
        """Which windows become instances, and their masks: vote, in the pixels of the original pictures."""
        rois = self.rois(windows.boxes)

        def read(rows: Tensor, classes: Tensor) -> Tensor:
            return self.masks(windows.maps, rois[rows], classes).sigmoid()

        boxes = [
            box_ops.scale(own, image_size[1] / size[1], image_size[0] / size[0])
            for own, size, image_size in zip(windows.boxes, sizes, image_sizes, strict=True)
        ]
        results = vote_batch(
            read,
            torch.stack(boxes),
            windows.probabilities,
            image_sizes,
            vote_iou=self.head.vote_iou,
            min_score=max(min_score, LEAST_SCORE),
            max_instances=max_instances,
            threshold=self.head.mask_threshold,
            extent=self.head.extent,
        )
        names, ids = self.classes.names, self.classes.ids
        return [Instances(v.boxes, v.scores, v.classes - 1, v.masks, names, ids) for v in results]

    # -- optimisation
    # -----------------------------------------------------------------------------------------------

    def parameter_groups(self, backbone_rate: float = 1.0) -> list[dict[str, Any]]:
        """Trainable parameters as {"params", "lr_scale", "decay"}.

        The reduction learns three times as fast as the rest (official code), the backbone `backbone_rate`
        times; biases do not decay.
        """

        def rate(name: str) -> float:
            if name.startswith("backbone."):
                return backbone_rate
            return 3.0 if name.startswith("maps.reduce.") else 1.0

        return parameter_groups(self, rate)
