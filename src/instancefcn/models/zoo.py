"""Every named model, spelled out, and building them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, cast

import torch

from instancefcn.errors import ConfigError
from instancefcn.models.backbone import STRIDES, AtrousVGG, Backbone
from instancefcn.models.fcis import FCIS
from instancefcn.models.fusion import FineFeatures
from instancefcn.models.head import Classes, HeadSpec
from instancefcn.models.instance_fcn import InstanceFCN, ProposalSpec
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.rpn import AnchorSpec, RegionProposalNetwork, RPNSpec
from instancefcn.models.sampling import Method, SamplingSpec
from instancefcn.models.windows import WindowSpec


@dataclass(frozen=True)
class ModelSpec:
    """A named FCIS, whole.

    Attributes:
        name: as the command line knows it.
        backbone: timm's name.
        frozen: first modules of the backbone that are not trained (stem and C2).
        short_side, long_side: pixels: pictures are scaled to this short side, or less where the long side
            would pass its limit.
        anchors, rpn, head, sampling: see there.
        rpn_level: 3 to propose from C3, 4 from C4, 5 from C5, 0 from the features of the score maps.
        training: settings in which training of this model differs from `TrainConfig`'s defaults.

    Raises:
        ValueError: there is no such level, or the anchors are not spaced as its cells.
    """

    kind: ClassVar[str] = "fcis"

    name: str
    backbone: str
    frozen: tuple[str, ...]
    short_side: int
    long_side: int
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
                f"anchors have stride {self.anchors.stride}, what they are proposed from has {stride}"
            )

    def preprocessing(self) -> Preprocessing:
        """How the network wants pictures scaled."""
        return Preprocessing(self.short_side, self.long_side)

    def network(self, classes: Classes) -> FCIS:
        """A new network, with random weights."""
        return build_fcis(self, classes, pretrained=False)


@dataclass(frozen=True)
class ProposalModelSpec:
    """A named InstanceFCN, whole.

    Attributes:
        name: as the command line knows it.
        backbone: "vgg16" for the paper's, or timm's name of a network whose C3, C4 and C5 are fused.
        frozen: first modules of the backbone that are not trained.
        short_side, long_side: pixels of the largest level of the pyramid, as for FCIS.
        fused_channels: of the fused features; not used with "vgg16".
        head, windows: see there.
        training: settings in which training of this model differs from `TrainConfig`'s defaults.
    """

    kind: ClassVar[str] = "instance_fcn"

    name: str
    backbone: str
    frozen: tuple[str, ...]
    short_side: int = 900
    long_side: int = 1500
    fused_channels: int = 128
    head: ProposalSpec = ProposalSpec()
    windows: WindowSpec = WindowSpec()
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def preprocessing(self) -> Preprocessing:
        """How the network wants pictures scaled."""
        return Preprocessing(self.short_side, self.long_side)

    def network(self, classes: Classes) -> InstanceFCN:
        """A new network, with random weights, whose one class is "object" whatever `classes` says."""
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

# For a laptop's processor. Proposals come from C5, because C4 of so small a network knows little of objects;
# anchors and proposals fit pictures of 400 pixels. OHEM was better than random sampling on pictures kept back
# from training (docs/accuracy.md).
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

# For many small objects, such as the nuclei of a micrograph: everything happens at stride 8, on C3, C4 and C5
# fused; several hundred objects may lie in one picture. Crops and turns of the pictures show more of them.
# RoIs drawn at random were better than OHEM on pictures kept back, and this rate better than half or twice
# as much (docs/accuracy.md).
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

# 600 x 1.5^-4 .. 600 x 1.5: the short sides of training pictures and the levels of the pyramid.
PYRAMID = (119, 178, 267, 400, 600, 900)

# The paper's network: VGG-16 at stride 8, k = 5, six levels; conv1 and conv2 stay as they were, as in Faster
# R-CNN.
INSTANCEFCN_VGG16 = ProposalModelSpec(
    name="instancefcn_vgg16",
    backbone="vgg16",
    frozen=("features.0.", "features.2.", "features.5.", "features.7."),
    training={
        "optimizer": "sgd",
        "learning_rate": 0.002,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (0.8,),
        "ema_decay": 0.0,
        "train_sides": PYRAMID,
        "train_long": 1500,
    },
)

# For a laptop's processor. A seventh level, for objects that fill the picture, costs 1 % of the first.
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
        INSTANCEFCN_VGG16,
        INSTANCEFCN_LITE,
    )
}


def spec_of(name: str) -> AnySpec:
    """The named model. Raises ConfigError, with the names there are, for an unknown one."""
    if not isinstance(name, str) or name not in SPECS:
        raise ConfigError(f"there is no model {name!r}; the models are: {', '.join(sorted(SPECS))}")
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
        name: a model of `SPECS`, or a specification of one's own.
        num_classes: without background; may be left out when `class_names` is given. InstanceFCN has the one
            class "object", whatever is said here.
        class_names, category_ids: made up ("class 0", 1, 2, ...) when left out.
        pretrained: for the backbone: True for the published ImageNet weights, a safetensors file in timm's
            naming, or False.
        k, joint, sampling, fused, mask_weight: see `with_changes`.

    Raises:
        ConfigError: the name or the classes make no sense.
        CheckpointError: the pretrained weights cannot be had.
    """
    spec = spec_of(name) if isinstance(name, str) else name
    spec = with_changes(spec, k=k, joint=joint, sampling=sampling, fused=fused, mask_weight=mask_weight)
    if isinstance(spec, ProposalModelSpec):
        return build_proposals(spec, pretrained)
    if class_names is None:
        if num_classes is None:
            raise ConfigError("a network needs num_classes or class_names")
        class_names = [f"class {i}" for i in range(num_classes)]
    elif num_classes is not None and num_classes != len(class_names):
        raise ConfigError(f"num_classes is {num_classes}, but there are {len(class_names)} class names")
    if len(class_names) == 0:
        raise ConfigError("a network needs at least one class besides background")
    ids = tuple(category_ids) if category_ids is not None else tuple(range(1, len(class_names) + 1))
    if len(ids) != len(class_names):
        raise ConfigError(f"there are {len(class_names)} class names, but {len(ids)} category ids")
    return build_fcis(spec, Classes(tuple(class_names), ids), pretrained)


