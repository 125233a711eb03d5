"""Files of published weights with made-up values: the two formats, written from their description.

`chainer_arrays` is a whole FCIS-ResNet-101 in ChainerCV's naming; `as_official` says the same in the official
code's, arrangement included, by loops that share nothing with `instancefcn.published.conversion`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
UNITS = {2: 3, 3: 4, 4: 23, 5: 3}
TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def chainer_arrays(classes: int, anchors: int, seed: int = 0) -> Arrays:
    """Random values in half precision, on a grid of 1/256; `classes` without background."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}

    def add(name: str, *shape: int, low: int = -8, high: int = 9) -> None:
        arrays[name] = (generator.integers(low, high, shape, dtype=np.int8) / np.float16(256)).astype("f2")

    def convolution(name: str, outputs: int, inputs: int, size: int) -> None:
        add(f"{name}/conv/W", outputs, inputs, size, size)
        add(f"{name}/bn/gamma", outputs, low=16, high=64)
        add(f"{name}/bn/beta", outputs)
        add(f"{name}/bn/avg_mean", outputs)
        add(f"{name}/bn/avg_var", outputs, low=16, high=64)
        arrays[f"{name}/bn/N"] = np.array(0)

    convolution("extractor/conv1", 64, 3, 7)
    inputs = 64
    for stage, units in UNITS.items():
        width = 16 * 2**stage
        for block in range(units):
            place = f"extractor/res{stage}/" + (f"b{block}" if block else "a")
            convolution(f"{place}/conv1", width, inputs, 1)
            convolution(f"{place}/conv2", width, width, 3)
            convolution(f"{place}/conv3", 4 * width, width, 1)
            if block == 0:
                convolution(f"{place}/residual_conv", 4 * width, inputs, 1)
            inputs = 4 * width
    heads = {
        "rpn/conv1": (512, 1024, 3, 3),
        "rpn/score": (2 * anchors, 512, 1, 1),
        "rpn/loc": (4 * anchors, 512, 1, 1),
        "head/conv1": (1024, 2048, 1, 1),
        "head/cls_seg": (98 * (classes + 1), 1024, 1, 1),
        "head/ag_loc": (392, 1024, 1, 1),
    }
    for name, shape in heads.items():
        add(f"{name}/W", *shape)
        add(f"{name}/b", shape[0])
    return arrays


def as_official(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The same network in the official code's names and arrangement."""
    official: Arrays = {}
    for name, values in arrays.items():
        if name.endswith("/bn/N"):
            continue
        layer, kind = name.rsplit("/", 1)
        if layer.startswith("extractor/"):
            official[_official_name(layer, kind)] = values
        else:
            theirs = {
                "rpn/conv1": "rpn_conv_3x3",
                "rpn/score": "rpn_cls_score",
                "rpn/loc": "rpn_bbox_pred",
                "head/conv1": "conv_new_1",
                "head/cls_seg": "fcis_cls_seg",
                "head/ag_loc": "fcis_bbox",
            }[layer]
            ending = "weight" if kind == "W" else "bias"
            official[f"arg:{theirs}_{ending}"] = _rearranged(layer, values)
    return official


def _official_name(layer: str, kind: str) -> str:
    if layer.startswith("extractor/conv1"):
        conv, norm = "conv1", "bn_conv1"
    else:
        found = re.match(r"extractor/res(\d)/(a|b\d+)/(\w+)/", layer)
        assert found is not None
        stage, block, conv = found.groups()
        if stage in "25":
            block = {"a": "a", "b1": "b", "b2": "c"}[block]
        branch = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "residual_conv": "1"}[conv]
        conv, norm = f"res{stage}{block}_branch{branch}", f"bn{stage}{block}_branch{branch}"
    return {
        "W": f"arg:{conv}_weight",
        "gamma": f"arg:{norm}_gamma",
        "beta": f"arg:{norm}_beta",
        "avg_mean": f"aux:{norm}_moving_mean",
        "avg_var": f"aux:{norm}_moving_var",
    }[kind]


def _rearranged(layer: str, values: NDArray[Any]) -> NDArray[Any]:
    """Channel by channel: where the official code has what ChainerCV has at each place."""
    result = np.empty_like(values)
    for place in range(len(values)):
        if layer == "rpn/score":  # pairs of an anchor; all background, then all foreground
            anchor, side = divmod(place, 2)
            there = side * (len(values) // 2) + anchor
        elif layer == "rpn/loc":  # dy, dx, dh, dw; dx, dy, dw, dh
            there = place ^ 1
        elif layer == "head/ag_loc":  # likewise, each with 49 parts
            there = (place // 49 ^ 1) * 49 + place % 49
        else:
            there = place
        result[there] = values[place]
    return result


def write_params(
    path: Path, arrays: Mapping[str, NDArray[Any]], version: int = 2, device: tuple[int, int] = (1, 0)
) -> Path:
    """An MXNet file: `version` 0 is the oldest form, without a mark."""
    with path.open("wb") as file:
        file.write(struct.pack("<QQQ", 0x112, 0, len(arrays)))
        for values in arrays.values():
            file.write(params_array(values, version, device))
        file.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            file.write(struct.pack("<Q", len(name)) + name.encode())
    return path


def params_array(values: NDArray[Any], version: int = 2, device: tuple[int, int] = (1, 0)) -> bytes:
    mark = b"" if version == 0 else struct.pack("<I", 0xF993FAC7 + version)
    storage = struct.pack("<i", 0) if version >= 2 else b""
    side = "I" if version == 0 else "q"
    shape = struct.pack(f"<I{values.ndim}{side}", values.ndim, *values.shape)
    head = struct.pack("<iii", *device, TYPES[str(values.dtype)])
    return mark + storage + shape + head + values.tobytes()
