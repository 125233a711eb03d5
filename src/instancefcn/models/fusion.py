"""Features with fine detail: the last levels of a backbone, fused.

FCIS makes its score maps from C5 alone. In a small network C5 no longer says exactly where an object ends;
adding C3 and C4 costs two small convolutions. InstanceFCN needs features at stride 8, where dilated C4 and C5
would have four times as many cells; a small network fuses the levels instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instancefcn.models.backbone import STRIDES, Backbone


class Fusion(nn.Module):
    """The rectified sum of several levels, each after its own 1x1 convolution and resampled to the cells of
    one of them.

    Args:
        in_channels: channels of the last levels of a backbone, the coarsest last.
        channels: of the result.
        finest: False averages the finer levels over the cells of the coarsest; True reads the coarser levels
            bilinearly at the cells of the finest.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, finest: bool = False) -> None:
        super().__init__()
        self.finest = finest
        strides = STRIDES[-len(in_channels) :]
        # Cells of each level that are averaged along each side: constants, so that an exported graph does not
        # derive them from the sizes.
        self.pooled = [1 if finest else strides[-1] // stride for stride in strides]
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        for conv in self.lateral:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            # He initialisation, its variance shared among the terms of the sum.
            nn.init.normal_(conv.weight, std=(2 / (len(in_channels) * conv.in_channels)) ** 0.5)
            nn.init.zeros_(conv.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels [N, C_i, H_i, W_i], coarsest last, to [N, channels, H, W] with the cells of one level."""
        size = levels[0 if self.finest else -1].shape[2:]
        terms = []
        for level, conv, pooled in zip(levels, self.lateral, self.pooled, strict=True):
            if pooled > 1:
                level = F.avg_pool2d(level, pooled, ceil_mode=True, count_include_pad=False)
            term = conv(level)
            terms.append(_upsampled(term, size) if self.finest else term)
        return F.relu(sum(terms[1:], terms[0]))


def _upsampled(x: Tensor, size: torch.Size) -> Tensor:
    """x [N, C, h, w] at twice the resolution, read bilinearly and cropped to `size` (unless it has it)."""
    if x.shape[2:] == size:
        return x
    height, width = x.shape[2:]
    doubled = F.interpolate(x, (2 * height, 2 * width), mode="bilinear", align_corners=False)
    return doubled[:, :, : size[0], : size[1]]


class FineFeatures(nn.Module):
    """C3, C4 and C5 of a backbone fused at stride 8.

    Attributes:
        channels: of the features.
        mean, std: the normalisation that the backbone expects of images in 0..1.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        self.backbone, self.channels = backbone, channels
        self.fusion = Fusion(backbone.channels, channels, finest=True)

    @property
    def mean(self) -> Tensor:
        return self.backbone.mean

    @property
    def std(self) -> Tensor:
        return self.backbone.std

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to [N, channels, ceil(H / 8), ceil(W / 8)]."""
        features: Tensor = self.fusion(self.backbone(images))
        return features
