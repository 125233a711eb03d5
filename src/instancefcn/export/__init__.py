"""A model as one file that runs without this package: ONNX, or torch's own exported program.

`graphs.py` states the networks with results of a fixed count, `grids.py` its steps; `check.py` compares what
was written with the network before it gets its name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from instancefcn.errors import ConfigError, ExportError
from instancefcn.export.graphs import FCISGraph, InstanceFCNGraph
from instancefcn.files import atomic_write, check_file
from instancefcn.geometry.resizing import resized_size
from instancefcn.models.fcis import FCIS, MIN_SCORE
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.version import __version__

if TYPE_CHECKING:
    from instancefcn.export.check import Row
    from instancefcn.inference.predictor import Predictor

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
KEY = "instancefcn"
"""Under this name the description of the model, JSON, stands in the file."""
INPUT, OUTPUTS = "picture", ("boxes", "scores", "labels", "masks")
POINTS = 28
OPSET = 18
SMALLEST, LARGEST = 32, 4096
"""Sides of a picture that a dynamic graph takes, pixels."""


def export(
    predictor: Predictor, path: Path | str, form: Format, *, dynamic: bool = False, instances: int = 100
) -> list[Row]:
    """Write a model as a graph of standard operators, compare its results with the network's on several
    pictures, and only then give the file its name.

    The graph takes uint8 [1, 3, H, W], RGB, a picture already resized, and gives `instances` boxes [N, 4] in
    its pixels, scores [N], labels [N] and masks [N, 28, 28], probabilities on a grid over each box; see
    docs/export.md.

    Args:
        predictor: a model on the CPU.
        path: the file; an older one is replaced.
        form: "onnx", or "torch-export" for a file that `torch.export.load` reads.
        dynamic: height and width are free; else they are the model's short and long side.
        instances: N; places without an object have score 0.

    Returns:
        one row a picture: how far the file's results are from the network's.

    Raises:
        ConfigError: packages are missing, a setting makes no sense, or the file cannot be written.
        ExportError: the network cannot be written so, or the results differ; the file is not kept.
    """
    from instancefcn.export import check

    missing = missing_packages(form)
    if missing:
        raise ConfigError(
            f"export needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )
    if form not in get_args(Format):
        raise ConfigError(f"the format is 'onnx' or 'torch-export', not {form!r}")
    if instances < 1:
        raise ConfigError(f"the graph must give at least 1 object, not {instances}")
    check_file(path)
    graph = graph_of(predictor, dynamic, instances)
    example = torch.zeros((1, 3, *example_size(predictor, dynamic)), dtype=torch.uint8)
    program = trace_graph(graph, example, dynamic)
    description = json.dumps(describe(predictor, graph, dynamic), allow_nan=False)
    with atomic_write(path) as temporary:
        if form == "onnx":
            write_onnx(program, example, dynamic, description, temporary)
        else:
            write_program(program, description, temporary)
        run = check.runner(temporary, form)
        rows = [
            check.compare(name, image, predictor, graph, run)
            for name, image in check.demo_images(predictor, dynamic)
        ]
        problems = [problem for row in rows for problem in row.problems()]
        if problems:
            raise ExportError(
                "the file does not give the network's results and is not kept:\n  "
                + "\n  ".join(problems)
                + "\nHas the network hardly been trained? Then many scores are nearly equal, and their order "
                "is chance: train it further"
            )
    return rows


def missing_packages(form: Format) -> list[str]:
    """The packages that this form needs and that are not installed."""
    wanted = ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ()
    return [name for name in wanted if find_spec(name) is None]


def graph_of(predictor: Predictor, dynamic: bool, instances: int) -> FCISGraph | InstanceFCNGraph:
    """The model's network as a graph, in evaluation mode. Raises ConfigError for a dynamic InstanceFCN and
    for converted weights.
    """
    network = predictor.network
    if not isinstance(network, FCIS | InstanceFCN):
        raise ConfigError("converted weights cannot be exported: train fcis_resnet101 for a file to export")
    if isinstance(network, FCIS):
        graph: FCISGraph | InstanceFCNGraph = FCISGraph(network, instances, MIN_SCORE, POINTS)
    elif dynamic:
        raise ConfigError(
            "the levels of an InstanceFCN's pyramid have fixed sizes in a graph: leave out --dynamic"
        )
    else:
        graph = InstanceFCNGraph(network, instances, MIN_SCORE, POINTS)
    # The order of the channels in memory is the runtime's business, and costs much time while tracing.
    return graph.to(memory_format=torch.contiguous_format).eval()


def example_size(predictor: Predictor, dynamic: bool) -> tuple[int, int]:
    """(height, width) of the picture that is traced: the only one, unless `dynamic`."""
    short, long = predictor.preprocessing.short_side, predictor.preprocessing.long_side
    # A size without meaning, odd both ways, of a picture 3 : 4.
    return resized_size(601, 803, short | 1, long | 1) if dynamic else (short, long)


def describe(predictor: Predictor, graph: FCISGraph | InstanceFCNGraph, dynamic: bool) -> dict[str, Any]:
    """What a program must know that prepares pictures for the file and reads its results (docs/export.md)."""
    network, own = graph.network, predictor.preprocessing
    mean = (network.backbone if isinstance(network, FCIS) else network.features).mean
    return {
        "format": 1,
        "version": __version__,
        "model": predictor.metadata.get("model", {}).get("name", ""),
        "class_names": list(predictor.class_names),
        "category_ids": list(predictor.category_ids),
        "preprocessing": {
            "short_side": own.short_side,
            "long_side": own.long_side,
            "size": None if dynamic else list(example_size(predictor, dynamic)),
            "padding": [round(255 * value) for value in mean.flatten().tolist()],
        },
        "mask_threshold": graph.threshold,
    }


def trace_graph(graph: nn.Module, example: Tensor, dynamic: bool) -> torch.export.ExportedProgram:
    """The graph as torch records it. Raises ExportError when an operator of our own is left in it."""
    with _quiet(), torch.no_grad():
        # Bilinear growing and rounded-up pooling make sizes that are equal, but not to a prover.
        program = torch.export.export(
            graph,
            (example,),
            dynamic_shapes=_free(dynamic),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    own = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("instancefcn")}
    if own:
        raise ExportError(f"operators that only this package knows are left in the graph: {sorted(own)}")
    return program


def write_onnx(
    program: torch.export.ExportedProgram, example: Tensor, dynamic: bool, description: str, path: Path
) -> None:
    """Raises ExportError when an operator is not of the ONNX standard."""
    with _quiet(), torch.no_grad():
        written = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamic_shapes=_free(dynamic),
        )
    assert written is not None
    foreign = {node.op_type for node in written.model.graph.all_nodes() if node.domain not in ("", "ai.onnx")}
    if foreign or len(written.model.functions):
        raise ExportError(f"operators that are not of the ONNX standard are left in the graph: {foreign}")
    written.model.metadata_props[KEY] = description
    written.model.producer_name, written.model.producer_version = "instancefcn", __version__
    written.save(path)


def write_program(program: torch.export.ExportedProgram, description: str, path: Path) -> None:
    with _quiet():
        torch.export.save(program, path, extra_files={KEY: description})


def _free(dynamic: bool) -> tuple[dict[int, Any]] | None:
    if not dynamic:
        return None
    height, width = (torch.export.Dim(name, min=SMALLEST, max=LARGEST) for name in ("height", "width"))
    return ({2: height, 3: width},)


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of what torch and torchvision have to mend between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
