"""Export of a model as one file that runs without this package: ONNX, or an exported program of torch.

`graphs.py` has the networks with a fixed number of results, `grids.py` the steps of these. `check.py`
compares a written file with the network before the file gets its name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from instancefcn.errors import ConfigError, ExportError, MissingPackageError
from instancefcn.export.batching import ONE, over_batch
from instancefcn.export.graphs import FCISGraph, InstanceFCNGraph
from instancefcn.files import atomic_write, check_output_file
from instancefcn.geometry.resizing import resized_size
from instancefcn.inference.predictor import Predictor, load
from instancefcn.models.fcis import FCIS, MIN_SCORE
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.version import __version__

if TYPE_CHECKING:
    from instancefcn.export.check import Row

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
KEY = "instancefcn"
"""The key of the model's description (JSON) in the file."""
INPUT, OUTPUTS = "image", ("boxes", "scores", "labels", "masks")
POINTS = 28
"""Along each side of a mask's grid."""
OPSET = 18
PROPOSALS = 100
"""Results of an InstanceFCN, unless another number is asked for."""
BATCHES = (1, 2, 5)
"""Numbers of images in the batches that a file for any number of them is compared with."""
MIN_SIDE, MAX_SIDE = 32, 4096
"""Of images that a dynamic graph takes, in pixels."""


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: the file.
        rows: how far its results are from PyTorch's, one row per image.
    """

    path: Path
    rows: list[Row]


def export_model(
    model: str | Path | Predictor,
    *,
    format: Format = "onnx",
    dynamic: bool = False,
    dynamic_batch: bool = False,
    instances: int | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Write a model as one file that takes an image and gives boxes, scores, labels and masks.

    The file's results are compared with PyTorch's on several images before it gets its name. docs/export.md
    says how to prepare images for it and how to read its results.

    Args:
        model: name of a bundled model, checkpoint file, folder of a run, or what `load` returned for the CPU.
        format: "onnx", or "torch-export" for a file that `torch.export.load` reads.
        dynamic: height and width are free (FCIS only); else they are the model's short and long side.
        dynamic_batch: any number of images of one size at once (ONNX only); the results of each are those
            that it has alone.
        instances: number of objects in the results; unused ones have score 0. None for the maximum number
            that the model finds in an image, or 100 proposals.
        out: the file; None names it after the model, in the current folder.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: a setting is out of range or does not suit the model.
        ExportError: the results differ; the file is not kept.
        OutputError: the file cannot be written.
        MissingPackageError: packages for the format are missing.
    """
    source = Path("model" if isinstance(model, Predictor) else model).absolute()
    # A folder's name has no suffix: lr0.01 and lr0.02 are two runs.
    path = Path(out or (source.name if source.is_dir() else source.stem) + SUFFIXES[format])
    predictor = model if isinstance(model, Predictor) else load(model, device="cpu")
    rows = export(predictor, path, format, dynamic=dynamic, dynamic_batch=dynamic_batch, instances=instances)
    return Exported(path, rows)


def export(
    predictor: Predictor,
    path: Path | str,
    form: Format,
    *,
    dynamic: bool = False,
    dynamic_batch: bool = False,
    instances: int | None = None,
) -> list[Row]:
    """Write a model as a graph of standard operators, and compare its results with the network's on several
    images before the file gets its name.

    The graph takes an image that is already resized, uint8 [1, 3, H, W], RGB. It gives boxes [N, 4] in pixels
    of this image, scores [N], labels [N] and masks [N, 28, 28], probabilities on a grid over each box; see
    docs/export.md.

    Args:
        predictor: a model on the CPU.
        path: the file; an existing one is replaced.
        form: "onnx", or "torch-export" for a file that `torch.export.load` reads.
        dynamic: True for any height and width; otherwise they are the model's short and long side.
        dynamic_batch: True for any number of images of one size (ONNX only): the input is [B, 3, H, W], and
            all results have a first dimension B.
        instances: N, the number of results; those without an object have score 0. None for the maximum number
            of objects that the model finds in an image, or 100 proposals.

    Returns:
        one row per image: how far the file's results are from the network's.

    Raises:
        ConfigError: a setting is not valid, or the model does not support it.
        MissingPackageError: packages for the format are not installed.
        OutputError: the file cannot be written.
        ExportError: the network cannot be written as such a graph, or the results differ; the file is not
            kept.
    """
    from instancefcn.export import check

    missing = missing_packages(form)
    if missing:
        raise MissingPackageError(
            f"export needs {' and '.join(missing)}: install with pip install {' '.join(missing)}"
        )
    if form not in get_args(Format):
        raise ConfigError(f"form must be 'onnx' or 'torch-export', not {form!r}")
    if dynamic_batch and form != "onnx":
        raise ConfigError("a dynamic batch needs the format onnx: a program of torch.export takes one image")
    if instances is None:
        instances = predictor.max_objects if isinstance(predictor.network, FCIS) else PROPOSALS
    if instances < 1:
        raise ConfigError(f"instances must be at least 1, not {instances}")
    check_output_file(path)
    graph = graph_of(predictor, dynamic, instances)
    example = torch.zeros((1, 3, *example_size(predictor, dynamic)), dtype=torch.uint8)
    program = trace_graph(graph, example, dynamic)
    description = json.dumps(describe(predictor, graph, dynamic, dynamic_batch), allow_nan=False)
    with atomic_write(path) as temporary:
        if form == "onnx":
            write_onnx(program, example, dynamic, dynamic_batch, description, temporary)
        else:
            write_program(program, description, temporary)
        run = check.runner(temporary, form)
        if dynamic_batch:
            images = list(check.demo_images(predictor, dynamic=False))
            rows = [row for n in BATCHES for row in check.compare_batch(images[-n:], predictor, graph, run)]
            run = check.alone(run)
        else:
            rows = []
        if dynamic or not dynamic_batch:
            rows += [
                check.compare(name, image, predictor, graph, run)
                for name, image in check.demo_images(predictor, dynamic)
            ]
        problems = [problem for row in rows for problem in row.problems()]
        if problems:
            raise ExportError(
                "the file's results differ from the network's, so it is not kept:\n  "
                + "\n  ".join(problems)
                + "\nAfter little training, many scores are nearly equal and their order is arbitrary: train "
                "the model further"
            )
    return rows


