"""InstanceFCN (Dai et al., ECCV 2016): class-agnostic mask proposals, in reading order.

The network gives k x k *instance-sensitive* score maps, "this pixel lies in part (i, j) of an object", and a
map of objectness, "an object fills the window centred here". A window of m x m cells slides over all
positions. Its mask is assembled, without parameters, by reading each part of the window from its own map. An
object that fits no window on one level of an image pyramid fits one on another level.

Only windows that matter are assembled: the sampled ones in training, the best ones in inference.

In shapes: an image of H x W pixels has maps of h x w cells, h = ceil(H / 8); P windows of m x m cells each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pydantic.dataclasses
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import nms

from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import OBJECT, Instances
from instancefcn.models import distributed
from instancefcn.models.backbone import AtrousVGG, ParameterGroup, parameter_groups
from instancefcn.models.fusion import FineFeatures
from instancefcn.models.head import Classes
from instancefcn.models.rpn import Generators
from instancefcn.models.sampling import mask_targets
from instancefcn.models.spec_fields import STRICT, BoxCount, Channels, MaskThreshold, Parts, Share
from instancefcn.models.targets import Target
from instancefcn.models.windows import STRIDE, WindowSpec, label_windows, sample_windows, window_boxes
from instancefcn.ops import mask_logits
from instancefcn.ops.voting.average import vote_average
from instancefcn.profiling import stage

OBJECTS = Classes((OBJECT,), (1,))
MAX_PROPOSALS = 1000
"""The maximum number of proposals for one image, unless a call gives another."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class ProposalSpec:
    """The two branches, and how proposals are made.

    Attributes:
        channels: of the hidden layer of each branch.
        k: parts of a window along each side; 1 makes the maps translation invariant (the paper's ablation).
        levels: of the pyramid; the first is the image itself.
        step: each level is smaller than the level before it by this factor.
        before_nms: how many windows are assembled, the best of all levels together.
        nms_iou: a proposal whose mask's box overlaps that of a better one by more than this is dropped.
        mask_threshold: a pixel belongs to an object when its probability is at least this.
    """

    channels: Channels = 512
    k: Parts = 5
    levels: Annotated[int, Field(ge=1, le=16)] = 6
    step: Annotated[float, Field(ge=1.01, le=16)] = 1.5
    before_nms: BoxCount = 3000
    nms_iou: Share = 0.8
    mask_threshold: MaskThreshold = 0.4


@dataclass(frozen=True, eq=False)
class Candidates:
    """P assembled windows of one image, best first.

    Attributes:
        scores: float32 [P], 0 to 1.
        windows: float32 [P, 4], in pixels of the image.
        masks: float32 [P, m, m]: probabilities on a grid over each window.
    """

    scores: Tensor
    windows: Tensor
    masks: Tensor


