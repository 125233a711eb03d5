"""last.ckpt: everything of a run that changes, saved whole and read without running code from it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from instancefcn.errors import CheckpointError
from instancefcn.files import atomic_write
from instancefcn.safe_text import plain

LAST = "last.ckpt"
PARTS: dict[str, type | tuple[type, ...]] = {
    "seen": int,
    "step": int,
    "rate": float,
    "model": dict,
    "network": dict,
    "average": (dict, type(None)),
    "optimizer": dict,
    "scaler": dict,
    "best": dict,
    "row": dict,
}
"""What a checkpoint holds: batches per process and optimizer steps so far, the last learning rate, the
specification of the network (as `spec_to_json` gives it), state dicts, the best evaluation so far, and the
sums of the unfinished row of log.csv."""


def save_run(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint with the entries of `PARTS`, atomically.

    Raises:
        OSError: the disk is full, or the file cannot be written there.
    """
    content = io.BytesIO()
    torch.save(dict(state), content)  # to memory first: torch does not say why it cannot write to a file
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_run(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        CheckpointError: missing, damaged, or holding more than tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: there is nothing to resume. Start the run without --resume"
        )
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compress, and what is compressed may be huge
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it holds compressed files")
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise ValueError(f"it holds a {type(checkpoint).__name__}")
        if wrong := [name for name, kind in PARTS.items() if not isinstance(checkpoint.get(name), kind)]:
            raise ValueError(f"{', '.join(wrong)} missing or of the wrong kind")
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of a training run, or it is damaged: {error}. Restore it, or start "
            f"another run from the weights of this one: --set init={path.parent}"
        ) from None
    return checkpoint


def check_network(checkpoint: Mapping[str, Any], model: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError unless the checkpoint at `path` is of the network with the specification `model`
    (see `spec_to_json`).
    """
    before, now = _leaves(checkpoint["model"]), _leaves(model)
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        list_ = "; ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed[:5])
        raise CheckpointError(
            f"{path} holds a run of another network: {plain(list_)[:500]}. Was config.json changed, or does "
            "this release define the model otherwise? Resume it with the release that began the run, or "
            f"start a new one from its weights: --set init={path.parent}"
        )


def _leaves(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested JSON objects by their path, such as "head.k"; tuples as lists."""
    leaves: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return leaves
