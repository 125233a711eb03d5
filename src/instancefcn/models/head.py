"""The position-sensitive head of FCIS: its settings, its classes, and the convolutions that make its maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from instancefcn.models.backbone import STRIDE, STRIDES
from instancefcn.models.fusion import Fusion
from instancefcn.ops import class_scores, mask_logits, ps_average
from instancefcn.ops.voting.operator import Extent

# Windows that overlap a survivor by this much vote for its mask (section 3.2).
VOTE_IOU = 0.5
MAX_BYTES = 256 * 2**20
"""Of the score maps that are held at once for each picture of a batch."""


@dataclass(frozen=True)
class HeadSpec:
    """The position-sensitive head.

    Attributes:
        channels: of the 1x1 convolution between the backbone and the score maps.
        fused: False reads the maps from C5, as the paper; True from C3, C4 and C5 (see `Fusion`).
        stride: pixels per map cell: 16, as the paper, or 8 for small objects, which must be `fused`.
        k: parts of a window along each side; 1 makes the maps translation invariant (the paper's ablation).
        joint: True for FCIS; False reads the class from one set of maps and the mask from the other (the
            paper's ablation "separate score maps").
        mask_size: cells of a mask along each side.
        mask_threshold: a pixel belongs to an object when its voted probability is at least this.
        mask_weight: of the mask loss against the others (10 in the official code, 1 in the paper).
        extent: how far a voted mask reaches: "voters", as in the official code, or only the survivor's "box".
        passes: 2 scores the proposals and, again, the boxes that they are refined to; 1 the proposals alone
            (ablation).
        voting: False takes each survivor's own mask (ablation).
        instances: the most of one picture, unless the caller says otherwise.

    Raises:
        ValueError: another stride, or 8 without fusion; more than 2 passes.
    """

    channels: int = 1024
    fused: bool = False
    stride: int = STRIDE
    k: int = 7
    joint: bool = True
    mask_size: int = 21
    mask_threshold: float = 0.4
    mask_weight: float = 10.0
    extent: Extent = "voters"
    passes: int = 2
    voting: bool = True
    instances: int = 100

    def __post_init__(self) -> None:
        if self.passes not in (1, 2):
            raise ValueError(f"passes must be 1 or 2, not {self.passes}")
        if self.stride not in STRIDES or (self.stride != STRIDE and not self.fused):
            raise ValueError(
                f"score maps have stride {STRIDE}, or {STRIDES[0]} when fused, not {self.stride}"
            )

    @property
    def vote_iou(self) -> float:
        """A RoI votes when its IoU with the survivor is at least this; every survivor votes for itself."""
        return VOTE_IOU if self.voting else 1.0


@dataclass(frozen=True)
class Classes:
    """The classes of a model: `names` by label, and the training set's own `ids` of the same."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)


class ClassMaps:
    """The 2 k^2 C score maps of a batch (C classes with background), by need.

    81 classes on a picture of 600 x 1000 pixels have 76 MB of score maps, 1,200 classes 1.1 GB. A class's
    score needs its own maps alone, so beyond a limit the maps are made from the features a block of classes
    at a time, read and let go; masks make the maps of the classes that they are of. The results are those of
    all maps at once.

    Args:
        features: [N, D, H, W].
        weight, bias: of the 1x1 convolution that makes the maps, [2 k^2 C, D, 1, 1] and [2 k^2 C], channels
            in the order (row part, column part, outside/inside, class).
        k: parts of a window along each side.
        joint: False reads classes from the outside maps and masks from the inside ones (ablation).
        max_bytes: a picture's maps beyond this are not held at once.
    """

    def __init__(
        self, features: Tensor, weight: Tensor, bias: Tensor, k: int, joint: bool, max_bytes: int = MAX_BYTES
    ) -> None:
        self.features, self.joint = features, joint
        self.weight, self.bias = weight.unflatten(0, (k, k, 2, -1)), bias.unflatten(0, (k, k, 2, -1))
        self.k, self.classes = k, self.weight.shape[3]
        one = features[0, 0].numel() * k**2 * 2 * features.element_size()
        # An exported graph cannot choose by the size of the picture that it will get.
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
            # With gradients, the block's maps are made again on the way back instead of being kept.
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
        kinds, places = classes.unique(return_inverse=True)
        result = self.features.new_zeros((len(rois), size, size))
        for first in range(0, len(kinds), self.block):
            chosen = kinds[first : first + self.block]
            rows = ((places >= first) & (places < first + self.block)).nonzero()[:, 0]
            maps = self.of(self.features, self.weight[:, :, :, chosen], self.bias[:, :, :, chosen])
            found = self._masks(maps, rois[rows], places[rows] - first, stride, size)
            result = result.to(found.dtype).index_copy(0, rows, found)
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
    """1x1 reduction, then two sibling 1x1 convolutions: 2 k^2 (C + 1) score maps and 4 k^2 box maps (C
    classes).
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.levels = len(in_channels) if spec.fused else 1
        self.reduce = Fusion(in_channels[-self.levels :], spec.channels, finest=spec.stride != STRIDE)
        self.scores = nn.Conv2d(spec.channels, spec.k**2 * 2 * (num_classes + 1), 1)
        self.deltas = nn.Conv2d(spec.channels, spec.k**2 * 4, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[ClassMaps, Tensor]:
        """C3, C4 and C5 to maps [N, k, k, 2 (outside, inside), C + 1, H, W], of very many classes made only
        when they are read, and box maps [N, k, k, 4, H, W], with the cells of C5 (of C3 at stride 8).
        """
        reduced = self.reduce(features[-self.levels :])
        k, bias = self.spec.k, self.scores.bias
        assert bias is not None
        maps = ClassMaps(reduced, self.scores.weight, bias, k, self.spec.joint)
        return maps, self.deltas(reduced).unflatten(1, (k, k, 4))