def build_fcis(spec: ModelSpec, classes: Classes, pretrained: bool | Path | str) -> FCIS:
    """A new FCIS. Raises CheckpointError when the pretrained weights cannot be had."""
    backbone = Backbone(spec.backbone, spec.frozen, pretrained)
    channels = backbone.channels[spec.rpn_level - 3] if spec.rpn_level else spec.head.channels
    rpn = RegionProposalNetwork(channels, spec.anchors, spec.rpn)
    network = FCIS(backbone, rpn, spec.rpn_level, spec.head, spec.sampling, classes)
    return network.to(memory_format=torch.channels_last)


def build_proposals(spec: ProposalModelSpec, pretrained: bool | Path | str) -> InstanceFCN:
    """A new InstanceFCN. Raises CheckpointError when the pretrained weights cannot be had."""
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
    """`spec` with another setting or two, for ablations; None leaves one as it is.

    Args:
        k: parts along each side of a window; 1 is translation invariant.
        joint: one set of maps for classes and masks, or two (FCIS only).
        sampling: of RoIs, "random" or "ohem" (FCIS only).
        fused: score maps from C3, C4 and C5, or from C5 alone (FCIS only).
        mask_weight: of the mask loss against the others (FCIS only).

    Raises:
        ConfigError: a value is wrong, or the model has no such setting.
    """
    if k is not None and k < 1:
        raise ConfigError(f"k, the parts along each side of a window, must be at least 1, not {k}")
    if isinstance(spec, ProposalModelSpec):
        if (joint, sampling, fused, mask_weight) != (None,) * 4:
            raise ConfigError(
                f"joint, sampling, fused and mask_weight are settings of FCIS, not of {spec.name}: "
                "leave them out"
            )
        return spec if k is None else replace(spec, head=replace(spec.head, k=k))
    wanted: dict[str, Any] = {"k": k, "joint": joint, "fused": fused, "mask_weight": mask_weight}
    try:
        head = replace(spec.head, **{key: value for key, value in wanted.items() if value is not None})
    except ValueError as error:
        raise ConfigError(f"{spec.name} cannot be changed so: {error}") from None
    method = spec.sampling.method if sampling is None else sampling
    if method not in ("random", "ohem"):
        raise ConfigError(f"sampling is 'random' or 'ohem', not {method!r}")
    return replace(spec, head=head, sampling=replace(spec.sampling, method=cast(Method, method)))
