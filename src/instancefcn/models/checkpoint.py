"""Saving and loading models.

A checkpoint is one safetensors file: the tensors, and in its header one JSON document with all that is needed
to build the network again and to know where it came from. Loading one never runs code from it.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from instancefcn.errors import CheckpointError, ConfigError
from instancefcn.files import atomic_write
from instancefcn.models.fcis import FCIS, Classes, HeadSpec
from instancefcn.models.instance_fcn import InstanceFCN, ProposalSpec
from instancefcn.models.rpn import AnchorSpec, RPNSpec
from instancefcn.models.sampling import SamplingSpec
from instancefcn.models.windows import WindowSpec
from instancefcn.models.zoo import SPECS, AnySpec, ModelSpec, ProposalModelSpec, build

FORMAT = 2
HEADER = "instancefcn"
PARTS = (AnchorSpec, RPNSpec, HeadSpec, SamplingSpec, ProposalSpec, WindowSpec)
KINDS: dict[str, type[AnySpec]] = {"fcis": ModelSpec, "instance_fcn": ProposalModelSpec}


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

    network: FCIS | InstanceFCN
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    preprocessing: Preprocessing
    metadata: dict[str, Any]


def save_checkpoint(
    path: Path | str,
    weights: Mapping[str, Tensor],
    spec: AnySpec,
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

    Raises:
        OSError: the disk is full, or the file cannot be written there.
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
        try:
            save_file(tensors, temporary, metadata={HEADER: json.dumps(document, allow_nan=False)})
        except SafetensorError as error:
            # A full disk is an OSError, whichever library writes.
            # "(os error 28)"; before 0.6 "Os { code: 28, ..".
            if system := re.search(r"(?:os error |code: )(\d+)", str(error)):
                raise OSError(int(system[1]), os.strerror(int(system[1]))) from error
            raise


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
        mend = "update instancefcn" if isinstance(found, int) and found > FORMAT else "train it again"
        raise CheckpointError(
            f"{path}: checkpoint format {found!r}, this version reads format {FORMAT}; {mend}"
        )
    return document, tensors


def spec_to_json(spec: AnySpec) -> dict[str, Any]:
    """The specification as JSON values, without its preferences for training."""
    (kind,) = (name for name, cls in KINDS.items() if type(spec) is cls)
    document = asdict(replace(spec, training={}))
    del document["training"]
    return {"kind": kind, **document}


def spec_from_json(document: dict[str, Any]) -> AnySpec:
    """What `spec_to_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
    cls = KINDS[document["kind"]]
    types: dict[str, Any] = get_type_hints(cls)
    values: dict[str, Any] = {}
    for item in fields(cls):
        if item.name != "training":
            value, wanted = _tuples(document[item.name]), types[item.name]
            values[item.name] = wanted(**value) if wanted in PARTS else value
    return cls(**values)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that specifications hold, also inside an object."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
