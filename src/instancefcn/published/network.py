"""The published FCIS-ResNet-101 with its authors' weights, as in the official MXNet code or as in ChainerCV.

The two differ from each other and from `FCIS` in details that change results. `Published` lists them all;
`resizing.py` has the resizing and `caffe_resnet.py` the backbone.

Boxes are half-open here as everywhere. The official code includes a box's last pixel and adds one to its
sides (`inclusive`). With x2 + 1 for x2, its coding of boxes, overlaps and minimum sides equal ours; only
clipping and scaling differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import pydantic.dataclasses
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instancefcn.errors import ConfigError
from instancefcn.geometry import boxes as box_ops
from instancefcn.instances import Instances
from instancefcn.models.backbone import STRIDE
from instancefcn.models.fcis import DELTA_STD, MIN_SCORE
from instancefcn.models.head import Classes
from instancefcn.models.rpn import AnchorSpec, RegionProposalNetwork, RPNSpec, rank, thin
from instancefcn.models.spec_fields import STRICT, Factors, InputSide, Length
from instancefcn.profiling import stage
from instancefcn.published.caffe_resnet import CaffeResNet101
from instancefcn.published.pooling import psroi_average_pool
from instancefcn.published.resizing import PublishedPreprocessing, published_scale
from instancefcn.published.voting import vote_published

NAME = "fcis_resnet101_published"
K, MASK_SIZE = 7, 21
MEAN = (123.15, 115.90, 103.06)
"""Of red, green and blue, 0 to 255; inputs are not divided by a standard deviation."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Published:
    """The differences between the two implementations at test time.

    Attributes:
        origin: the implementation.
        stem_epsilon: of the first batch normalisation (1e-5 in all others).
        rounded_size: sides of the network's input are rounded, not truncated, and colours are whole levels.
        rounded_anchors: the sides of the three shapes of anchors are rounded to whole pixels.
        all_cells: the last row and column of cells also have anchors where the input's sides are not
            multiples of 16.
        foreground_logit: proposals are ranked by their foreground logit alone, not by the probability.
        min_size_in_image: the minimum side of a proposal is in pixels of the image, not of the input.
        rounded_rois: corners of windows are rounded to whole pixels before pooling.
        background_masks: a window whose best class is background votes with the mask of background, not with
            that of its best foreground class.
        inclusive: a box includes its last pixel: clipped, it keeps at least one; scaling moves the last
            pixel; results of a single row or column are dropped.
    """

    origin: Literal["chainercv", "mxnet"]
    stem_epsilon: Length
    rounded_size: bool
    rounded_anchors: bool
    all_cells: bool
    foreground_logit: bool
    min_size_in_image: bool
    rounded_rois: bool
    background_masks: bool
    inclusive: bool


CHAINERCV = Published(
    origin="chainercv",
    stem_epsilon=2e-5,
    rounded_size=False,
    rounded_anchors=False,
    all_cells=True,
    foreground_logit=True,
    min_size_in_image=True,
    rounded_rois=False,
    background_masks=True,
    inclusive=False,
)
MXNET = Published(
    origin="mxnet",
    stem_epsilon=1e-5,
    rounded_size=True,
    rounded_anchors=True,
    all_cells=False,
    foreground_logit=False,
    min_size_in_image=False,
    rounded_rois=True,
    background_masks=False,
    inclusive=True,
)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class PublishedSpec:
    """All settings of a published network. See `instancefcn.models.checkpoint.StoredSpec`.

    Attributes:
        published: the implementation.
        scales: of the anchors, in units of 16 pixels: 8, 16, 32 (VOC), and also 4 (COCO).
        min_size: minimum side of a proposal, and of a window that votes (the latter in pixels of the input).
        name: of the model.
        short_side, long_side: pixels of the network's input.

    Raises:
        ValidationError: a value is out of range.
    """

    kind: ClassVar[str] = "published"

    published: Published
    scales: Factors
    min_size: Length
    name: str = NAME
    short_side: InputSide = 600
    long_side: InputSide = 1000

    def preprocessing(self) -> PublishedPreprocessing:
        """How images are scaled for the network."""
        rule = "rounded" if self.published.rounded_size else "truncated"
        return PublishedPreprocessing(self.short_side, self.long_side, rule)

    def network(self, classes: Classes) -> PublishedFCIS:
        """A new network with random weights."""
        return PublishedFCIS(self, classes)


