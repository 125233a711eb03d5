"""Every named model, spelled out; building, saving and loading them.

A checkpoint is one safetensors file: the tensors, and in its header one JSON document with all that is needed
to build the network again and to know where it came from. Loading one never runs code from it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from instancefcn.errors import CheckpointError, ConfigError
from instancefcn.files import atomic_write
from instancefcn.models.backbone import Backbone
from instancefcn.models.fcis import FCIS, Classes, HeadSpec
from instancefcn.models.rpn import AnchorSpec, RegionProposalNetwork, RPNSpec
from instancefcn.models.sampling import Method, SamplingSpec

FORMAT = 1
HEADER = "instancefcn"


@dataclass(frozen=True)
class ModelSpec:
    """A named model, whole.

    Attributes:
        name: as the command line knows it.
        backbone: timm's name.
        frozen: first modules of the backbone that are not trained (stem and C2).
        short_side, long_side: pixels: pictures are scaled to this short side, or less where the long side
            would pass its limit.
        anchors, rpn, head, sampling: see there.
        rpn_level: 0 to propose from C4, 1 from C5.
        training: settings in which training of this model differs from `TrainConfig`'s defaults.
    """

    name: str
    backbone: str
    frozen: tuple[str, ...]
    short_side: int
    long_side: int
    anchors: AnchorSpec
    rpn: RPNSpec = RPNSpec()
    rpn_level: int = 0
    head: HeadSpec = HeadSpec()
    sampling: SamplingSpec = SamplingSpec()
    training: Mapping[str, Any] = field(default_factory=dict, compare=False)


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

# For a laptop's processor. Proposals come from C5, because C4 of so small a network knows little of objects;
# anchors and proposals fit pictures of 400 pixels.
FCIS_LITE = ModelSpec(
    name="fcis_lite",
    backbone="tf_efficientnet_lite0",
    frozen=("conv_stem", "bn1", "blocks.0", "blocks.1"),
    short_side=384,
    long_side=640,
    anchors=AnchorSpec(scales=(2, 4, 8, 16, 24)),
    rpn=RPNSpec(channels=256, before_nms=1000, min_size=4.0, inside_only=False),
    rpn_level=1,
    head=HeadSpec(channels=256),
    sampling=SamplingSpec(fill=False),
    training={
        "optimizer": "adamw",
        "learning_rate": 4e-3,
        "backbone_rate": 0.3,
        "weight_decay": 0.05,
        "train_short": (320, 448),
        "train_long": 640,
        "augment": {"crop": 0.5, "colour": 0.3},
    },
)

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in (FCIS_RESNET101, FCIS_RESNET50, FCIS_LITE)}


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are scaled before the network sees them: pixels of the short side, and the limit of the
    long one.
    """

    short_side: int
    long_side: int


@dataclass(frozen=True)
class Loaded:
    """A checkpoint brought to life; `metadata` is the JSON document of its header."""

    network: FCIS
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    preprocessing: Preprocessing
    metadata: dict[str, Any]


def spec_of(name: str) -> ModelSpec:
    """The named model. Raises ConfigError, with the names there are, for an unknown one."""
    if name not in SPECS:
        raise ConfigError(f"there is no model {name!r}; the models are: {', '.join(sorted(SPECS))}")
    return SPECS[name]


def build(
    name: str | ModelSpec,
    num_classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
    pretrained: bool | Path | str = False,
    k: int | None = None,
    joint: bool | None = None,
    sampling: str | None = None,
) -> FCIS:
    """A new network with random heads.

    Args:
        name: a model of `SPECS`, or a specification of one's own.
        num_classes: without background; may be left out when `class_names` is given.
        class_names, category_ids: made up ("class 0", 1, 2, ...) when left out.
        pretrained: for the backbone: True for the published ImageNet weights, a safetensors file in timm's
            naming, or False.
        k, joint, sampling: changes for the paper's ablation: parts along a side (1 is translation invariant),
            joint maps or separate ones, "random" or "ohem".

    Raises:
        ConfigError: the name or the classes make no sense.
        CheckpointError: the pretrained weights cannot be had.
    """
    spec = with_changes(spec_of(name) if isinstance(name, str) else name, k=k, joint=joint, sampling=sampling)
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
    classes = Classes(tuple(class_names), ids)
    backbone = Backbone(spec.backbone, spec.frozen, pretrained)
    rpn = RegionProposalNetwork(backbone.channels[spec.rpn_level], spec.anchors, spec.rpn)
    network = FCIS(backbone, rpn, spec.rpn_level, spec.head, spec.sampling, classes)
    return network.to(memory_format=torch.channels_last)


