"""The folder of a job: what it is about (`bulk.json`), its model, its list of images, what is done."""

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

from instancefcn.bulk import attempts as journal
from instancefcn.bulk.listing import SCHEMA, Listing, cut, path_on
from instancefcn.bulk.shards import IMAGES_FOLDER, INSTANCES_FOLDER, PART, count_results
from instancefcn.bulk.storage import Folder, absolute, open_place
from instancefcn.errors import ConfigError, ImageError
from instancefcn.inference.predictor import Tile
from instancefcn.version import __version__

FORMAT = 1
MANIFEST, MODEL, LISTING = "bulk.json", "model.safetensors", "listing.parquet"
LARGEST_CHUNK = 512
"""Images of a chunk unless something else is asked for: a minute or two of one core, seconds of a GPU."""
CHUNKS_PER_WORKER = 4
"""In a small job at least so many, so that all workers end at about the same time."""


@dataclass(frozen=True)
class Job:
    """A job whose folder is ready for workers.

    Attributes:
        out: the folder's path (absolute) or address.
        sources: what the images are from; the listing counts them.
        images: how many there are.
        chunk: images of a chunk.
        todo: numbers of the chunks that are not done.
        score, tile: as for `Predictor.files`.
        precision: "32" or "bf16".
    """

    out: str
    sources: tuple[str, ...]
    images: int
    chunk: int
    todo: tuple[int, ...]
    score: float
    tile: Tile
    precision: str = "32"

    @property
    def chunks(self) -> int:
        """How many chunks there are, done or not."""
        return math.ceil(self.images / self.chunk)

    @property
    def images_left(self) -> int:
        """Images in the chunks that are not done."""
        return sum(min(self.chunk, self.images - number * self.chunk) for number in self.todo)


@dataclass(frozen=True)
class Summary:
    """What lies in the folder of a finished job, counted there.

    Attributes:
        images: rows of `images/`.
        instances: rows of `instances/`.
        errors: images of which there is an error instead of results.
        new_images: of these images, those that this call did.
        seconds: that this call took, from the start of the cluster.
        interrupted: how often a chunk was begun and not finished: by a worker that died, or the command.
    """

    images: int
    instances: int
    errors: int
    new_images: int
    seconds: float
    interrupted: int


def own_files(out: str) -> Callable[[str], bool]:
    """What tells the files that a job in `out` writes from images, by their listed paths or addresses:
    `out` may lie among the sources.
    """

    def place(address: str, path: str) -> tuple[str, str]:
        scheme = address.partition("://")[0] if "://" in address else "file"
        return scheme, os.path.realpath(path) if scheme == "file" else path.rstrip("/")

    scheme, top = place(out, open_place(out)[1])
    below = {(scheme, f"{top}/{name}") for name in _FOLDERS}

    def own(file: str) -> bool:
        folder, name = os.path.split(file)
        if _TOP.fullmatch(name):
            return place(folder, path_on(folder)) == (scheme, top)
        return bool(PART.fullmatch(name) or _LEFT.fullmatch(name)) and place(folder, path_on(folder)) in below

    return own


def prepare(
    listing: Listing,
    out: str,
    checkpoint: bytes,
    *,
    model: str,
    score: float,
    tile: Tile = None,
    precision: str = "32",
    keep_precision: bool = False,
    chunk: int | None = None,
    workers: int = 1,
) -> Job:
    """Begin a job, or find one begun earlier in `out`.

    Args:
        listing: what `list_images` found.
        out: path or address of the folder.
        checkpoint: the model's file.
        model: its name, for people.
        score, tile: as for `Predictor.files`.
        precision: "32" or "bf16".
        keep_precision: a job begun earlier has its own.
        chunk: images of a chunk; None takes that of a job begun earlier, else LARGEST_CHUNK or what gives
            every worker CHUNKS_PER_WORKER.

    Raises:
        ImageError: a Parquet file cannot be read or holds no images.
        ConfigError: `out` holds another job (other images, model, settings or version), or foreign results.
    """
    folder = Folder(out)
    wanted: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "listing_sha256": listing.digest(),
        "model_sha256": hashlib.sha256(checkpoint).hexdigest(),
        "score": score,
        "tile": tile,
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
                f"{out}: holds {' and '.join(foreign)} but no {MANIFEST} that says of which job:"
                " choose another --out or empty it"
            )
        manifest = _begin(folder, listing, checkpoint, wanted, model, chunk, workers)
    images, chunk = manifest["images"], manifest["chunk"]
    done = {int(found[1]) for name in folder.names(IMAGES_FOLDER) if (found := PART.fullmatch(name))}
    todo = tuple(number for number in range(math.ceil(images / chunk)) if number not in done)
    return Job(absolute(out), listing.sources, images, chunk, todo, score, tile, manifest["precision"])


def sum_up(job: Job, new_images: int, seconds: float, interrupted: int) -> Summary:
    """Count what lies in the folder of a finished job, and remove what dead workers left.

    Raises:
        ConfigError: an image is missing, or there twice.
    """
    folder = Folder(job.out)
    for below in _FOLDERS:
        for name in folder.names(below):
            if _LEFT.fullmatch(name):
                folder.delete(f"{below}/{name}")
    numbers, instances, errors = count_results(folder)
    if numbers != job.images:
        raise ConfigError(
            f"{job.out}: holds rows of {numbers} images, but the job has {job.images}: was something"
            " deleted or added there? The same command does what is missing"
        )
    return Summary(numbers, instances, errors, new_images, seconds, interrupted)


_TOP = re.compile(rf"({'|'.join(map(re.escape, (MANIFEST, MODEL, LISTING)))})(\.part)?")
"""The job's own files in `out` itself, also half-written."""
_FOLDERS = (IMAGES_FOLDER, INSTANCES_FOLDER, journal.FOLDER)
_LEFT = re.compile(r"\.(part-)?\d{6,}-.+|part-\d{6,}\.parquet\.part|\d{6,}\.json(\.part)?")
"""What dead workers leave: halves of files, and notes on chunks that others have done since."""


def _begin(
    folder: Folder,
    listing: Listing,
    checkpoint: bytes,
    wanted: dict[str, Any],
    model: str,
    chunk: int | None,
    workers: int,
) -> dict[str, Any]:
    """Write model and listing, and then the manifest, with which the job exists."""
    from instancefcn.provenance import versions

    counts = listing.counts()
    images = sum(counts)
    if not images:
        raise ImageError(f"{', '.join(listing.sources)}: no image lies there")
    if chunk is None:
        chunk = min(LARGEST_CHUNK, math.ceil(images / (CHUNKS_PER_WORKER * workers)))
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
        raise ConfigError(f"{out}/{MANIFEST}: is damaged: choose another --out")
    return dict(manifest)


_MEANINGS = {
    "format": "the format of the folder",
    "version": "the version of instancefcn",
    "listing_sha256": "the list of images (files, sizes, times)",
    "model_sha256": "the model",
    "score": "--score",
    "tile": "--tile",
    "precision": "--precision",
    "chunk": "--chunk",
}


def _refuse_changes(manifest: dict[str, Any], wanted: dict[str, Any], out: str) -> None:
    changed = []
    for key, meaning in _MEANINGS.items():
        then, now = manifest.get(key), wanted[key]
        if then != now:
            hashed = key.endswith("_sha256")
            changed.append(meaning if hashed else f"{meaning} ({then} then, {now} now)")
    if changed:
        raise ConfigError(
            f"{out}: holds a job that was begun with something else: {'; '.join(changed)}. Give what it was"
            " begun with, or choose another --out"
        )
