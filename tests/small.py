"""Networks of a few convolutions, untrained but with opinions, so that a graph of them is traced quickly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from instancefcn.inference.predictor import Predictor
from instancefcn.models.checkpoint import Loaded
from instancefcn.models.fcis import FCIS
from instancefcn.models.head import Classes, HeadSpec
from instancefcn.models.instance_fcn import InstanceFCN, ProposalSpec
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.rpn import AnchorSpec, RegionProposalNetwork
from instancefcn.models.windows import WindowSpec
from tiny import tiny_spec

NAMES, IDS = ("cat", "dog", "owl"), (3, 8, 11)


class SmallBackbone(nn.Module):
    """C3, C4 and C5 from four convolutions, so that a graph is traced within seconds."""

    channels = (8, 12, 16)
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, padding=1)
            for a, b, stride in ((3, 8, 4), (8, 8, 2), (8, 12, 2), (12, 16, 1))
        )
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((3, 1, 1), 0.25))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        levels = []
        for conv in self.body:
            images = torch.tanh(conv(images))
            levels.append(images)
        return tuple(levels[1:])


class SmallFeatures(SmallBackbone):
    """Features at stride 8 for InstanceFCN."""

    channels = 8

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(images)[0]


def small_instance_fcn() -> InstanceFCN:
    torch.manual_seed(1)
    features: Any = SmallFeatures()
    network = InstanceFCN(features, ProposalSpec(channels=8, k=3, levels=3, before_nms=150), WindowSpec())
    nn.init.normal_(network.maps.weight, std=1.5)
    nn.init.normal_(network.objectness.weight, std=4.0)
    return network.eval()


def small_fcis(fused: bool = True, stride: int = 16) -> FCIS:
    """Untrained, but with opinions: heads large enough that scores and masks are far from a draw. Stride 8
    proposes by size, as `fcis_wide`.
    """
    torch.manual_seed(3)
    spec = tiny_spec()
    backbone: Any = SmallBackbone()
    anchors = AnchorSpec(spec.anchors.scales, stride=stride)
    rpn = replace(spec.rpn, before_nms=60, after_nms=20, by_size=stride == 8)
    network = FCIS(
        backbone,
        RegionProposalNetwork(16, anchors, rpn),
        5 if stride == 16 else 0,
        HeadSpec(channels=16, k=3, mask_size=11, fused=fused, stride=stride),
        spec.sampling,
        Classes(NAMES, IDS),
    )
    for conv in (network.rpn.logits, network.maps.scores):
        nn.init.normal_(conv.weight, std=0.6)
    return network.eval()


def predictor_of(network: FCIS | InstanceFCN, short: int = 96, long: int = 144) -> Predictor:
    names, ids = network.classes.names, network.classes.ids
    document = {"model": {"name": "tiny"}}
    return Predictor(Loaded(network, names, ids, Preprocessing(short, long), document), "cpu")


def photograph(height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 [3, H, W]: smooth blobs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 5, 6), generator=generator)
    return (nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()
