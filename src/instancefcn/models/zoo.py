"""The named models with all their settings, and how networks are built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pydantic.dataclasses
import torch
from pydantic import ValidationError

from instancefcn.errors import ConfigError
from instancefcn.models.backbone import STRIDES, AtrousVGG, Backbone
from instancefcn.models.fcis import FCIS
from instancefcn.models.fusion import FineFeatures
from instancefcn.models.head import Classes, HeadSpec
from instancefcn.models.instance_fcn import InstanceFCN, ProposalSpec
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.rpn import AnchorSpec, RegionProposalNetwork, RPNSpec
from instancefcn.models.sampling import SamplingSpec
from instancefcn.models.spec_fields import (
    MAX_KEPT,
    STRICT,
    BackboneName,
    Channels,
    InputSide,
    Prefixes,
    explain,
)
from instancefcn.models.windows import WindowSpec


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class ModelSpec:
    """All settings of an FCIS.

    Attributes:
        name: of the model, as on the command line.
        backbone: timm's name of it.
        frozen: prefixes of the names of backbone modules that are not trained (stem and C2).
        short_side, long_side: pixels of the network's input: images are scaled to this short side, or to this
            long side where it would be larger.
        anchors, rpn, head, sampling: settings of these parts.
        rpn_level: 3 to propose from C3, 4 from C4, 5 from C5, 0 from the features of the score maps.
        training: preferred settings of training that differ from the defaults of `TrainConfig`.

    Raises:
        ValidationError: a value is out of range, or the stride of the anchors is not that of the level.
    """

    kind: ClassVar[str] = "fcis"

    name: str
    backbone: BackboneName
    frozen: Prefixes
    short_side: InputSide
    long_side: InputSide
    anchors: AnchorSpec
    rpn: RPNSpec = RPNSpec()
    rpn_level: int = 4
    head: HeadSpec = HeadSpec()
    sampling: SamplingSpec = SamplingSpec()
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.rpn_level not in (0, 3, 4, 5):
            raise ValueError(f"rpn_level must be 0, 3, 4 or 5, not {self.rpn_level}")
        stride = STRIDES[self.rpn_level - 3] if self.rpn_level else self.head.stride
        if self.anchors.stride != stride:
            raise ValueError(
                f"anchors.stride must be {stride}, the stride of rpn_level {self.rpn_level}, not"
                f" {self.anchors.stride}"
            )

    def preprocessing(self) -> Preprocessing:
        """How images are scaled for the network."""
        return Preprocessing(self.short_side, self.long_side)

    def network(self, classes: Classes) -> FCIS:
        """A new network with random weights."""
        return build_fcis(self, classes, pretrained=False)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class ProposalModelSpec:
    """All settings of an InstanceFCN.

    Attributes:
        name: of the model, as on the command line.
        backbone: "vgg16" for the paper's, or timm's name of a network whose C3, C4 and C5 are fused.
        frozen: prefixes of the names of backbone modules that are not trained.
        short_side, long_side: pixels of the largest level of the pyramid, as for FCIS.
        fused_channels: of the fused features; not used with "vgg16".
        head, windows: settings of these parts.
        training: preferred settings of training that differ from the defaults of `TrainConfig`.

    Raises:
        ValidationError: a value is out of range.
    """

    kind: ClassVar[str] = "instance_fcn"

    name: str
    backbone: BackboneName
    frozen: Prefixes
    short_side: InputSide = 900
    long_side: InputSide = 1500
    fused_channels: Channels = 128
    head: ProposalSpec = ProposalSpec()
    windows: WindowSpec = WindowSpec()
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def preprocessing(self) -> Preprocessing:
        """How images are scaled for the network."""
        return Preprocessing(self.short_side, self.long_side)

    def network(self, classes: Classes) -> InstanceFCN:
        """A new network with random weights. Its one class is "object", whatever `classes` are."""
        return build_proposals(self, pretrained=False)


AnySpec: TypeAlias = ModelSpec | ProposalModelSpec

# The paper's network: ResNet, 600 / 1000 pixels, 12 anchors (COCO; VOC leaves out the smallest scale), OHEM.
FCIS_RESNET101 = ModelSpec(
    name="fcis_resnet101",
    backbone="resnet101",
    frozen=("conv1", "bn1", "layer1"),
    short_side=600,
    long_side=1000,
    anchors=AnchorSpec(scales=(4, 8, 16, 32)),
    rpn=RPNSpec(min_size=2.0),
    training={
        "optimizer": "sgd",
        "precision": "32",
        "learning_rate": 0.008,
        "weight_decay": 5e-4,
        "schedule": "step",
        "ema_decay": 0.0,
    },
)
FCIS_RESNET50 = replace(FCIS_RESNET101, name="fcis_resnet50", backbone="resnet50")
# As published for VOC: 9 anchors, larger proposals, RoIs drawn at random, background near objects only.
FCIS_RESNET101_VOC = replace(
    FCIS_RESNET101,
    name="fcis_resnet101_voc",
    anchors=AnchorSpec(scales=(8, 16, 32)),
    rpn=RPNSpec(),
    sampling=SamplingSpec(method="random", background_iou=0.1),
)

# For a laptop's CPU. Proposals come from C5, because C4 of so small a network says little about objects.
# Anchors and proposals suit images of 400 pixels. OHEM is better than random sampling on validation splits
# (docs/accuracy.md).
FCIS_LITE = ModelSpec(
    name="fcis_lite",
    backbone="tf_efficientnet_lite0",
    frozen=("conv_stem", "bn1", "blocks.0", "blocks.1"),
    short_side=512,
    long_side=853,
    anchors=AnchorSpec(scales=(2, 4, 8, 16, 24)),
    rpn=RPNSpec(channels=256, before_nms=1000, min_size=4.0, inside_only=False),
    rpn_level=5,
    head=HeadSpec(channels=256, fused=True),
    sampling=SamplingSpec(fill=False),
    training={
        "optimizer": "adamw",
        "learning_rate": 2.8e-3,
        "backbone_rate": 0.3,
        "weight_decay": 0.05,
        "train_short": (320, 512),
        "train_long": 768,
        "augment": {"crop": 0.25, "colour": 0.3},
    },
)

# For many small objects, such as the nuclei of a micrograph: all maps have stride 8, from C3, C4 and C5
# fused, and an image may have several hundred objects. Crops and rotations add variety. On validation splits
# random sampling is better than OHEM, and this learning rate better than half or twice of it
# (docs/accuracy.md).
FCIS_FINE = replace(
    FCIS_LITE,
    name="fcis_fine",
    short_side=768,
    long_side=1280,
    anchors=AnchorSpec(scales=(1.5, 3, 6, 12), stride=8),
    rpn=RPNSpec(channels=128, before_nms=3000, after_nms=1000, min_size=4.0, inside_only=False, samples=512),
    rpn_level=0,
    head=HeadSpec(channels=128, fused=True, stride=8, instances=400),
    sampling=SamplingSpec(method="random", rois=256, foreground_fraction=0.5, fill=False),
    training={
        **FCIS_LITE.training,
        "learning_rate": 5.6e-3,
        "train_short": (384, 512),
        "train_long": 640,
        "augment": {"crop": 1.0, "turn": 1.0, "colour": 0.3},
    },
)

# For objects of any size: the maps of fcis_fine with anchors from 12 to 320 pixels. A step costs a fifth more
# than one of fcis_lite.
FCIS_WIDE = replace(
    FCIS_FINE,
    name="fcis_wide",
    short_side=480,
    long_side=800,
    anchors=AnchorSpec(scales=(1.5, 3, 6, 12, 24, 40), stride=8),
    rpn=replace(FCIS_FINE.rpn, before_nms=1000, by_size=True),
    training={
        **FCIS_LITE.training,
        "learning_rate": 4e-3,
        "train_short": (256, 576),
        "train_long": 768,
        "augment": {"crop": 0.5, "colour": 0.3},
    },
)

# 600 x 1.5^-4 .. 600 x 1.5: the short sides of training images and of the levels of the pyramid.
PYRAMID = (119, 178, 267, 400, 600, 900)

# The paper's network: VGG-16 at stride 8, k = 5, six levels; conv1 and conv2 are frozen, as in Faster R-CNN.
INSTANCEFCN_VGG16 = ProposalModelSpec(
    name="instancefcn_vgg16",
    backbone="vgg16",
    frozen=("features.0.", "features.2.", "features.5.", "features.7."),
    training={
        "optimizer": "sgd",
        "precision": "32",
        "learning_rate": 0.002,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (0.8,),
        "ema_decay": 0.0,
        "train_sides": PYRAMID,
        "train_long": 1500,
    },
)

# For a laptop's CPU. A seventh level, for objects that fill the image, costs 1 % of the first.
INSTANCEFCN_LITE = ProposalModelSpec(
    name="instancefcn_lite",
    backbone="tf_efficientnet_lite0",
    frozen=("conv_stem", "bn1", "blocks.0", "blocks.1"),
    head=ProposalSpec(channels=128, levels=7),
    training={
        "optimizer": "adamw",
        "learning_rate": 2.8e-3,
        "backbone_rate": 0.3,
        "weight_decay": 0.05,
        "train_sides": (79, *PYRAMID),
        "train_long": 1500,
        "augment": {"colour": 0.3},
    },
)

SPECS: dict[str, AnySpec] = {
    spec.name: spec
    for spec in (
        FCIS_RESNET101,
        FCIS_RESNET101_VOC,
        FCIS_RESNET50,
        FCIS_LITE,
        FCIS_FINE,
        FCIS_WIDE,
        INSTANCEFCN_VGG16,
        INSTANCEFCN_LITE,
    )
}


def spec_of(name: str) -> AnySpec:
    """The specification of a named model. Raises ConfigError for an unknown name."""
    if not isinstance(name, str) or name not in SPECS:
        raise ConfigError(f"model {name!r} does not exist; the models are {', '.join(sorted(SPECS))}")
    return SPECS[name]


def build(
    name: str | AnySpec,
    num_classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
    pretrained: bool | Path | str = False,
    k: int | None = None,
    joint: bool | None = None,
    sampling: str | None = None,
    fused: bool | None = None,
    mask_weight: float | None = None,
) -> FCIS | InstanceFCN:
    """A new network with random heads.

    Args:
        name: a model of `SPECS`, or a specification.
        num_classes: without background; not needed with `class_names`. InstanceFCN always has the one class
            "object".
        class_names, category_ids: by default "class 0", "class 1", ... and 1, 2, ...
        pretrained: weights of the backbone: True for the published ImageNet weights, a safetensors file in
            timm's naming, or False for random weights.
        k, joint, sampling, fused, mask_weight: see `with_changes`.

    Raises:
        ConfigError: the name is unknown, a setting is out of range, or the classes do not fit together.
        CheckpointError: the pretrained weights cannot be loaded.
    """
    spec = spec_of(name) if isinstance(name, str) else name
    spec = with_changes(spec, k=k, joint=joint, sampling=sampling, fused=fused, mask_weight=mask_weight)
    if isinstance(spec, ProposalModelSpec):
        return build_proposals(spec, pretrained)
    if class_names is None:
        if num_classes is None:
            raise ConfigError("the network needs num_classes or class_names")
        class_names = [f"class {i}" for i in range(num_classes)]
    elif num_classes is not None and num_classes != len(class_names):
        raise ConfigError(f"num_classes is {num_classes}, but there are {len(class_names)} class names")
    if len(class_names) == 0:
        raise ConfigError("the network needs at least one class besides background")
    ids = tuple(category_ids) if category_ids is not None else tuple(range(1, len(class_names) + 1))
    if len(ids) != len(class_names):
        raise ConfigError(f"there are {len(class_names)} class names, but {len(ids)} category ids")
    return build_fcis(spec, Classes(tuple(class_names), ids), pretrained)


def build_fcis(spec: ModelSpec, classes: Classes, pretrained: bool | Path | str) -> FCIS:
    """A new FCIS. Raises CheckpointError when the pretrained weights cannot be loaded."""
    backbone = Backbone(spec.backbone, spec.frozen, pretrained)
    channels = backbone.channels[spec.rpn_level - 3] if spec.rpn_level else spec.head.channels
    rpn = RegionProposalNetwork(channels, spec.anchors, spec.rpn)
    network = FCIS(backbone, rpn, spec.rpn_level, spec.head, spec.sampling, classes)
    return network.to(memory_format=torch.channels_last)


def build_proposals(spec: ProposalModelSpec, pretrained: bool | Path | str) -> InstanceFCN:
    """A new InstanceFCN. Raises CheckpointError when the pretrained weights cannot be loaded."""
    features: AtrousVGG | FineFeatures
    if spec.backbone == "vgg16":
        features = AtrousVGG(spec.frozen, pretrained)
    else:
        features = FineFeatures(Backbone(spec.backbone, spec.frozen, pretrained), spec.fused_channels)
    network = InstanceFCN(features, spec.head, spec.windows)
    return network.to(memory_format=torch.channels_last)


def with_changes(
    spec: AnySpec,
    *,
    k: int | None = None,
    joint: bool | None = None,
    sampling: str | None = None,
    fused: bool | None = None,
    mask_weight: float | None = None,
) -> AnySpec:
    """`spec` with other settings, for ablations; None keeps a setting.

    Args:
        k: parts along each side of a window; 1 is translation invariant.
        joint: one set of maps for classes and masks, or two (FCIS only).
        sampling: of RoIs, "random" or "ohem" (FCIS only).
        fused: score maps from C3, C4 and C5, or from C5 alone (FCIS only).
        mask_weight: of the mask loss relative to the others (FCIS only).

    Raises:
        ConfigError: a value is out of range, or the model does not have the setting.
    """
    of_head = _given(k=k, joint=joint, fused=fused, mask_weight=mask_weight)
    of_sampling = _given(method=sampling)
    if isinstance(spec, ProposalModelSpec) and (of_sampling or of_head.keys() - {"k"}):
        raise ConfigError(
            f"joint, sampling, fused and mask_weight are settings of FCIS, not of {spec.name}: leave them out"
        )
    try:
        if isinstance(spec, ProposalModelSpec):
            return replace(spec, head=replace(spec.head, **of_head))
        return replace(
            spec, head=replace(spec.head, **of_head), sampling=replace(spec.sampling, **of_sampling)
        )
    except ValidationError as error:
        raise ConfigError(f"{spec.name} does not allow this setting: {explain(error)}") from None


def with_room(spec: AnySpec, objects: int) -> AnySpec:
    """`spec` with room for at least so many objects in an image, and more proposals in proportion. Without
    effect on an InstanceFCN, whose callers say how many proposals they want.
    """
    if isinstance(spec, ProposalModelSpec) or objects <= spec.head.instances:
        return spec
    objects = min(objects, MAX_KEPT)
    rpn = spec.rpn.times(objects / spec.head.instances)
    return replace(spec, head=replace(spec.head, instances=objects), rpn=rpn)


def _given(**settings: Any) -> dict[str, Any]:
    """The settings that are not None."""
    return {name: value for name, value in settings.items() if value is not None}
