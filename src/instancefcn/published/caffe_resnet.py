"""Caffe's ResNet-101, the backbone of the published FCIS networks.

It differs from that of torchvision and timm. The stride of a stage is in the first 1x1 convolution of its
first block (theirs is in the 3x3), the pooling after the stem has no padding and rounds up, and all three 3x3
convolutions of C5 are dilated. Batch normalisation is frozen.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from instancefcn.models.backbone import FrozenNormConv2d

UNITS = (3, 4, 23, 3)
"""Blocks of the stages C2 to C5."""
WIDTHS = (64, 128, 256, 512)
"""Channels inside the blocks of a stage; its output has four times as many."""


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> FrozenNormConv2d:
    """A convolution that keeps the size, apart from its stride, and its frozen normalisation."""
    padding = dilation * (size // 2)
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
    return FrozenNormConv2d(layer, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution beside a shortcut, which is a convolution in the first block of a
    stage.
    """

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 1, stride)
        self.conv2 = convolution(width, width, 3, dilation=dilation)
        self.conv3 = convolution(width, 4 * width, 1)
        self.shortcut = convolution(inputs, 4 * width, 1, stride) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 4 width, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class CaffeResNet101(nn.Module):
    """C4 and C5, both at stride 16.

    Attributes:
        channels: of (C4, C5).
    """

    channels = (1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 64, 7, 2)
        self.stages = nn.ModuleList()
        inputs = 64
        for width, units, stride, dilation in zip(WIDTHS, UNITS, (1, 2, 2, 1), (1, 1, 1, 2), strict=True):
            blocks = []
            for block in range(units):
                blocks.append(Bottleneck(inputs, width, stride if block == 0 else 1, dilation, block == 0))
                inputs = 4 * width
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] of at least 3 x 3 pixels to C4 [N, 1024, h, w] and C5 [N, 2048, h, w]; 600 x
        800 pixels have 38 x 50 cells.
        """
        x = F.max_pool2d(F.relu(self.stem(images)), 3, 2, ceil_mode=True)
        c2, c3, c4, c5 = self.stages
        c4_features: Tensor = c4(c3(c2(x)))
        return c4_features, c5(c4_features)