def missing_packages(form: Format) -> list[str]:
    """The packages that this format needs and that are not installed."""
    needed = ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ()
    return [name for name in needed if find_spec(name) is None]


def graph_of(predictor: Predictor, dynamic: bool, instances: int) -> FCISGraph | InstanceFCNGraph:
    """The model's network as a graph in evaluation mode. Raises ConfigError for a dynamic InstanceFCN and for
    converted weights, which are not supported.
    """
    network = predictor.network
    if not isinstance(network, FCIS | InstanceFCN):
        raise ConfigError("converted weights cannot be exported: train fcis_resnet101 for a file to export")
    if isinstance(network, FCIS):
        graph: FCISGraph | InstanceFCNGraph = FCISGraph(network, instances, MIN_SCORE, POINTS)
    elif dynamic:
        raise ConfigError(
            "the levels of an InstanceFCN's pyramid have fixed sizes in a graph: export without --dynamic"
        )
    else:
        graph = InstanceFCNGraph(network, instances, MIN_SCORE, POINTS)
    # The runtime chooses its own order of channels in memory, and another order slows down tracing.
    return graph.to(memory_format=torch.contiguous_format).eval()


def example_size(predictor: Predictor, dynamic: bool) -> tuple[int, int]:
    """(height, width) of the traced image: the only size, unless `dynamic`."""
    short, long = predictor.preprocessing.short_side, predictor.preprocessing.long_side
    # If dynamic, an arbitrary image of about 3 : 4 with odd sides.
    return resized_size(601, 803, short | 1, long | 1) if dynamic else (short, long)


def describe(
    predictor: Predictor, graph: FCISGraph | InstanceFCNGraph, dynamic: bool, dynamic_batch: bool = False
) -> dict[str, Any]:
    """What a program needs to prepare images for the file and to read its results (docs/export.md)."""
    network, preprocessing = graph.network, predictor.preprocessing
    mean = (network.backbone if isinstance(network, FCIS) else network.features).mean
    return {
        "format": 1,
        "version": __version__,
        "model": predictor.metadata.get("model", {}).get("name", ""),
        "class_names": list(predictor.class_names),
        "category_ids": list(predictor.category_ids),
        "preprocessing": {
            "short_side": preprocessing.short_side,
            "long_side": preprocessing.long_side,
            "size": None if dynamic else list(example_size(predictor, dynamic)),
            "padding": [round(255 * value) for value in mean.flatten().tolist()],
        },
        "mask_threshold": graph.threshold,
        "batch": dynamic_batch,
    }


def trace_graph(graph: nn.Module, example: Tensor, dynamic: bool) -> torch.export.ExportedProgram:
    """The graph, traced by `torch.export`. Raises ExportError when it contains operators of this package."""
    with _quiet(), torch.no_grad():
        # Sizes after bilinear upsampling and rounded-up pooling are equal, but torch cannot prove it.
        program = torch.export.export(
            graph,
            (example,),
            dynamic_shapes=_dynamic_shapes(dynamic),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    foreign = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("instancefcn")}
    if foreign:
        raise ExportError(f"the graph contains operators of this package: {sorted(foreign)}")
    return program


def write_onnx(
    program: torch.export.ExportedProgram,
    example: Tensor,
    dynamic: bool,
    dynamic_batch: bool,
    description: str,
    path: Path,
) -> None:
    """Write a traced graph as ONNX. Raises ExportError when it contains operators outside the standard."""
    one = ONE if dynamic_batch else ""
    with _quiet(), torch.no_grad():
        written = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[one + INPUT],
            output_names=[one + name for name in OUTPUTS],
            opset_version=OPSET,
            dynamic_shapes=_dynamic_shapes(dynamic),
        )
    assert written is not None
    foreign = {node.op_type for node in written.model.graph.all_nodes() if node.domain not in ("", "ai.onnx")}
    if foreign or len(written.model.functions):
        raise ExportError(f"the graph contains operators outside the ONNX standard: {sorted(foreign)}")
    written.model.metadata_props[KEY] = description
    written.model.producer_name, written.model.producer_version = "instancefcn", __version__
    if not dynamic_batch:
        written.save(path)
        return
    path.write_bytes(over_batch(written.model_proto, OUTPUTS, INPUT).SerializeToString())


def write_program(program: torch.export.ExportedProgram, description: str, path: Path) -> None:
    """Write a traced graph in torch's own format."""
    with _quiet():
        torch.export.save(program, path, extra_files={KEY: description})


def _dynamic_shapes(dynamic: bool) -> tuple[dict[int, torch.export.Dim]] | None:
    if not dynamic:
        return None
    height, width = (torch.export.Dim(name, min=MIN_SIDE, max=MAX_SIDE) for name in ("height", "width"))
    return ({2: height, 3: width},)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings of tracing that concern torch and torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
