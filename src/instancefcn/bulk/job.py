"""The folder of a job: its manifest `bulk.json`, model and list of images, and the chunks that are done."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from instancefcn.bulk.listing import SCHEMA, Listing, cut, path_on
from instancefcn.bulk.shards import ATTEMPTS_FOLDER, IMAGES_FOLDER, INSTANCES_FOLDER, PART, count_results
from instancefcn.bulk.storage import Folder, absolute, open_filesystem
from instancefcn.errors import ConfigError, ImageError
from instancefcn.inference.predictor import Tile
from instancefcn.version import __version__

FORMAT = 1
MANIFEST, MODEL, LISTING = "bulk.json", "model.safetensors", "listing.parquet"
DEFAULT_CHUNK = 512
"""Images per chunk by default: a minute or two of one core, seconds of a GPU."""
CHUNKS_PER_WORKER = 4
"""At least this many in a small job, so that all workers end at about the same time."""


@dataclass(frozen=True)
class Job:
    """A job whose folder is ready for workers.

    Attributes:
        out: the folder's absolute path or its address.
        sources: what was given as sources; the listing refers to them by index.
        images: number of images.
        chunk: images per chunk.
        todo: indices of the chunks that are not done.
        score, tile, max_objects: as for `Predictor.files`.
        precision: "32" or "bf16".
    """

    out: str
    sources: tuple[str, ...]
    images: int
    chunk: int
    todo: tuple[int, ...]
    score: float
    tile: Tile
    max_objects: int | None = None
    precision: str = "32"

    @property
    def chunks(self) -> int:
        """The number of chunks, done or not."""
        return math.ceil(self.images / self.chunk)

    @property
    def images_left(self) -> int:
        """The number of images in the chunks that are not done."""
        return sum(min(self.chunk, self.images - number * self.chunk) for number in self.todo)


@dataclass(frozen=True)
class Summary:
    """What the folder of a finished job holds, counted in its files.

    Attributes:
        images: rows of `images/`.
        instances: rows of `instances/`.
        errors: images with an error instead of results.
        limited: images in which the maximum number of objects was reached: they may hold more.
        new_images: images that this call processed.
        seconds: duration of this call, from the start of the cluster.
        interrupted: attempts at a chunk that did not finish, because the worker or the command was stopped.
    """

    images: int
    instances: int
    errors: int
    limited: int
    new_images: int
    seconds: float
    interrupted: int


def own_files(out: str) -> Callable[[str], bool]:
    """A function that tells of a listed file whether a job in `out` writes it: `out` may lie in a source."""

    def resolved(address: str, path: str) -> tuple[str, str]:
        scheme = address.partition("://")[0] if "://" in address else "file"
        return scheme, os.path.realpath(path) if scheme == "file" else path.rstrip("/")

    scheme, top = resolved(out, open_filesystem(out)[1])
    below = {(scheme, f"{top}/{name}") for name in _FOLDERS}

    def own(file: str) -> bool:
        folder, name = os.path.split(file)
        if _JOB_FILE.fullmatch(name):
            return resolved(folder, path_on(folder)) == (scheme, top)
        written = PART.fullmatch(name) or _LEFTOVER.fullmatch(name)
        return bool(written) and resolved(folder, path_on(folder)) in below

    return own


def prepare(
    listing: Listing,
    out: str,
    checkpoint: bytes,
    *,
    model: str,
    score: float,
    tile: Tile = None,
    max_objects: int | None = None,
    precision: str = "32",
    keep_precision: bool = False,
    chunk: int | None = None,
    workers: int = 1,
) -> Job:
    """Begin a job, or continue the one in `out`.

    Args:
        listing: what `list_images` found.
        out: path or address of the folder.
        checkpoint: content of the model file.
        model: its name, for people who read the manifest.
        score, tile, max_objects: as for `Predictor.files`.
        precision: "32" or "bf16".
        keep_precision: a job begun earlier keeps its own precision.
        chunk: images per chunk; None takes that of the job in `out`, or for a new job DEFAULT_CHUNK, or less
            so that each worker gets CHUNKS_PER_WORKER chunks.

    Raises:
        ImageError: a Parquet file cannot be read or holds no images.
        ConfigError: `out` holds another job (other images, model, settings or version), or other results.
    """
    folder = Folder(out)
    wanted: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "listing_sha256": listing.digest(),
        "model_sha256": hashlib.sha256(checkpoint).hexdigest(),
        "score": score,
        "tile": tile,
        "max_objects": max_objects,
        "precision": precision,
    }
    if folder.exists(MANIFEST):
        manifest = _read_manifest(folder, out)
        chunk = manifest["chunk"] if chunk is None else chunk
        if keep_precision:
            wanted["precision"] = manifest.get("precision")
        _refuse_changes(manifest, {**wanted, "chunk": chunk}, out)
    else:
        foreign = [name for name in (LISTING, MODEL) if folder.exists(name)]
        foreign += [f"{below}/" for below in _FOLDERS if folder.names(below)]
        if foreign:
            raise ConfigError(
                f"{out}: holds {' and '.join(foreign)}, but no {MANIFEST} that describes their job:"
                " choose another --out or empty it"
            )
        manifest = _begin(folder, listing, checkpoint, wanted, model, chunk, workers)
    images, chunk = manifest["images"], manifest["chunk"]
    done = {int(found[1]) for name in folder.names(IMAGES_FOLDER) if (found := PART.fullmatch(name))}
    todo = tuple(number for number in range(math.ceil(images / chunk)) if number not in done)
    return Job(
        absolute(out),
        listing.sources,
        images,
        chunk,
        todo,
        score,
        tile,
        max_objects,
        manifest["precision"],
    )


def summarise(job: Job, new_images: int, seconds: float, interrupted: int) -> Summary:
    """Count what the folder of a finished job holds, and delete what dead workers left there.

    Raises:
        ConfigError: an image has no row, or two.
    """
    folder = Folder(job.out)
    for below in _FOLDERS:
        for name in folder.names(below):
            if _LEFTOVER.fullmatch(name):
                folder.delete(f"{below}/{name}")
    numbers, instances, errors, limited = count_results(folder)
    if numbers != job.images:
        raise ConfigError(
            f"{job.out}: holds rows for {numbers} images, but the job has {job.images}: were files deleted or"
            " added there? The same command adds what is missing"
        )
    return Summary(numbers, instances, errors, limited, new_images, seconds, interrupted)


_JOB_FILE = re.compile(rf"({'|'.join(map(re.escape, (MANIFEST, MODEL, LISTING)))})(\.part)?")
"""The job's files directly in `out`, also half-written."""
_FOLDERS = (IMAGES_FOLDER, INSTANCES_FOLDER, ATTEMPTS_FOLDER)
_LEFTOVER = re.compile(r"\.(part-)?\d{6,}-.+|part-\d{6,}\.parquet\.part|\d{6,}\.json(\.part)?")
"""What dead workers leave: half-written files, and records of chunks that others have done since."""


