"""The position-sensitive head of FCIS: settings, classes, and the convolutions that make its score maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import pydantic.dataclasses
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from instancefcn.models.backbone import STRIDE, STRIDES
from instancefcn.models.fusion import Fusion
from instancefcn.models.spec_fields import STRICT, Channels, KeptCount, MaskThreshold, Parts
from instancefcn.ops import class_scores, mask_logits, ps_average
from instancefcn.ops.voting.operator import Extent

VOTE_IOU = 0.5
"""Windows that overlap an instance's window by at least this vote for its mask (section 3.2)."""
MAX_BYTES = 256 * 2**20
"""Of the score maps held at once for each image of a batch."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class HeadSpec:
    """The position-sensitive head.

    Attributes:
        channels: of the 1x1 convolution between the backbone and the score maps.
        fused: False makes the score maps from C5, as in the paper; True from C3, C4 and C5 (see `Fusion`).
        stride: pixels per map cell: 16, as in the paper, or 8 for small objects, which needs `fused`.
        k: parts of a window along each side; 1 makes the maps translation invariant (the paper's ablation).
        joint: True for FCIS; False reads the class from one set of maps and the mask from the other (the
            paper's ablation "separate score maps").
        mask_size: cells of a mask along each side.
        mask_threshold: a pixel belongs to an object when its voted probability is at least this.
        mask_weight: of the mask loss relative to the others (10 in the official code, 1 in the paper).
        extent: how far a voted mask reaches: over all "voters", as in the official code, or only over the
            instance's own "box".
        passes: 2 scores the proposals and the boxes to which they are refined, 1 the proposals alone
            (ablation).
        voting: False gives each instance the mask of its own window (ablation).
        instances: maximum number for one image, unless the caller gives another.

    Raises:
        ValidationError: a value is out of range, or the stride is neither 16 nor 8 with `fused`.
    """

    channels: Channels = 1024
    fused: bool = False
    stride: int = STRIDE
    k: Parts = 7
    joint: bool = True
    mask_size: Annotated[int, Field(ge=1, le=256)] = 21
    mask_threshold: MaskThreshold = 0.4
    mask_weight: Annotated[float, Field(ge=0, le=1e6)] = 10.0
    extent: Extent = "voters"
    passes: Annotated[int, Field(ge=1, le=2)] = 2
    voting: bool = True
    instances: KeptCount = 100

    def __post_init__(self) -> None:
        if self.stride not in STRIDES or (self.stride != STRIDE and not self.fused):
            raise ValueError(
                f"stride must be {STRIDE}, or {STRIDES[0]} with fused=true, but is {self.stride} with"
                f" fused={str(self.fused).lower()}"
            )

    @property
    def vote_iou(self) -> float:
        """A window votes for an instance when their IoU is at least this; an instance's own window always
        does.
        """
        return VOTE_IOU if self.voting else 1.0


@dataclass(frozen=True)
class Classes:
    """The classes of a model: `names` by label, and the training set's own `ids`, in the same order."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)


class ClassMaps:
    """The 2 k^2 C score maps of a batch (C classes with background), made on demand.

    For an image of 600 x 1000 pixels, 81 classes have 76 MB of score maps, 1,200 classes 1.1 GB. The score of
    a class needs its own maps alone. Beyond a limit, therefore, the maps of a block of classes are made from
    the features, read and released before the next block; masks need the maps of their own classes only. The
    results equal those of all maps at once.

    Args:
        features: [N, D, H, W].
        weight, bias: of the 1x1 convolution that makes the maps, [2 k^2 C, D, 1, 1] and [2 k^2 C], channels
            in the order (row part, column part, outside/inside, class).
        k: parts of a window along each side.
        joint: False reads classes from the outside maps and masks from the inside maps (ablation).
        max_bytes: the maps of one image are held at once up to this size.
    """

    def __init__(
        self, features: Tensor, weight: Tensor, bias: Tensor, k: int, joint: bool, max_bytes: int = MAX_BYTES
    ) -> None:
        self.features, self.joint = features, joint
        self.weight, self.bias = weight.unflatten(0, (k, k, 2, -1)), bias.unflatten(0, (k, k, 2, -1))
        self.k, self.classes = k, self.weight.shape[3]
        one = features[0, 0].numel() * k**2 * 2 * features.element_size()
        # An exported graph cannot choose by the size of its input.
        fits = torch.compiler.is_exporting() or one * self.classes <= max_bytes
        self.block = self.classes if fits else max(1, max_bytes // one)
        self.whole = self.of(features, self.weight, self.bias) if self.block == self.classes else None

    def of(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Maps [N, k, k, 2, c, H, W] of some classes from their weights [k, k, 2, c, D, 1, 1] and biases."""
        maps = F.conv2d(features, weight.flatten(0, 3), bias.flatten())
        return maps.unflatten(1, (self.k, self.k, 2, weight.shape[3]))

    def class_logits(self, rois: Tensor, stride: float) -> Tensor:
        """Class logits [R, C] of RoIs [R, 5] (pixels): the window means of max(inside, outside)."""
        if self.whole is not None:
            return self._scores(self.whole, rois, stride)
        blocks = []
        for first in range(0, self.classes, self.block):
            chosen = slice(first, first + self.block)
            # For gradients, the maps of the block are made again in the backward pass instead of kept.
            blocks.append(
                checkpoint(
                    lambda *given: self._scores(self.of(*given), rois, stride),
                    self.features,
                    self.weight[:, :, :, chosen],
                    self.bias[:, :, :, chosen],
                    use_reentrant=False,
                )
            )
        return torch.cat(blocks, 1)

    def mask_logits(self, rois: Tensor, classes: Tensor, stride: float, size: int) -> Tensor:
        """Mask logits [R, size, size] of RoIs [R, 5], each for one class int64 [R] (background is 0)."""
        if self.whole is not None:
            return self._masks(self.whole, rois, classes, stride, size)
        present, indices = classes.unique(return_inverse=True)
        result = self.features.new_zeros((len(rois), size, size))
        for first in range(0, len(present), self.block):
            chosen = present[first : first + self.block]
            rows = ((indices >= first) & (indices < first + self.block)).nonzero()[:, 0]
            maps = self.of(self.features, self.weight[:, :, :, chosen], self.bias[:, :, :, chosen])
            logits = self._masks(maps, rois[rows], indices[rows] - first, stride, size)
            result = result.to(logits.dtype).index_copy(0, rows, logits)
        return result

    def _scores(self, maps: Tensor, rois: Tensor, stride: float) -> Tensor:
        if self.joint:
            return class_scores(maps, rois, stride)
        return ps_average(maps[:, :, :, 0], rois, stride)

    def _masks(self, maps: Tensor, rois: Tensor, classes: Tensor, stride: float, size: int) -> Tensor:
        if not self.joint:
            inside = maps[:, :, :, 1:]
            maps = torch.cat((torch.zeros_like(inside), inside), dim=3)
        return mask_logits(maps, rois, classes, stride, size)


class ScoreMaps(nn.Module):
    """A 1x1 reduction, then two sibling 1x1 convolutions: 2 k^2 (C + 1) score maps and 4 k^2 box maps, for C
    classes.

    Args:
        in_channels: channels of C3, C4 and C5.
        num_classes: C, without background.
        spec: settings of the head.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.levels = len(in_channels) if spec.fused else 1
        self.reduce = Fusion(in_channels[-self.levels :], spec.channels, finest=spec.stride != STRIDE)
        self.scores = nn.Conv2d(spec.channels, spec.k**2 * 2 * (num_classes + 1), 1)
        self.deltas = nn.Conv2d(spec.channels, spec.k**2 * 4, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[ClassMaps, Tensor]:
        """C3, C4 and C5 to score maps [N, k, k, 2 (outside, inside), C + 1, H, W] and box maps [N, k, k, 4,
        H, W], at the cells of C5 (of C3 at stride 8). Score maps of very many classes are made when read.
        """
        reduced = self.reduce(features[-self.levels :])
        k, bias = self.spec.k, self.scores.bias
        assert bias is not None
        maps = ClassMaps(reduced, self.scores.weight, bias, k, self.spec.joint)
        return maps, self.deltas(reduced).unflatten(1, (k, k, 4))
