"""Fully convolutional instance-aware segmentation (Li et al., CVPR 2017), in reading order.

One network sees the image once. Its last layer gives, for each of k x k parts of an object and for every
class and background, an *outside* and an *inside* score map: "this pixel lies in part (i, j) of the window,
but off (on) the object". A window needs nothing more. Each of its parts is read from its own pair of maps:

* max(inside, outside), averaged over the window, says how well the class explains the window (detection);
* softmax(outside, inside), pixel by pixel, is the mask (segmentation).

`FCIS.forward` is the whole story: features, score maps (`head.py`), proposals (`rpn.py`), and from these
either losses or instances.

In shapes: N images, each with T anchors, P proposals and, in inference, R windows (P, or 2 P in two passes);
M RoIs of all images together, F of them foreground; C classes; m mask cells along each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instancefcn.geometry import boxes as box_ops
from instancefcn.instances import Instances
from instancefcn.models import distributed
from instancefcn.models.backbone import Backbone, ParameterGroup, parameter_groups
from instancefcn.models.head import Classes, ClassMaps, HeadSpec, ScoreMaps
from instancefcn.models.rpn import Generators, RegionProposalNetwork
from instancefcn.models.sampling import RoITargets, SamplingSpec, assign_rois, hardest, mask_targets
from instancefcn.models.targets import Target
from instancefcn.ops import ps_average
from instancefcn.ops.voting.operator import vote_batch
from instancefcn.profiling import stage

# The box branch predicts deltas divided by these standard deviations (official code).
DELTA_STD = (0.2, 0.2, 0.5, 0.5)
# Scores below this are noise. Without a minimum, 600 windows of all classes would mean thousands of votes.
MIN_SCORE = 1e-3


@dataclass(frozen=True, eq=False)
class Windows:
    """The scored windows of N images, from which inference chooses instances.

    Attributes:
        maps: the score maps of all images, with C + 1 classes.
        boxes: [N, R, 4] in pixels of the network's input: the proposals, then each of them refined. Zeros
            stand for boxes that are too small, and for missing ones where an image has fewer proposals.
        probabilities: [N, R, C + 1]: of the classes, background at 0.
    """

    maps: ClassMaps
    boxes: Tensor
    probabilities: Tensor


class FCIS(nn.Module):
    """Joint detection and segmentation from inside and outside score maps.

    Args:
        backbone: gives C3 at stride 8, C4 and C5 at stride 16.
        rpn: makes proposals.
        rpn_level: 3 to propose from C3, 4 from C4 (the paper), 5 from C5, 0 from the features of the score
            maps.
        head: settings of the position-sensitive head.
        sampling: which RoIs a training step uses.
        classes: names and ids without background, which is added inside.
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
        new = [*self.rpn.modules(), self.maps.scores, self.maps.deltas]
        if not head.fused:  # else `Fusion` has chosen its own variance
            new += self.maps.reduce.modules()
        for module in new:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    # -- the whole network

    def forward(
        self,
        images: list[Tensor],
        targets: list[Target] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        min_score: float = 0.0,
        max_instances: int | None = None,
        generators: Generators | None = None,
        classes: Sequence[int] | None = None,
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses in training mode, instances in evaluation mode.

        Args:
            images: N tensors [3, H, W], RGB, 0 to 1, at the size that the network should see; sizes may
                differ.
            targets: training only: the annotated objects of each image, in its pixels.
            image_sizes: (height, width) of the original images, in whose pixels instances are returned; by
                default the sizes of `images`.
            min_score: instances with a lower score are left out, and always those below MIN_SCORE.
            max_instances: at most so many for each image; by default the head's limit. A larger one has more
                proposals, in proportion.
            generators: training only: one for each image, from which its anchors and RoIs are drawn.
            classes: evaluation only: labels to look for; None for all.

        Returns:
            In training mode a dict of scalar losses: "rpn_class", "rpn_box", "class", "box", "mask".
            In evaluation mode a list of N `Instances`.

        Raises:
            ValueError: training mode without one target for each image.
        """
        batch, sizes = self.collate(images)
        if not self.training:
            limit = self.max_instances if max_instances is None else max_instances
            windows = self.score_windows(batch, sizes, max(1.0, limit / self.max_instances))
            return self.vote_instances(windows, sizes, image_sizes or sizes, min_score, limit, classes)
        if targets is None or len(targets) != len(images):
            raise ValueError("training needs one target for each image")
        targets = [target.to(batch.device) for target in targets]
        generators = generators or [None] * len(images)
        maps, box_maps, logits, deltas, anchors = self.convolve(batch)
        proposals = self.rpn.proposals(logits.detach(), deltas.detach(), anchors, sizes)
        rpn_class, rpn_box = self.rpn.loss(logits, deltas, anchors, targets, sizes, generators)
        samples = [
            assign_rois(boxes[box_ops.have_area(boxes)], target, self.sampling, generator)
            for boxes, target, generator in zip(proposals, targets, generators, strict=True)
        ]
        return {"rpn_class": rpn_class, "rpn_box": rpn_box, **self.losses(maps, box_maps, samples, targets)}

    @property
    def max_instances(self) -> int:
        """The maximum number of instances for one image, unless a call gives another."""
        return self.head.instances

    def collate(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalised images in one tensor [N, 3, H, W], and their sizes (height, width).

        Zeros fill the tensor to the right of and below smaller images. In training H and W are the maximum
        over all processes.
        """
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        mean, std = self.backbone.mean, self.backbone.std
        if self.training:
            height, width = distributed.largest(sizes, mean.device)
        else:
            height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
        batch = mean.new_zeros((len(images), 3, height, width)).contiguous(memory_format=torch.channels_last)
        for i, image in enumerate(images):
            batch[i, :, : sizes[i][0], : sizes[i][1]] = (image.to(mean) - mean) / std
        return batch, sizes

    def convolve(self, batch: Tensor) -> tuple[ClassMaps, Tensor, Tensor, Tensor, Tensor]:
        """All convolutions, of images [N, 3, H, W].

        Returns:
            score maps, box maps [N, k, k, 4, h, w], and for the anchors objectness logits [N, T], box deltas
            [N, T, 4] and boxes [T, 4].
        """
        with stage("backbone"):
            features = self.backbone(batch)
        with stage("score maps"):
            maps, box_maps = self.maps(features)
            level = self.proposal_features(features, maps)
            logits, deltas = self.rpn(level)
        return maps, box_maps, logits, deltas, self.rpn.grid(level)

    def proposal_features(self, features: Sequence[Tensor], maps: ClassMaps) -> Tensor:
        """The features that the RPN sees: a level of C3, C4 and C5, or what the score maps are made from."""
        return features[self.rpn_level - 3] if self.rpn_level else maps.features

    # -- reading windows from the maps

    def rois(self, boxes: Tensor) -> Tensor:
        """RoIs [N * R, 5] (index of the image, box) from boxes [N, R, 4]."""
        return torch.cat([box_ops.to_rois(of_image, i) for i, of_image in enumerate(boxes)])

    def class_logits(self, maps: ClassMaps, rois: Tensor) -> Tensor:
        """Class logits [M, C + 1] of RoIs [M, 5]: the window means of max(inside, outside)."""
        return maps.class_logits(rois, self.head.stride).float()

    def masks(self, maps: ClassMaps, rois: Tensor, classes: Tensor) -> Tensor:
        """Mask logits [M, m, m] of RoIs [M, 5], each for one class [M] (background is 0)."""
        return maps.mask_logits(rois, classes, self.head.stride, self.head.mask_size).float()

    # -- training

    def losses(
        self, maps: ClassMaps, box_maps: Tensor, samples: list[RoITargets], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Class, box and mask loss of the sampled RoIs.

        The class loss is the mean over the RoIs of all processes. Box and mask loss are sums over the
        foreground RoIs, divided by the intended number of RoIs (`sampling.rois` for each image), so that
        their weight follows the share of foreground. The mask loss of a RoI is `mask_weight` times the mean
        over its cells.
        """
        rois = torch.cat([box_ops.to_rois(sample.rois, i) for i, sample in enumerate(samples)])
        labels = torch.cat([sample.labels for sample in samples])
        foreground = (labels > 0).nonzero()[:, 0]
        logits = self.class_logits(maps, rois)
        class_loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")

        deltas = ps_average(box_maps, rois[foreground], self.head.stride).float()
        box_targets, mask_labels = self.foreground_targets(samples, targets)
        box_loss = torch.zeros_like(class_loss)
        box_loss[foreground] = F.smooth_l1_loss(deltas, box_targets, reduction="none").sum(1)
        mask_loss = torch.zeros_like(class_loss)
        mask_logits = self.masks(maps, rois[foreground], labels[foreground])
        entropy = F.binary_cross_entropy_with_logits(mask_logits, mask_labels, reduction="none")
        mask_loss[foreground] = self.head.mask_weight * entropy.mean((1, 2))

        keep = labels >= 0
        if self.sampling.method == "ohem":
            total = (class_loss + box_loss + mask_loss).masked_fill(~keep, -1.0).detach()
            counts = [len(sample.rois) for sample in samples]
            keep &= torch.cat([hardest(of_image, self.sampling.rois) for of_image in total.split(counts)])
        intended = self.sampling.rois * len(samples)
        return {
            "class": (class_loss * keep).sum() / distributed.normaliser(keep.sum()),
            "box": (box_loss * keep).sum() / intended,
            "mask": (mask_loss * keep).sum() / intended,
        }

    def foreground_targets(self, samples: list[RoITargets], targets: list[Target]) -> tuple[Tensor, Tensor]:
        """Scaled box deltas [F, 4] and masks [F, m, m] (0 or 1) of the F foreground RoIs of a batch."""
        deltas, masks = [], []
        for sample, target in zip(samples, targets, strict=True):
            chosen = (sample.labels > 0).nonzero()[:, 0]
            rois, matched = sample.rois[chosen], sample.matched[chosen]
            deltas.append(box_ops.encode(rois, target.boxes[matched]) / self.delta_std)
            masks.append(mask_targets(rois, matched, target, self.head.mask_size))
        return torch.cat(deltas), torch.cat(masks)

    # -- inference

    @torch.no_grad()
    def score_windows(self, batch: Tensor, sizes: list[tuple[int, int]], factor: float = 1.0) -> Windows:
        """The windows of images [N, 3, H, W]: propose (`factor` times as many boxes as usual), refine the
        boxes, score proposals and refined boxes on the same maps.

        All shapes are known in advance and nothing waits for a GPU, so that
        `torch.compile(network.score_windows, fullgraph=True)` and CUDA graphs work (docs/speed.md).
        """
        maps, box_maps, logits, deltas, anchors = self.convolve(batch)
        with stage("proposals"):
            proposals = self.rpn.proposals(logits, deltas, anchors, sizes, factor)
        with stage("scoring"):
            return self.refine_and_score(maps, box_maps, proposals, sizes)

    def refine_and_score(
        self, maps: ClassMaps, box_maps: Tensor, proposals: Tensor, sizes: list[tuple[int, int]]
    ) -> Windows:
        """Windows from proposals [N, P, 4]: the proposals and, in two passes, the boxes to which their deltas
        move them.
        """
        boxes = proposals
        if self.head.passes == 2:
            deltas = ps_average(box_maps, self.rois(proposals), self.head.stride).float() * self.delta_std
            moved = box_ops.decode(proposals, deltas.view_as(proposals))
            refined = torch.stack([box_ops.clip(each, size) for each, size in zip(moved, sizes, strict=True)])
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
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """Which windows become instances, and their masks by voting, in pixels of the original images.

        Args:
            sizes, image_sizes: (height, width) of the network's inputs and of the original images.
            min_score, max_instances, classes: as for `forward`.
        """
        probabilities = windows.probabilities
        if classes is not None:
            # Classes do not compete, so those that remain have the same instances as ever.
            wanted = torch.zeros_like(probabilities[0, 0])
            wanted[[label + 1 for label in classes]] = 1
            probabilities = probabilities * wanted
        rois = self.rois(windows.boxes)

        def read(rows: Tensor, classes: Tensor) -> Tensor:
            return self.masks(windows.maps, rois[rows], classes).sigmoid()

        boxes = [
            box_ops.scale(of_image, image_size[1] / size[1], image_size[0] / size[0])
            for of_image, size, image_size in zip(windows.boxes, sizes, image_sizes, strict=True)
        ]
        votes = vote_batch(
            read,
            torch.stack(boxes),
            probabilities,
            image_sizes,
            vote_iou=self.head.vote_iou,
            min_score=max(min_score, MIN_SCORE),
            max_instances=max_instances,
            threshold=self.head.mask_threshold,
            extent=self.head.extent,
        )
        names, ids = self.classes.names, self.classes.ids
        return [
            Instances(
                *(v.boxes, v.scores, v.classes - 1, v.masks, names, ids),
                limit_reached=max_instances if v.full else None,
            )
            for v in votes
        ]

    # -- optimisation

    def parameter_groups(self, backbone_rate: float = 1.0) -> list[ParameterGroup]:
        """The trainable parameters with their learning rates and weight decay.

        The rate of the reduction is three times that of the other layers (official code), the rate of the
        backbone `backbone_rate` times. Biases do not decay.
        """

        def rate(name: str) -> float:
            if name.startswith("backbone."):
                return backbone_rate
            return 3.0 if name.startswith("maps.reduce.") else 1.0

        return parameter_groups(self, rate)