def _begin(
    folder: Folder,
    listing: Listing,
    checkpoint: bytes,
    wanted: dict[str, Any],
    model: str,
    chunk: int | None,
    workers: int,
) -> dict[str, Any]:
    """Write the model and the listing, and last the manifest, which makes the folder a job."""
    from instancefcn.provenance import versions

    counts = listing.counts()
    images = sum(counts)
    if not images:
        raise ImageError(f"{', '.join(listing.sources)}: no image found")
    if chunk is None:
        chunk = min(DEFAULT_CHUNK, math.ceil(images / (CHUNKS_PER_WORKER * workers)))
    content = pa.BufferOutputStream()
    with pq.ParquetWriter(content, SCHEMA, compression="zstd", write_statistics=False) as writer:
        for pieces in cut(listing, counts, chunk):
            writer.write_table(pieces, row_group_size=len(pieces))
    folder.write(LISTING, content.getvalue())
    folder.write(MODEL, checkpoint)
    manifest = {
        **wanted,
        "chunk": chunk,
        "images": images,
        "model": model,
        "sources": [source.split("?", 1)[0] for source in listing.sources],  # options may be secret
        "versions": versions(),
    }
    folder.write(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def _read_manifest(folder: Folder, out: str) -> dict[str, Any]:
    try:
        manifest = json.loads(folder.read(MANIFEST))
        whole = isinstance(manifest, dict) and {"chunk", "images"} <= manifest.keys()
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise ConfigError(f"{out}/{MANIFEST}: is damaged: restore it, or choose another --out")
    return dict(manifest)


_MEANINGS = {
    "format": "the format of the folder",
    "version": "the version of instancefcn",
    "listing_sha256": "the list of images (files, sizes, times)",
    "model_sha256": "the model",
    "score": "--score",
    "tile": "--tile",
    "max_objects": "--max-objects",
    "precision": "--precision",
    "chunk": "--chunk",
}


def _refuse_changes(manifest: dict[str, Any], wanted: dict[str, Any], out: str) -> None:
    changed = []
    for key, meaning in _MEANINGS.items():
        before, now = manifest.get(key), wanted[key]
        if before != now:
            hashed = key.endswith("_sha256")
            changed.append(meaning if hashed else f"{meaning} (was {before}, is {now})")
    if changed:
        raise ConfigError(
            f"{out}: holds a job that differs in {'; '.join(changed)}. Restore these, or choose another --out"
        )
