"""Saving and loading models.

A checkpoint is one safetensors file: the tensors, and in its header a JSON document from which the network is
built again and which says where it comes from. Loading a checkpoint never runs code from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from instancefcn.errors import CheckpointError
from instancefcn.files import atomic_write
from instancefcn.limits import MAX_CLASSES, MAX_HEADER_BYTES
from instancefcn.models.head import Classes
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.spec_fields import explain
from instancefcn.models.zoo import SPECS, ModelSpec, ProposalModelSpec
from instancefcn.safe_text import is_name, shown

FORMAT = 2
HEADER = "instancefcn"
SUMS = "SHA256SUMS"
"""The checksums beside the bundled models, as `sha256sum` writes them."""


class StoredSpec(Protocol):
    """The specification of a network in a checkpoint: a validated dataclass (see `spec_fields`) of JSON
    values and of such dataclasses.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str]

    def preprocessing(self) -> Preprocessing:
        """How images are scaled for the network."""

    def network(self, classes: Classes) -> nn.Module:
        """A new network with random weights."""


KINDS: tuple[type[StoredSpec], ...] = (ModelSpec, ProposalModelSpec)


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds; `metadata` is the JSON document of its header."""

    network: nn.Module
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    preprocessing: Preprocessing
    metadata: dict[str, Any]


def save_checkpoint(
    path: Path | str,
    weights: Mapping[str, Tensor],
    spec: StoredSpec,
    classes: Classes,
    *,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a checkpoint atomically.

    Args:
        weights: the network's state dict.
        metrics: JSON values: figures on the validation split.
        training: JSON values: settings, seed, steps, revision.
        half: store filters in half precision; tensors of one dimension stay in single precision.

    Raises:
        OSError: the disk is full, or the file cannot be written.
        ValueError: `metrics` or `training` hold values that JSON does not have, such as NaN.
    """
    from instancefcn.version import __version__

    document = {
        "format": FORMAT,
        "model": spec_to_json(spec),
        "class_names": list(classes.names),
        "category_ids": list(classes.ids),
        "preprocessing": asdict(spec.preprocessing()),
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
        rights = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata={HEADER: json.dumps(document, allow_nan=False)})
            temporary.chmod(rights)  # safetensors replaces the file by a private one
        except SafetensorError as error:
            # A full disk is an OSError here too: "(os error 28)", before safetensors 0.6 "Os { code: 28, ..".
            if system := re.search(r"(?:os error |code: )(\d+)", str(error)):
                raise OSError(int(system[1]), os.strerror(int(system[1]))) from error
            raise


def load_checkpoint(source: Path | str, kinds: Sequence[type[StoredSpec]] = KINDS) -> Loaded:
    """Load a model.

    Args:
        source: the name of a bundled model, a checkpoint file, or the folder of a run (its best checkpoint,
            else its last).
        kinds: the specifications that are accepted.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, of another program or from a newer version.
    """
    path = locate(source)
    if path.parent == bundled_folder():
        check_sum(path)
    document, shapes = _read_head(path)
    try:
        spec = spec_from_json(document["model"], kinds)
        classes = _classes(document["class_names"], document["category_ids"])
        preprocessing = type(spec.preprocessing())(**document["preprocessing"])
        with torch.device("meta"):  # shapes alone: no memory is allocated before the file's tensors fit
            needed = spec.network(classes).state_dict()
    except ValidationError as error:
        raise CheckpointError(f"{path}: the description of the model is damaged: {explain(error)}") from None
    except Exception as error:  # specifications reach deep into other libraries
        raise CheckpointError(f"{path}: the description of the model is damaged: {error!r}") from error
    missing, unknown = sorted(needed.keys() - shapes.keys()), sorted(shapes.keys() - needed.keys())
    wrong = sorted(name for name in needed.keys() & shapes.keys() if list(needed[name].shape) != shapes[name])
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{path}: the tensors do not fit the model: missing {missing[:3]}, unknown {shown(unknown[:3])},"
            f" of another shape {wrong[:3]}"
        )
    network = spec.network(classes)
    network.load_state_dict(_read_tensors(path))
    return Loaded(network.eval(), classes.names, classes.ids, preprocessing, document)


