"""What a run trains on, written down, so that a resumed run can tell whether its data changed.

Data that moved as a whole are the same: images are known by their paths below the folder that moved.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.errors import CheckpointError, DataError
from instancefcn.files import write_json

FINGERPRINT = "data.json"
"""The file in a run's folder."""
SAMPLE = 4096
"""Bytes of an image file that are compared at its beginning, in its middle and at its end."""


def write_fingerprint(path: Path, splits: Mapping[str, Dataset]) -> None:
    """Write the classes and images of every split, for each image two digests: of its size, its file's length
    and its annotations; and of parts of its file.
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
    return {"classes": classes, "images": {image.path.as_posix(): _digest(image) for image in split.images}}


def _digest(image: ImageRecord) -> str:
    length = os.path.getsize(image.path)
    content = (image.id, image.height, image.width, length, image.annotations)
    parts = hashlib.blake2b(digest_size=8)
    with image.path.open("rb") as file:
        for start in (0, (length - SAMPLE) // 2, length - SAMPLE):
            file.seek(max(0, start))
            parts.update(file.read(SAMPLE))
    return f"{hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()} {parts.hexdigest()}"


def _same(before: str, now: str) -> bool:
    """Whether two digests are of the same image; older runs have only the first of the two."""
    return before in (now, now.partition(" ")[0])


def _where_now(old: Iterable[str], new: Iterable[str]) -> dict[str, str]:
    """The new path of each of the old ones. Where the first path ends as it did, what comes before that end
    has moved, for all paths that begin likewise and are no longer there.
    """
    there, old = set(new), list(old)
    first, now = next(iter(old), "").split("/"), next(iter(new), "").split("/")
    same = 0
    while same < min(len(first), len(now)) and first[-1 - same] == now[-1 - same]:
        same += 1
    begin, end = "/".join(first[: len(first) - same]), "/".join(now[: len(now) - same])
    return {
        path: end + path[len(begin) :] if same and path not in there and path.startswith(begin) else path
        for path in old
    }


def _differences(before: dict[str, Any] | None, now: dict[str, Any] | None) -> list[str]:
    if before is None or now is None:
        return ["is new" if before is None else "is gone"]
    found = []
    if before["classes"] != now["classes"]:
        found.append(f"the classes were {before['classes']} and are {now['classes']}")
    new = now["images"]
    moved = _where_now(before["images"], new)
    old = {moved[path]: digest for path, digest in before["images"].items()}
    for what, names in (
        ("gone", [name for name in old if name not in new]),
        ("new", [name for name in new if name not in old]),
        (
            "changed (file or annotations)",
            [name for name in new if name in old and not _same(old[name], new[name])],
        ),
    ):
        if names:
            found.append(
                f"{len(names)} of {len(old)} images {what}: {', '.join(names[:3])}{', ..' * (len(names) > 3)}"
            )
    if not found and list(old) != list(new):
        found.append("the images are in another order")
    return found
