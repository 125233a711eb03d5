"""Saving and loading models.

A checkpoint is one safetensors file: the tensors, and in its header one JSON document with all that is needed
to build the network again and to know where it came from. Loading one never runs code from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from instancefcn.errors import CheckpointError
from instancefcn.files import atomic_write
from instancefcn.limits import MAX_HEADER_BYTES
from instancefcn.models.head import Classes
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.spec_checks import check_classes, check_spec
from instancefcn.models.zoo import SPECS, ModelSpec, ProposalModelSpec
from instancefcn.safe_text import shown

FORMAT = 2
HEADER = "instancefcn"
SUMS = "SHA256SUMS"
"""Beside the bundled models, as `sha256sum` writes it."""


class StoredSpec(Protocol):
    """What a checkpoint keeps of a network: a dataclass of JSON values, or of dataclasses of them."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str]

    def preprocessing(self) -> Preprocessing:
        """How the network wants pictures scaled."""

    def network(self, classes: Classes) -> nn.Module:
        """A new network, with random weights."""


KINDS: tuple[type[StoredSpec], ...] = (ModelSpec, ProposalModelSpec)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint brought to life; `metadata` is the JSON document of its header."""

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
    """Write a checkpoint, atomically.

    Args:
        weights: the network's state dict.
        metrics, training: JSON values to keep with it: figures on the validation split; settings, seed,
            steps, revision.
        half: store filters in half precision (what has one dimension stays in single precision).

    Raises:
        OSError: the disk is full, or the file cannot be written there.
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
            temporary.chmod(rights)  # safetensors puts a private file in its place
        except SafetensorError as error:
            # A full disk is an OSError, whichever library writes.
            # "(os error 28)"; before 0.6 "Os { code: 28, ..".
            if system := re.search(r"(?:os error |code: )(\d+)", str(error)):
                raise OSError(int(system[1]), os.strerror(int(system[1]))) from error
            raise


def load_checkpoint(source: Path | str, kinds: Sequence[type[StoredSpec]] = KINDS) -> Loaded:
    """A bundled model by name, a checkpoint file, or a run folder (its best checkpoint, else its last).

    Args:
        kinds: the specifications that may be read.

    Raises:
        CheckpointError: there is no such thing, it is damaged, foreign, or from a newer version.
    """
    path = locate(source)
    if path.parent == bundled_folder():
        check_sum(path)
    document, shapes = _read_head(path)
    try:
        spec = spec_from_json(document["model"], kinds)
        check_spec(spec)
        check_classes(document["class_names"], document["category_ids"])
        classes = Classes(tuple(document["class_names"]), tuple(document["category_ids"]))
        preprocessing = type(spec.preprocessing())(**document["preprocessing"])
        preprocessing.check()
        with torch.device("meta"):  # shapes alone: nothing is as large as it says before it fits the file
            wanted = spec.network(classes).state_dict()
    except Exception as error:  # specifications reach deep into other libraries
        raise CheckpointError(f"{path}: the description of the model is damaged: {error!r}") from error
    missing, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    wrong = sorted(name for name in wanted.keys() & shapes.keys() if list(wanted[name].shape) != shapes[name])
    if missing or extra or wrong:
        raise CheckpointError(
            f"{path}: the tensors do not fit the model: missing {missing[:3]}, unknown {shown(extra[:3])},"
            f" of another shape {wrong[:3]}"
        )
    network = spec.network(classes)
    network.load_state_dict(_read_tensors(path))
    return Loaded(network.eval(), classes.names, classes.ids, preprocessing, document)


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in bundled_folder().glob("*.safetensors"))


def bundled_folder() -> Path:
    """Where the models lie that come with the package."""
    return Path(str(files("instancefcn") / "assets" / "models"))


def check_sum(path: Path) -> None:
    """Raises CheckpointError when a bundled model is another file than the list beside it says."""
    listed = (path.parent / SUMS).read_text(encoding="ascii").split("\n") if path.parent.is_dir() else []
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if f"{found}  {path.name}" not in listed:
        raise CheckpointError(
            f"{path}: is damaged, or not the model that came with instancefcn (its SHA-256 is {found}): "
            "install instancefcn again"
        )


def locate(source: Path | str) -> Path:
    """The checkpoint file that `source` (name, file or run folder) means. Raises CheckpointError when there
    is none.
    """
    if str(source) in bundled_models():
        return bundled_folder() / f"{source}.safetensors"
    path = Path(source)
    if source == "":
        raise CheckpointError("the model's name is empty (a variable that is not set?)")
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


def _read_head(path: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The JSON document, and the shapes of the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            if header is None:
                raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of instancefcn")
            if len(header) > MAX_HEADER_BYTES:
                raise ValueError(f"its description has more than {MAX_HEADER_BYTES:,} bytes")
            document = json.loads(header)
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors checkpoint ({error}). Pickled ones (.pt, .pth) are "
            "never loaded: they can run any code"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        mend = "update instancefcn" if isinstance(found, int) and found > FORMAT else "train it again"
        raise CheckpointError(
            f"{path}: checkpoint format {shown(found)}, this version reads format {FORMAT}; {mend}"
        )
    return document, shapes


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """In single precision. Raises CheckpointError for what are no finite real numbers."""
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
        raise CheckpointError(f"{path}: {broken[0]} holds numbers that are not finite: the model is damaged")
    return tensors


def spec_to_json(spec: StoredSpec) -> dict[str, Any]:
    """The specification as JSON values, without its preferences for training."""
    document = asdict(spec)
    document.pop("training", None)
    return {"kind": spec.kind, **document}


def spec_from_json(document: dict[str, Any], kinds: Sequence[type[StoredSpec]] = KINDS) -> StoredSpec:
    """What `spec_to_json` gave; a field of the head that is younger than the document has its default. Raises
    KeyError, TypeError or ValueError for anything else.
    """
    cls: Any = {kind.kind: kind for kind in kinds}[document["kind"]]
    types: dict[str, Any] = get_type_hints(cls)
    values: dict[str, Any] = {}
    for item in fields(cls):
        if item.name != "training":
            value, part = _tuples(document[item.name]), is_dataclass(types[item.name])
            values[item.name] = types[item.name](**value) if part else value
    spec: StoredSpec = cls(**values)
    return spec


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that specifications hold, also inside an object."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
