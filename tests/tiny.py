"""A whole FCIS small enough to train within seconds, and objects for it to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from instancefcn.data.dataset import ImageRecord
from instancefcn.data.loader import Sample, load_scene, make_target
from instancefcn.data.transforms import Resize
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.models.head import HeadSpec
from instancefcn.models.instance_fcn import ProposalSpec
from instancefcn.models.rpn import AnchorSpec, RPNSpec
from instancefcn.models.sampling import SamplingSpec
from instancefcn.models.targets import Target
from instancefcn.models.zoo import ModelSpec, ProposalModelSpec


def tiny_spec(backbone: str = "test_efficientnet") -> ModelSpec:
    """Like `fcis_lite`, for images of about 128 pixels; 0.1 million parameters."""
    return ModelSpec(
        name="tiny",
        backbone=backbone,
        frozen=(),
        short_side=128,
        long_side=192,
        anchors=AnchorSpec(scales=(1.5, 3.0)),
        rpn=RPNSpec(channels=32, before_nms=200, after_nms=50, min_size=2.0, inside_only=False, samples=64),
        rpn_level=5,
        head=HeadSpec(channels=32, k=3),
        sampling=SamplingSpec(method="random", rois=32, fill=False),
    )


def tiny_proposals() -> ProposalModelSpec:
    """Like `instancefcn_lite`; 0.1 million parameters."""
    return ProposalModelSpec(
        name="tiny",
        backbone="test_efficientnet",
        frozen=(),
        short_side=192,
        long_side=256,
        fused_channels=32,
        head=ProposalSpec(channels=32, k=3, levels=3),
    )


def target(
    boxes: list[tuple[int, int, int, int]],
    labels: list[int],
    size: tuple[int, int],
    *,
    crowd: list[tuple[int, int, int, int]] | None = None,
    image_id: int = 1,
) -> Target:
    """Objects that fill their `boxes` (whole pixels) in an image of `size` (height, width)."""
    crops = [torch.ones(y2 - y1, x2 - x1, dtype=torch.uint8) for x1, y1, x2, y2 in boxes]
    return Target(
        _boxes(boxes),
        torch.tensor(labels, dtype=torch.int64),
        CroppedMasks.from_crops(crops, [(box[0], box[1]) for box in boxes], size),
        (1.0, 1.0),
        image_id,
        _boxes(crowd or []),
    )


def resized(record: ImageRecord, resize: Resize) -> Sample:
    """An image as it is, at the network's size, with its objects."""
    scene = load_scene(record)
    image, scale = resize(scene.image)
    return Sample(image, make_target(scene, scale, record.id), record, scale)


def _boxes(boxes: list[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