class InstanceFCN(nn.Module):
    """Mask proposals from instance-sensitive score maps.

    Args:
        features: gives features at stride 8.
        spec: settings of the two branches and of the proposals.
        windows: settings of the sliding windows.
    """

    classes = OBJECTS
    max_instances = MAX_PROPOSALS

    def __init__(self, features: AtrousVGG | FineFeatures, spec: ProposalSpec, windows: WindowSpec) -> None:
        super().__init__()
        self.features, self.spec, self.windows = features, spec, windows
        self.reduce = nn.Conv2d(features.channels, spec.channels, 1)
        self.maps = nn.Conv2d(spec.channels, spec.k**2, 3, padding=1)
        self.hidden = nn.Conv2d(features.channels, spec.channels, 3, padding=1)
        self.objectness = nn.Conv2d(spec.channels, 1, 1)
        for conv in (self.reduce, self.maps, self.hidden, self.objectness):
            assert conv.bias is not None
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(
        self,
        images: list[Tensor],
        targets: list[Target] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        min_score: float = 0.0,
        max_instances: int = MAX_PROPOSALS,
        generators: Generators | None = None,
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses in training mode, proposals in evaluation mode.

        Images run one by one: their sizes differ by a factor of seven, and padding would cost more than a
        batch saves.

        Args:
            images: N tensors [3, H, W], RGB, 0 to 1; in evaluation mode at the size of the first level.
            targets: training only: the annotated objects of each image, in its pixels. Classes do not matter.
            image_sizes: (height, width) of the original images, in whose pixels proposals are returned; by
                default the sizes of `images`.
            min_score: proposals with a lower objectness are left out.
            max_instances: at most so many proposals for each image.
            generators: training only: one for each image, from which its windows are drawn.

        Returns:
            In training mode a dict of scalar losses: "objectness", "mask".
            In evaluation mode a list of N `Instances` with the one class "object".

        Raises:
            ValueError: training mode without one target for each image.
        """
        if self.training:
            if targets is None or len(targets) != len(images):
                raise ValueError("training needs one target for each image")
            return self.losses(images, targets, generators)
        sizes = image_sizes or [(image.shape[1], image.shape[2]) for image in images]
        return [
            self.propose(image, size, min_score, max_instances)
            for image, size in zip(images, sizes, strict=True)
        ]

    def score_maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The two branches, of an image [3, H, W].

        Returns:
            instance-sensitive maps [1, k, k, 2, 1, h, w], in the layout of FCIS with outside maps of zero,
            and objectness logits [h, w].
        """
        mean, std = self.features.mean, self.features.std
        normalised = ((image.to(mean) - mean) / std)[None].contiguous(memory_format=torch.channels_last)
        features = self.features(normalised)
        maps = self.maps(F.relu(self.reduce(features)))
        inside = maps.unflatten(1, (self.spec.k, self.spec.k)).unsqueeze(3)
        logits = self.objectness(F.relu(self.hidden(features)))[0, 0].float()
        return torch.stack((torch.zeros_like(inside), inside), dim=3), logits

    def assemble(self, maps: Tensor, windows: Tensor) -> Tensor:
        """Mask logits [P, m, m] of windows [P, 4] (pixels of the network's input): each cell is read from the
        map of its part of the window.

        With m = 21 and k = 5 a part is 4.2 cells wide. A cell belongs to the part that contains its centre
        (the paper leaves this open).
        """
        rois = box_ops.to_rois(windows, 0)
        labels = windows.new_zeros(windows.shape[0], dtype=torch.int64)
        return mask_logits(maps, rois, labels, STRIDE, self.windows.cells).float()

    # -- training

    def losses(
        self, images: list[Tensor], targets: list[Target], generators: Generators | None = None
    ) -> dict[str, Tensor]:
        """Logistic losses of objectness and masks, means over all images of all processes.

        Objectness: over the sampled windows. Masks: over the cells of the positive windows that lie on the
        image.
        """
        scores, truths, cells, cell_truths = [], [], [], []
        generators = generators or [None] * len(images)
        for image, target, generator in zip(images, targets, generators, strict=True):
            target = target.to(self.features.mean.device)
            maps, logits = self.score_maps(image)
            height, width = logits.shape
            labels, matched = label_windows(height, width, target, self.windows)
            positive, negative = sample_windows(labels, self.windows, generator)
            scores.append(logits.flatten()[torch.cat((positive, negative))])
            truths.append(torch.cat((torch.ones_like(positive), torch.zeros_like(negative))))
            windows = window_boxes(positive, width, self.windows)
            on_image = on_map(windows, height, width, self.windows.cells)
            cells.append(self.assemble(maps, windows)[on_image])
            masks = mask_targets(windows, matched[positive], target, self.windows.cells)
            cell_truths.append(masks[on_image])
        score, truth, cell, cell_truth = map(torch.cat, (scores, truths, cells, cell_truths))
        objectness = F.binary_cross_entropy_with_logits(score, truth.to(score), reduction="sum")
        mask = F.binary_cross_entropy_with_logits(cell, cell_truth, reduction="sum")
        counts = distributed.normaliser(torch.tensor([len(score), len(cell)], device=score.device))
        return {"objectness": objectness / counts[0], "mask": mask / counts[1]}

    # -- inference

    @torch.no_grad()
    def propose(
        self, image: Tensor, image_size: tuple[int, int], min_score: float = 0.0, top: int = MAX_PROPOSALS
    ) -> Instances:
        """Proposals for an image [3, H, W], in pixels of the original of `image_size` (height, width): the
        best windows of all levels, assembled, without near-duplicates, their masks refined to the resolution
        of the original; at most `top`.
        """
        with stage("backbone and score maps"):
            levels = [self.score_maps(level) for level in self.pyramid(image)]
        with stage("assembling"):
            found = self.candidates(levels, image.shape[1:], image_size, min_score)
        with stage("suppression and pasting"):
            return self.finish(found, image_size, top)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """The image [3, H, W] and its smaller versions, each `step` times smaller than the one before."""
        sizes = [self.level_size(image.shape[1:], level) for level in range(1, self.spec.levels)]
        resized = [F.interpolate(image[None], size, mode="bilinear", antialias=True)[0] for size in sizes]
        return [image, *resized]

    def level_size(self, size: Sequence[int], level: int) -> list[int]:
        """Height and width of a level of the pyramid, rounded, at least 1; level 0 has `size` itself."""
        return [max(1, round(side * self.spec.step**-level)) for side in size]

    def candidates(
        self,
        levels: list[tuple[Tensor, Tensor]],
        size: Sequence[int],
        image_size: tuple[int, int],
        min_score: float,
    ) -> Candidates:
        """The windows of highest objectness of all levels together, assembled.

        Args:
            levels: the results of `score_maps` for each level.
            size: (height, width) of the first level.
            image_size: (height, width) of the original image, in whose pixels windows are returned.
            min_score: windows with a lower objectness are left out.
        """
        flat = torch.cat([logits.flatten() for _, logits in levels])
        best, order = flat.topk(min(self.spec.before_nms, len(flat)))
        order = order[best.sigmoid() >= min_score]
        masks = flat.new_empty((len(order), self.windows.cells, self.windows.cells))
        windows = flat.new_empty((len(order), 4))
        begin = 0
        for number, (maps, logits) in enumerate(levels):
            rows = ((order >= begin) & (order < begin + logits.numel())).nonzero()[:, 0]
            on_level = window_boxes(order[rows] - begin, logits.shape[1], self.windows)
            begin += logits.numel()
            masks[rows] = self.assemble(maps, on_level).sigmoid()
            height, width = self.level_size(size, number)
            windows[rows] = box_ops.scale(on_level, image_size[1] / width, image_size[0] / height)
        return Candidates(flat[order].sigmoid(), windows, masks)

    def finish(self, found: Candidates, image_size: tuple[int, int], top: int) -> Instances:
        """Drop windows without a mask and near-duplicates, keep the `top` best and refine their masks: read
        bilinearly at the pixels of the image, then thresholded.
        """
        cell_boxes, any_cell = tight_cells(found.masks >= self.spec.mask_threshold)
        sides = (found.windows[:, 2:] - found.windows[:, :2]).repeat(1, 2) / self.windows.cells
        corner = found.windows[:, :2].repeat(1, 2)
        boxes = box_ops.clip(corner + cell_boxes * sides, image_size)
        usable = (any_cell & box_ops.sides_at_least(boxes, 1.0)).nonzero()[:, 0]
        different = nms(boxes[usable], found.scores[usable], self.spec.nms_iou)
        kept = usable[different[:top]]
        # Between cells, a mask can reach up to half a cell beyond those above the threshold.
        reach = box_ops.clip(
            torch.cat((boxes[:, :2] - sides[:, :2], boxes[:, 2:] + sides[:, :2]), 1), image_size
        )
        rects = torch.cat((reach[kept, :2].floor(), reach[kept, 2:].ceil()), 1).long()
        # A vote in which each mask has a single voter, itself.
        starts = torch.arange(len(kept) + 1, device=kept.device)
        pixels = vote_average(
            found.masks[kept],
            found.windows[kept],
            starts[:-1],
            torch.ones(len(kept), device=kept.device),
            starts,
            rects,
            self.spec.mask_threshold,
        )
        masks = CroppedMasks(pixels, rects, image_size).to("cpu")
        filled = (masks.areas() > 0).nonzero()[:, 0]
        masks, scores = masks[filled], found.scores[kept].cpu()[filled]
        labels = torch.zeros(len(filled), dtype=torch.int64)
        return Instances(
            *(masks.tight_boxes(), scores, labels, masks, self.classes.names, self.classes.ids),
            limit_reached=top if len(different) >= top else None,
        )

    # -- optimisation

    def parameter_groups(self, backbone_rate: float = 1.0) -> list[ParameterGroup]:
        """The trainable parameters with their learning rates and weight decay: the rate of the backbone is
        `backbone_rate` times that of the other layers, and biases do not decay.
        """
        return parameter_groups(self, lambda name: backbone_rate if ".body." in name else 1.0)


def on_map(windows: Tensor, height: int, width: int, cells: int) -> Tensor:
    """bool [P, cells, cells]: which cells of windows [P, 4] lie on a map of height x width cells."""
    steps = torch.arange(cells, device=windows.device) + 0.5
    x = windows[:, :1] / STRIDE + steps
    y = windows[:, 1:2] / STRIDE + steps
    return ((y > 0) & (y < height))[:, :, None] & ((x > 0) & (x < width))[:, None, :]


def tight_cells(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes float32 [P, 4], half-open, in cells, around the true cells of masks bool [P, m, m]; and bool [P]:
    whether a mask has any.
    """
    size = masks.shape[-1]
    edges = []
    for axis in (1, 2):  # first over the rows, which gives the columns with a cell; next over the columns
        line = masks.any(axis)
        first = line.float().argmax(1)
        last = size - line.flip(1).float().argmax(1)
        edges.append((first, last))
    (x1, x2), (y1, y2) = edges
    return torch.stack((x1, y1, x2, y2), 1).float(), masks.flatten(1).any(1)
