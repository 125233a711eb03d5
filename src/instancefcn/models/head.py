"""The position-sensitive head of FCIS: its settings, its classes, and the convolutions that make its maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from instancefcn.models.backbone import STRIDE, STRIDES
from instancefcn.models.class_maps import ClassMaps
from instancefcn.models.fusion import Fusion
from instancefcn.ops.voting.operator import Extent

# Windows that overlap a survivor by this much vote for its mask (section 3.2).
VOTE_IOU = 0.5


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