class RoundedAnchors(AnchorSpec):
    """The official anchors: three shapes of about 16 x 16 pixels with sides of whole pixels (23 x 12, 16 x
    16, 11 x 22), times the scales.
    """

    def base(self) -> Tensor:
        """float32 [A, 4] centred on the origin, in pixels, in the order of `AnchorSpec.base`."""
        halves = []
        for ratio in self.ratios:
            width = round(math.sqrt(self.stride**2 / ratio))
            halves += [(width * scale / 2, round(width * ratio) * scale / 2) for scale in self.scales]
        corner = torch.tensor(halves)
        return torch.cat((-corner, corner), 1)


class PublishedFCIS(nn.Module):
    """Inference with published weights; `forward` is the whole story.

    The network has no background logit for proposals and no box maps of background: nothing reads them, and
    conversion leaves them out.

    It computes in double precision. The pooling rounds corners to whole cells, and ranks depend on the last
    digit: in single precision, even the number of threads can change which of two windows is kept.
    """

    mean: Tensor
    delta_std: Tensor
    max_instances = 100

    def __init__(self, spec: PublishedSpec, classes: Classes) -> None:
        super().__init__()
        self.spec, self.classes, self.published = spec, classes, spec.published
        anchors = RoundedAnchors if spec.published.rounded_anchors else AnchorSpec
        self.anchors = anchors(spec.scales)
        self.backbone = CaffeResNet101()
        c4, c5 = self.backbone.channels
        self.rpn = RegionProposalNetwork(c4, self.anchors, RPNSpec(min_size=spec.min_size))
        self.reduce = nn.Conv2d(c5, 1024, 1)
        self.scores = nn.Conv2d(1024, K**2 * 2 * (len(classes) + 1), 1)
        self.deltas = nn.Conv2d(1024, K**2 * 4, 1)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("delta_std", torch.tensor(DELTA_STD), persistent=False)
        self.double().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(
        self,
        images: list[Tensor],
        image_sizes: list[tuple[int, int]] | None = None,
        min_score: float = 0.0,
        max_instances: int = 100,
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """The instances in images, which run one by one.

        Args:
            images: N tensors [3, H, W], RGB, 0 to 1, at the size that `PublishedPreprocessing` gives them.
            image_sizes: (height, width) of the original images, in whose pixels instances are returned; by
                default the sizes of `images`.
            min_score: instances with a lower score are left out, and always those below MIN_SCORE.
            max_instances: at most so many for each image, and those that tie with the last one.
            classes: labels to look for; None for all.

        Raises:
            ConfigError: in training mode, which is not supported.
        """
        if self.training:
            raise ConfigError(f"{NAME} has converted weights and cannot be trained: train fcis_resnet101")
        results = []
        for i, image in enumerate(images):
            size = (image.shape[1], image.shape[2])
            image_size = size if image_sizes is None else image_sizes[i]
            scale = self.scale(size, image_size)
            with stage("backbone"):
                c4, c5 = self.backbone(self.normalised(image))
            with stage("score maps"):
                logits, deltas = self.rpn(c4)
                maps = self.maps(c5)
            with stage("proposals"):
                cells = (c4.shape[2], c4.shape[3])
                proposals = self.proposals(logits[0], deltas[0], cells, size, scale)
            with stage("scoring"):
                rois, probabilities, masks = self.windows(maps, proposals, size)
            boxes = self.to_image(rois, scale, image_size)
            windows = boxes, probabilities, masks
            results.append(self.vote(*windows, image_size, min_score, max_instances, classes))
        return results

    def scale(self, size: tuple[int, int], image_size: tuple[int, int]) -> float:
        """Pixels of the input per pixel of the image. Both codes use one number for both directions: the
        ratio of the widths (ChainerCV), or the scale before the sides are rounded (official).
        """
        if not self.published.rounded_size or size == image_size:
            return size[1] / image_size[1]
        return published_scale(*image_size, self.spec.short_side, self.spec.long_side, rounded=True)

    def normalised(self, image: Tensor) -> Tensor:
        """The backbone's input [1, 3, H, W] from an image [3, H, W], 0 to 1. Sides of less than 3 pixels,
        which the pooling cannot take, are padded with the mean colour.
        """
        x = (image.to(self.mean) * 255 - self.mean)[None]
        x = F.pad(x, (0, max(0, 3 - x.shape[3]), 0, max(0, 3 - x.shape[2])))
        return x.contiguous(memory_format=torch.channels_last)

    def maps(self, c5: Tensor) -> tuple[Tensor, Tensor]:
        """Score maps [1, k, k, 2 (C + 1), H, W] (all outside maps, then all inside maps) and box maps [1, k,
        k, 4, H, W].
        """
        reduced = F.relu(self.reduce(c5))
        return self.scores(reduced).unflatten(1, (K, K, -1)), self.deltas(reduced).unflatten(1, (K, K, 4))

    def proposals(
        self, logits: Tensor, deltas: Tensor, cells: tuple[int, int], size: tuple[int, int], scale: float
    ) -> Tensor:
        """Proposals [<= 300, 4] of one image, best first, in pixels of the input.

        Args:
            logits, deltas: [T] and [T, 4] (dx, dy, dw, dh), row by row, anchor by anchor.
            cells: (rows, columns) of the map.
            size: (height, width) of the input.
            scale: pixels of the input per pixel of the image.
        """
        grid = self.anchors.grid(*cells, self.anchors.base().to(logits.device))
        if not self.published.all_cells:
            whole = torch.zeros((*cells, len(self.anchors)), dtype=torch.bool, device=logits.device)
            whole[: size[0] // STRIDE, : size[1] // STRIDE] = True
            logits = logits.masked_fill(~whole.flatten(), -torch.inf)
        candidates = self.clipped(box_ops.decode(grid, deltas, math.inf), size)
        min_size = self.spec.min_size * (scale if self.published.min_size_in_image else 1.0)
        spec = replace(self.rpn.spec, min_size=min_size)
        boxes = thin(rank(logits, candidates, size, spec)[None], spec)[0]
        return boxes[box_ops.have_area(boxes)]

    def windows(
        self, maps: tuple[Tensor, Tensor], proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The W windows that vote: the proposals and their refined boxes, without those that are too small.

        Returns:
            boxes [W, 4] in pixels of the input, class probabilities [W, C + 1], masks [W, 21, 21] (0 to 1).
        """
        logits, masks, deltas = self.read(maps, proposals)
        refined = self.clipped(box_ops.decode(proposals, deltas * self.delta_std, math.inf), size)
        more_logits, more_masks, _ = self.read(maps, refined)
        boxes = torch.cat((proposals, refined))
        large = box_ops.sides_at_least(boxes, self.spec.min_size)
        probabilities = torch.cat((logits, more_logits)).softmax(1).float()
        return boxes[large], probabilities[large], torch.cat((masks, more_masks))[large]

    def read(self, maps: tuple[Tensor, Tensor], boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits [R, C + 1], the mask of one class [R, 21, 21] (0 to 1) and box deltas [R, 4] of
        windows [R, 4] in pixels of the input.
        """
        if self.published.rounded_rois:
            boxes = (boxes + 0.5).floor()  # halves away from zero, as in C
        rois = box_ops.to_rois(boxes, 0)
        score_maps, box_maps = maps
        pooled = psroi_average_pool(score_maps, rois, STRIDE, MASK_SIZE).unflatten(1, (2, -1))
        logits = pooled.amax(1).mean((2, 3))
        best = logits.argmax(1) if self.published.background_masks else logits[:, 1:].argmax(1) + 1
        outside, inside = pooled[torch.arange(len(best)), :, best].unbind(1)
        deltas = psroi_average_pool(box_maps, rois, STRIDE, MASK_SIZE).mean((2, 3))
        return logits, (inside - outside).sigmoid(), deltas

    def clipped(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """`boxes` [R, 4] clipped to an image of `size` (height, width), as the implementation does it."""
        boxes = box_ops.clip(boxes, size)
        if not self.published.inclusive:
            return boxes
        last = boxes.new_tensor((size[1], size[0])) - 1
        return torch.cat((boxes[:, :2].minimum(last), boxes[:, 2:].clamp(min=1)), 1)

    def to_image(self, boxes: Tensor, scale: float, image_size: tuple[int, int]) -> Tensor:
        """`boxes` [R, 4] from pixels of the input to pixels of the image, clipped to it."""
        end = 1 if self.published.inclusive else 0
        scaled = torch.cat((boxes[:, :2] / scale, (boxes[:, 2:] - end) / scale + end), 1)
        return self.clipped(scaled, image_size)

    def vote(
        self,
        boxes: Tensor,
        probabilities: Tensor,
        masks: Tensor,
        image_size: tuple[int, int],
        min_score: float,
        max_instances: int,
        classes: Sequence[int] | None = None,
    ) -> Instances:
        """The instances of one image, from the results of `windows` with boxes in pixels of the image."""
        voted = vote_published(
            lambda rows, classes: masks[rows],
            boxes,
            probabilities,
            image_size,
            min_score=max(min_score, MIN_SCORE),
            max_instances=max_instances,
            classes=None if classes is None else [label + 1 for label in classes],
        )
        kept = box_ops.sides_at_least(voted.boxes, 2 if self.published.inclusive else 1).nonzero()[:, 0]
        return Instances(
            voted.boxes[kept],
            voted.scores[kept],
            voted.classes[kept] - 1,
            voted.masks[kept],
            self.classes.names,
            self.classes.ids,
            limit_reached=max_instances if voted.full else None,
        )
