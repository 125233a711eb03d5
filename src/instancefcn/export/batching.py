"""A file for one image as a file for any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

ONE = "one_"
"""What the names of a single image and of its results begin with, within the graph of a batch."""
BATCH = "batch"
"""The name of the first dimension."""


def over_batch(single: onnx.ModelProto, outputs: Sequence[str], name: str) -> onnx.ModelProto:
    """A model that applies another to each image of a batch, by ONNX's `Scan`: the results of an image are
    those that it has alone, to the last digit.

    Args:
        single: takes an image [1, 3, H, W]; the names of its input and outputs begin with `ONE`.
        outputs: names of its outputs, without `ONE`.
        name: of the batch [B, 3, H, W], the input of the result, whose outputs have a first dimension B.
    """
    import onnx
    from onnx import helper

    graph = single.graph
    (image,) = graph.input
    kind, (_, *sides) = image.type.tensor_type.elem_type, _dimensions(image)
    axis = helper.make_tensor(f"{ONE}axis", onnx.TensorProto.INT64, [1], [0])
    body = helper.make_graph(
        [helper.make_node("Unsqueeze", [f"{ONE}slice", axis.name], [image.name]), *graph.node],
        "one_image",
        [helper.make_tensor_value_info(f"{ONE}slice", kind, sides)],
        list(graph.output),
        [*graph.initializer, axis],
        value_info=graph.value_info,
    )
    scan = helper.make_node("Scan", [name], list(outputs), body=body, num_scan_inputs=1)
    results = [
        helper.make_tensor_value_info(own, one.type.tensor_type.elem_type, [BATCH, *_dimensions(one)])
        for own, one in zip(outputs, graph.output, strict=True)
    ]
    images = helper.make_tensor_value_info(name, kind, [BATCH, *sides])
    whole = onnx.ModelProto()
    whole.CopyFrom(single)
    whole.graph.CopyFrom(helper.make_graph([scan], "batch", [images], results))
    onnx.checker.check_model(whole)
    return whole


def _dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    """The sides of a tensor: numbers, and names where they are free."""
    return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
