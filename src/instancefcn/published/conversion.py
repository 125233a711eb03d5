"""Conversion of published FCIS-ResNet-101 weights into checkpoints of this package.

It reads the .params files of the official MXNet code and the .npz files of ChainerCV.
`docs/published-weights.md` says where to get them and what the converted model reproduces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instancefcn.data.formats.voc import VOC_CLASSES
from instancefcn.errors import CheckpointError, ConfigError, OutputError
from instancefcn.models.checkpoint import save_checkpoint
from instancefcn.models.head import Classes
from instancefcn.published.chainer_npz import read_npz
from instancefcn.published.mxnet_params import MAGIC, read_params
from instancefcn.published.network import Published, PublishedSpec
from instancefcn.published.stored_arrays import Stored, refuse
from instancefcn.published.weight_layouts import (
    CHAINERCV_LAYOUT,
    MXNET_LAYOUT,
    Normed,
    WeightLayout,
    convolutions,
    head_shapes,
)

EPSILON = 1e-5
"""Of all batch normalisations except the first."""
FORMATS = "a .params file of the official MXNet code or an .npz file of ChainerCV"


@dataclass(frozen=True)
class Converted:
    """What a conversion found.

    Attributes:
        origin: title of the format.
        variant: title of the dataset.
        classes, anchors: their numbers; classes without background.
        unused: names of arrays in the file that the network does not need.
    """

    origin: str
    variant: str
    classes: int
    anchors: int
    unused: tuple[str, ...]


def convert_weights(source: Path | str, target: Path | str) -> Converted:
    """Write a checkpoint, which `instancefcn.load` takes, from a file of published weights.

    Args:
        source: a .params or .npz file, recognised by its first bytes.
        target: the checkpoint; an existing file is replaced.

    Raises:
        CheckpointError: the file is missing, damaged, or of another network; the message lists all problems.
        ConfigError: `target` is the source.
        OutputError: `target` is a folder.
    """
    source, target = Path(source), Path(target)
    if target.is_dir():
        raise OutputError(f"{target} is a folder: give a file, such as {target / 'fcis.safetensors'}")
    layout, opened = _open(source)
    if target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the file to convert: give the checkpoint another name")
    with opened as stored:
        variant = _recognise(source, layout, stored)
        used = _check(source, layout, variant, stored)
        weights = _weights(source, layout, stored)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {"converted_from": layout.title, "file": source.name, "sha256": digest}
    save_checkpoint(target, weights, variant.spec(layout.published), variant.classes, training=provenance)
    return Converted(
        layout.title,
        variant.title,
        len(variant.classes),
        variant.anchors,
        tuple(sorted(stored.keys() - used)),
    )


def _open(source: Path) -> tuple[WeightLayout, AbstractContextManager[dict[str, Stored]]]:
    """The format of a file, and its arrays."""
    if not source.is_file():
        raise CheckpointError(f"{source}: this file does not exist")
    try:
        with source.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read ({error})") from error
    if head[:8] == MAGIC.to_bytes(8, "little"):
        return MXNET_LAYOUT, read_params(source)
    if head[:4] == b"PK\x03\x04":
        return CHAINERCV_LAYOUT, read_npz(source)
    if head[8:10] == b'{"':
        raise CheckpointError(
            f"{source}: a safetensors file; checkpoints of instancefcn need no conversion, and others are not"
            f" supported: give {FORMATS}"
        )
    what = "the file is empty" if not head else f"unsupported format, beginning with {head[:8]!r}"
    raise CheckpointError(f"{source}: {what}: give {FORMATS}")


def _recognise(source: Path, layout: WeightLayout, stored: Mapping[str, Stored]) -> Variant:
    """The dataset, recognised by the numbers of classes and anchors."""
    telling = [layout.heads[layer] for layer in ("scores", "rpn.logits")]
    missing = [name for names in telling for name in names if name not in stored]
    if missing:
        some = ", ".join(sorted(stored)[:3]) or "none"
        what = f"{', '.join(missing)} missing among {len(stored)} arrays (first: {some})"
        raise refuse(source, [f"not an FCIS-ResNet-101: {what}"])
    biases = [stored[bias].shape for _, bias in telling]
    for variant in VARIANTS:
        shapes = head_shapes(layout, len(variant.classes), variant.anchors)
        if biases == [shapes[bias] for _, bias in telling]:
            return variant
    maps, scores = (shape[0] if len(shape) == 1 else 0 for shape in biases)
    known = "; ".join(f"{v.title}: {len(v.classes)} classes, {v.anchors} anchors" for v in VARIANTS)
    what = f"its heads have {maps / 98 - 1:g} classes and {scores / 2:g} anchors"
    raise refuse(source, [f"not a published network: {what}; the published ones are {known}"])


def _check(source: Path, layout: WeightLayout, variant: Variant, stored: Mapping[str, Stored]) -> set[str]:
    """Compare names, shapes and types with those that the network needs; returns the names."""
    needed = head_shapes(layout, len(variant.classes), variant.anchors)
    for _, names, shape in convolutions(layout):
        needed[names.weight] = shape
        needed |= dict.fromkeys((names.gamma, names.beta, names.mean, names.variance), shape[:1])
    problems = []
    for name, shape in needed.items():
        if name in stored and stored[name].shape != shape:
            problems.append(f"{name} has the shape {stored[name].shape}, not {shape}")
        elif name in stored and stored[name].dtype.kind != "f":
            problems.append(f"{name} holds {stored[name].dtype}, not floating-point numbers")
    problems += [f"{name} is missing" for name in needed if name not in stored]
    if problems:
        raise refuse(source, problems, f"These are not the weights of FCIS-ResNet-101 for {variant.title}.")
    return set(needed)


def _weights(source: Path, layout: WeightLayout, stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The tensors of our network. Raises CheckpointError when values are damaged or not finite."""
    weights: dict[str, Tensor] = {}
    problems: list[str] = []

    def read(name: str) -> NDArray[Any]:
        values = stored[name].read()
        if not np.isfinite(values).all():
            problems.append(f"{name} holds values that are not finite")
        return values

    for ours, names, _ in convolutions(layout):
        epsilon = layout.published.stem_epsilon if names == layout.stem else EPSILON
        weights[f"{ours}.weight"] = _tensor(read(names.weight))
        scale, shift = _frozen(read, names, epsilon, problems)
        weights[f"{ours}.scale"], weights[f"{ours}.shift"] = _tensor(scale), _tensor(shift)
    for ours, (weight, bias) in layout.heads.items():
        weights[f"{ours}.weight"] = _tensor(layout.arrange[ours](read(weight)))
        weights[f"{ours}.bias"] = _tensor(layout.arrange[ours](read(bias)))
    if problems:
        raise refuse(source, problems)
    return weights


