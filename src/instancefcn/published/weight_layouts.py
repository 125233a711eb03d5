"""Names and arrangement of the network's tensors in the two published formats.

Both have the same layers under different names. In the heads, the order of the channels differs too:

* proposals' scores: MXNet has background of all anchors, then foreground; Chainer a pair for each anchor;
* box deltas: MXNet has dx, dy, dw, dh; Chainer dy, dx, dh, dw;
* score maps: both have class, outside/inside, row part, column part; ours are part, outside/inside, class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.published.caffe_resnet import UNITS, WIDTHS
from instancefcn.published.network import CHAINERCV, MXNET, K, Published

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Normed:
    """A file's names for a convolution without bias and its batch normalisation."""

    weight: str
    gamma: str
    beta: str
    mean: str
    variance: str


@dataclass(frozen=True)
class WeightLayout:
    """Names and arrangement of a format.

    Attributes:
        published: the implementation that it belongs to.
        title: of the format.
        stem: names of the first convolution.
        block: from the stage (2 to 5), the block (from 0) and our name ("conv1", "conv2", "conv3" or
            "shortcut") of a convolution to its names in the file.
        heads: from our name of a layer to the file's names of its weight and bias.
        arrange: from our name of a layer to the function that puts the channels of its weight or bias into
            our order.
    """

    published: Published
    title: str
    stem: Normed
    block: Callable[[int, int, str], Normed]
    heads: dict[str, tuple[str, str]]
    arrange: dict[str, Callable[[Array], Array]]


def convolutions(layout: WeightLayout) -> Iterator[tuple[str, Normed, Shape]]:
    """(our name, the file's names, shape of the weight) of each convolution of the backbone."""
    yield "backbone.stem", layout.stem, (64, 3, 7, 7)
    inputs = 64
    for index, (width, units) in enumerate(zip(WIDTHS, UNITS, strict=True)):
        for block in range(units):
            shapes = {
                "conv1": (width, inputs, 1, 1),
                "conv2": (width, width, 3, 3),
                "conv3": (4 * width, width, 1, 1),
            }
            if block == 0:
                shapes["shortcut"] = (4 * width, inputs, 1, 1)
            for name, shape in shapes.items():
                ours = f"backbone.stages.{index}.{block}.{name}"
                yield ours, layout.block(index + 2, block, name), shape
            inputs = 4 * width


def head_shapes(layout: WeightLayout, classes: int, anchors: int) -> dict[str, Shape]:
    """Shapes of the heads' weights and biases by their names in the file; `classes` without background."""
    weights = {
        "rpn.hidden": (512, 1024, 3, 3),
        "rpn.logits": (2 * anchors, 512, 1, 1),
        "rpn.deltas": (4 * anchors, 512, 1, 1),
        "reduce": (1024, 2048, 1, 1),
        "scores": ((classes + 1) * 2 * K**2, 1024, 1, 1),
        "deltas": (2 * 4 * K**2, 1024, 1, 1),
    }
    shapes: dict[str, Shape] = {}
    for layer, shape in weights.items():
        weight, bias = layout.heads[layer]
        shapes[weight], shapes[bias] = shape, shape[:1]
    return shapes


# -- channels of the heads: functions of weights [channels, ...] and biases [channels] alike


def _same(x: Array) -> Array:
    return x


def _swapped(x: Array) -> Array:
    """dx, dy, dw, dh of every anchor from dy, dx, dh, dw."""
    return x.reshape(-1, 4, *x.shape[1:])[:, [1, 0, 3, 2]].reshape(x.shape)


def _foreground(x: Array) -> Array:
    """The foreground logits of (background, foreground) pairs, by which ChainerCV ranks."""
    return x.reshape(-1, 2, *x.shape[1:])[:, 1]


def _difference(x: Array) -> Array:
    """Foreground minus background: the logit of the foreground's probability."""
    background, foreground = np.split(x.astype(np.float64), 2)
    return foreground - background


def _parts_first(x: Array) -> Array:
    """(row part, column part, outside/inside, class) from (class, outside/inside, row part, column part)."""
    split = x.reshape(-1, 2, K, K, *x.shape[1:])
    return np.moveaxis(split, (2, 3, 1, 0), (0, 1, 2, 3)).reshape(x.shape)


def _foreground_boxes(x: Array) -> Array:
    """(row part, column part, coordinate) from (background/foreground, coordinate, row part, column part)."""
    foreground = x.reshape(2, 4, K, K, *x.shape[1:])[1]
    return np.moveaxis(foreground, 0, 2).reshape(-1, *x.shape[1:])


def _foreground_boxes_swapped(x: Array) -> Array:
    return _swapped(_foreground_boxes(x))


# -- the two formats

_BRANCHES = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}


def _mxnet(conv: str, norm: str) -> Normed:
    return Normed(
        f"arg:{conv}_weight",
        f"arg:{norm}_gamma",
        f"arg:{norm}_beta",
        f"aux:{norm}_moving_mean",
        f"aux:{norm}_moving_var",
    )


def _mxnet_block(stage: int, block: int, name: str) -> Normed:
    """Blocks are a, b, c in stages of three, otherwise a, b1, b2, ..."""
    letter = "abc"[block] if block == 0 or UNITS[stage - 2] == 3 else f"b{block}"
    layer = f"{stage}{letter}_{_BRANCHES[name]}"
    return _mxnet(f"res{layer}", f"bn{layer}")


def _chainer(layer: str) -> Normed:
    return Normed(
        f"{layer}/conv/W",
        f"{layer}/bn/gamma",
        f"{layer}/bn/beta",
        f"{layer}/bn/avg_mean",
        f"{layer}/bn/avg_var",
    )


def _chainer_block(stage: int, block: int, name: str) -> Normed:
    letter = f"b{block}" if block else "a"
    return _chainer(f"extractor/res{stage}/{letter}/{'residual_conv' if name == 'shortcut' else name}")


MXNET_LAYOUT = WeightLayout(
    published=MXNET,
    title="the official MXNet code's .params",
    stem=_mxnet("conv1", "bn_conv1"),
    block=_mxnet_block,
    heads={
        ours: (f"arg:{theirs}_weight", f"arg:{theirs}_bias")
        for ours, theirs in {
            "rpn.hidden": "rpn_conv_3x3",
            "rpn.logits": "rpn_cls_score",
            "rpn.deltas": "rpn_bbox_pred",
            "reduce": "conv_new_1",
            "scores": "fcis_cls_seg",
            "deltas": "fcis_bbox",
        }.items()
    },
    arrange={
        "rpn.hidden": _same,
        "rpn.logits": _difference,
        "rpn.deltas": _same,
        "reduce": _same,
        "scores": _parts_first,
        "deltas": _foreground_boxes,
    },
)

CHAINERCV_LAYOUT = WeightLayout(
    published=CHAINERCV,
    title="ChainerCV's .npz",
    stem=_chainer("extractor/conv1"),
    block=_chainer_block,
    heads={
        ours: (f"{theirs}/W", f"{theirs}/b")
        for ours, theirs in {
            "rpn.hidden": "rpn/conv1",
            "rpn.logits": "rpn/score",
            "rpn.deltas": "rpn/loc",
            "reduce": "head/conv1",
            "scores": "head/cls_seg",
            "deltas": "head/ag_loc",
        }.items()
    },
    arrange={
        "rpn.hidden": _same,
        "rpn.logits": _foreground,
        "rpn.deltas": _swapped,
        "reduce": _same,
        "scores": _parts_first,
        "deltas": _foreground_boxes_swapped,
    },
)