def bundled_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.stem for path in bundled_folder().glob("*.safetensors"))


def bundled_folder() -> Path:
    """The folder of the models in the package."""
    return Path(str(files("instancefcn") / "assets" / "models"))


def check_sum(path: Path) -> None:
    """Raises CheckpointError when the SHA-256 of a bundled model is not in the list beside it."""
    listed = (path.parent / SUMS).read_text(encoding="ascii").split("\n") if path.parent.is_dir() else []
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if f"{found}  {path.name}" not in listed:
        raise CheckpointError(
            f"{path}: damaged, or not the model that belongs to this version (its SHA-256 is {found}): "
            "install instancefcn again"
        )


def locate(source: Path | str) -> Path:
    """The checkpoint file of a bundled model's name, a file or a run folder. Raises CheckpointError when it
    does not exist.
    """
    if str(source) in bundled_models():
        return bundled_folder() / f"{source}.safetensors"
    path = Path(source)
    if source == "":
        raise CheckpointError("the model's name is empty (is a variable not set?)")
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            f"{path}: this folder has neither best.safetensors nor last.safetensors; is it a finished run?"
        )
    if path.is_file():
        return path
    known = ", ".join(bundled_models()) or "none"
    hint = f" {source} is an architecture: train it first." if str(source) in SPECS else ""
    raise CheckpointError(f"{source}: not a file, run folder or bundled model ({known}).{hint}")


def _read_head(path: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The JSON document, and the shapes of the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            if header is None:
                raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of instancefcn")
            if len(header) > MAX_HEADER_BYTES:
                raise ValueError(f"its description has more than {MAX_HEADER_BYTES:,} characters")
            document = json.loads(header)
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors checkpoint ({error}). Pickled checkpoints (.pt, .pth) can "
            "run code and are never loaded"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        fix = "update instancefcn" if isinstance(found, int) and found > FORMAT else "train it again"
        raise CheckpointError(
            f"{path}: checkpoint format {shown(found)}, but this version reads format {FORMAT}: {fix}"
        )
    return document, shapes


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in single precision. Raises CheckpointError when values are not finite real numbers."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_tensor(name)
                if not tensor.is_floating_point():
                    raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, not real numbers")
                tensors[name] = tensor.float()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors checkpoint ({error})") from error
    if broken := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise CheckpointError(f"{path}: {broken[0]} holds values that are not finite: the model is damaged")
    return tensors


def spec_to_json(spec: StoredSpec) -> dict[str, Any]:
    """The specification as JSON values, without its preferred settings of training."""
    document = asdict(spec)
    document.pop("training", None)
    return {"kind": spec.kind, **document}


def spec_from_json(document: Mapping[str, Any], kinds: Sequence[type[StoredSpec]] = KINDS) -> StoredSpec:
    """The specification from the values of `spec_to_json`; fields missing from older documents have defaults.

    Raises:
        KeyError, TypeError: the document is not a specification of one of `kinds`.
        ValidationError: a field is unknown, missing, of another type or out of range.
    """
    values = dict(document)
    cls = {kind.kind: kind for kind in kinds}[values.pop("kind")]
    # From JSON text, as strict validation takes JSON's arrays, but not Python's lists, for tuples.
    return TypeAdapter(cls).validate_json(json.dumps(values))


def _classes(names: object, ids: object) -> Classes:
    """The classes of a document. Raises ValueError when the names or ids are not valid."""
    if (
        not isinstance(names, list)
        or not isinstance(ids, list)
        or not 0 < len(names) == len(ids) <= MAX_CLASSES
    ):
        raise ValueError("class_names and category_ids are not two lists of the same length")
    wrong = [name for name in names if not is_name(name)]
    wrong += [id_ for id_ in ids if not isinstance(id_, int) or isinstance(id_, bool) or abs(id_) >= 2**53]
    if wrong or len(set(ids)) < len(ids):
        raise ValueError(
            f"class_names and category_ids hold {shown(wrong) if wrong else 'the same id twice'}"
        )
    return Classes(tuple(names), tuple(ids))