def _frozen(
    read: Callable[[str], NDArray[Any]], names: Normed, epsilon: float, problems: list[str]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and shift equal to a batch normalisation with its running statistics, in double precision."""
    gamma, beta, mean, variance = (
        read(name).astype(np.float64) for name in (names.gamma, names.beta, names.mean, names.variance)
    )
    if (variance < 0).any():
        problems.append(f"{names.variance} holds negative variances")
    scale = gamma / np.sqrt(np.abs(variance) + epsilon)
    return scale, beta - mean * scale


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32, order="C"))


_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,"
    " stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,"
    " backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,"
    " baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon,"
    " bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,"
    " potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave,"
    " oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
COCO_CLASSES = tuple(_COCO.split(", "))
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


@dataclass(frozen=True)
class Variant:
    """A dataset of the published networks.

    Attributes:
        title: of the dataset.
        classes: in the published order.
        scales, min_size: see `PublishedSpec`.
    """

    title: str
    classes: Classes
    scales: tuple[float, ...]
    min_size: float

    @property
    def anchors(self) -> int:
        """Their number in a cell: three shapes at each scale."""
        return 3 * len(self.scales)

    def spec(self, published: Published) -> PublishedSpec:
        """The specification of the network for this dataset."""
        return PublishedSpec(published, self.scales, self.min_size)


VARIANTS = (
    Variant("PASCAL VOC", Classes(VOC_CLASSES, tuple(range(1, 21))), (8, 16, 32), 16.0),
    Variant("COCO", Classes(COCO_CLASSES, COCO_IDS), (4, 8, 16, 32), 2.0),
)