def with_changes(
    spec: ModelSpec, *, k: int | None = None, joint: bool | None = None, sampling: str | None = None
) -> ModelSpec:
    """`spec` with the given settings of the paper's ablation; None leaves one as it is."""
    head = spec.head
    head = replace(head, k=head.k if k is None else k, joint=head.joint if joint is None else joint)
    if head.k < 1:
        raise ConfigError(f"k, the parts along each side of a window, must be at least 1, not {head.k}")
    method = spec.sampling.method if sampling is None else sampling
    if method not in ("random", "ohem"):
        raise ConfigError(f"sampling is 'random' or 'ohem', not {method!r}")
    return replace(spec, head=head, sampling=replace(spec.sampling, method=cast(Method, method)))


def save_checkpoint(
    path: Path | str,
    weights: Mapping[str, Tensor],
    spec: ModelSpec,
    classes: Classes,
    *,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a checkpoint, atomically.

    Args:
        weights: the network's state dict.
        metrics, training: JSON values to keep with it: figures on the validation split; settings, seed,
            steps, revision.
        half: store filters in half precision (what has one dimension stays in single precision).
    """
    from instancefcn import __version__

    document = {
        "format": FORMAT,
        "model": spec_to_json(spec),
        "class_names": list(classes.names),
        "category_ids": list(classes.ids),
        "preprocessing": {"short_side": spec.short_side, "long_side": spec.long_side},
        "metrics": dict(metrics or {}),
        "training": dict(training or {}),
        "versions": {
            "instancefcn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    tensors = {
        name: tensor.detach()
        .cpu()
        .to(torch.float16 if half and tensor.dim() > 1 else tensor.dtype)
        .contiguous()
        for name, tensor in weights.items()
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(document, allow_nan=False)})


def load_checkpoint(source: Path | str) -> Loaded:
    """A bundled model by name, a checkpoint file, or a run folder (its best checkpoint, else its last).

    Raises:
        CheckpointError: there is no such thing, it is damaged, foreign, or from a newer version.
    """
    path = locate(source)
    document, tensors = _read(path)
    try:
        spec = spec_from_json(document["model"])
        classes = Classes(tuple(document["class_names"]), tuple(document["category_ids"]))
        preprocessing = Preprocessing(**document["preprocessing"])
        network = build(spec, class_names=classes.names, category_ids=classes.ids)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise CheckpointError(f"{path}: the description of the model is damaged: {error!r}") from error
    own = network.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    if missing or extra or wrong:
        raise CheckpointError(
            f"{path}: the tensors do not fit the model: missing {missing[:3]}, unknown {extra[:3]},"
            f" of another shape {wrong[:3]}"
        )
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return Loaded(network.eval(), classes.names, classes.ids, preprocessing, document)


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = files("instancefcn") / "assets" / "models"
    if not folder.is_dir():
        return []
    return sorted(
        entry.name.removesuffix(".safetensors")
        for entry in folder.iterdir()
        if entry.name.endswith(".safetensors")
    )


def locate(source: Path | str) -> Path:
    """The checkpoint file that `source` (name, file or run folder) means. Raises CheckpointError when there
    is none.
    """
    if str(source) in bundled_models():
        return Path(str(files("instancefcn") / "assets" / "models" / f"{source}.safetensors"))
    path = Path(source)
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            f"{path}: this folder holds neither best.safetensors nor last.safetensors; is it a finished run?"
        )
    if path.is_file():
        return path
    known = ", ".join(bundled_models()) or "there are none"
    hint = f" {source} is an architecture: train it first." if str(source) in SPECS else ""
    raise CheckpointError(f"{source}: neither a file, nor a run folder, nor a bundled model ({known}).{hint}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            if header is None:
                raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of instancefcn")
            document = json.loads(header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors checkpoint ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise CheckpointError(
            f"{path}: checkpoint format {found!r}, this version reads format {FORMAT}; update instancefcn"
        )
    return document, tensors


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    document = asdict(replace(spec, training={}))
    del document["training"]
    return document


def spec_from_json(document: dict[str, Any]) -> ModelSpec:
    parts: dict[str, Any] = {
        "anchors": AnchorSpec,
        "rpn": RPNSpec,
        "head": HeadSpec,
        "sampling": SamplingSpec,
    }
    values: dict[str, Any] = {}
    for item in fields(ModelSpec):
        if item.name == "training":
            continue
        value = document[item.name]
        if item.name in parts:
            value = parts[item.name](
                **{key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
            )
        values[item.name] = tuple(value) if isinstance(value, list) else value
    return ModelSpec(**values)
