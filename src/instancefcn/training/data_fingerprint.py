"""What a run trains on, written down, so that a resumed run can tell whether its data changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.errors import CheckpointError, DataError
from instancefcn.files import write_json

FINGERPRINT = "data.json"
"""The file in a run's folder."""


def write_fingerprint(path: Path, splits: Mapping[str, Dataset]) -> None:
    """Write the classes and images of every split, for each image a digest of its size, its file's length and
    its annotations.
    """
    write_json(path, {name: _describe(split) for name, split in splits.items()}, indent=None)


def check_fingerprint(path: Path, splits: Mapping[str, Dataset]) -> None:
    """Compare the splits with what `write_fingerprint` wrote; nothing is compared when there is no file.

    Raises:
        DataError: what changed, by split.
        CheckpointError: the file is damaged.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        problems = [
            f"{name}: {difference}"
            for name in sorted(before.keys() | splits.keys())
            for difference in _differences(
                before.get(name), _describe(splits[name]) if name in splits else None
            )
        ]
    except FileNotFoundError:
        return
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): restore it, or start a new run") from error
    if problems:
        raise DataError(
            "the data changed since the run began, and a resumed run needs the same. Restore them, or start a"
            " new run in another folder. " + "; ".join(problems)
        )


def _describe(split: Dataset) -> dict[str, Any]:
    classes = [[name, id_] for name, id_ in zip(split.class_names, split.category_ids, strict=True)]
    return {"classes": classes, "images": {str(image.path): _digest(image) for image in split.images}}


def _digest(image: ImageRecord) -> str:
    content = (image.id, image.height, image.width, os.path.getsize(image.path), image.annotations)
    return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()


def _differences(before: dict[str, Any] | None, now: dict[str, Any] | None) -> list[str]:
    if before is None or now is None:
        return ["is new" if before is None else "is gone"]
    found = []
    if before["classes"] != now["classes"]:
        found.append(f"the classes were {before['classes']} and are {now['classes']}")
    old, new = before["images"], now["images"]
    for what, names in (
        ("gone", [name for name in old if name not in new]),
        ("new", [name for name in new if name not in old]),
        ("changed (file or annotations)", [name for name in new if name in old and new[name] != old[name]]),
    ):
        if names:
            found.append(
                f"{len(names)} of {len(old)} images {what}: {', '.join(names[:3])}{', ..' * (len(names) > 3)}"
            )
    if not found and list(old) != list(new):
        found.append("the images are in another order")
    return found
