"""Results as Parquet: a table of images and one of instances, with one file of each per chunk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import dataset
from pyarrow import parquet as pq

from instancefcn.bulk.storage import Folder
from instancefcn.errors import ConfigError
from instancefcn.instances import Instances

IMAGES_FOLDER, INSTANCES_FOLDER, ATTEMPTS_FOLDER = "images", "instances", "attempts"
"""Subfolders of a job's folder: the results, and the records of chunks in progress."""

IMAGES = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("instances", pa.int32()),
        pa.field("limit_reached", pa.int32()),
        pa.field("error", pa.string()),
    ]
)
"""One row per image. Where `error` says what is wrong, width, height and instances are null. `limit_reached`
is the maximum number of instances where it was reached, so that there may be more, else null.
"""

INSTANCES = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("category_id", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("x1", pa.float32(), nullable=False),
        pa.field("y1", pa.float32(), nullable=False),
        pa.field("x2", pa.float32(), nullable=False),
        pa.field("y2", pa.float32(), nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("rle", pa.string(), nullable=False),
    ]
)
"""One row per instance, numbered from 1, best first. `rle` is COCO's compressed `counts`; its `size` is
(height, width). Boxes are half-open, in pixels of the upright original.
"""


@dataclass(frozen=True)
class Identity:
    """The image of a row: its index in the job, its file, and its id where it has one."""

    image: int
    file: str
    id: str | None = None


@dataclass(frozen=True)
class ImageOutcome:
    """The result for one image: its size (height, width), the columns of its instances, and their maximum
    number where it was reached; or an error, which is `doubtful` when the cause may not be the image.
    """

    error: str | None = None
    doubtful: bool = False
    size: tuple[int, int] | None = None
    limit_reached: int | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)


def outcome_of(instances: Instances) -> ImageOutcome:
    """The columns of one image's instances, masks as run-length encodings."""
    boxes = instances.boxes.tolist()
    return ImageOutcome(
        size=instances.image_size,
        limit_reached=instances.limit_reached,
        columns={
            "number": list(range(1, len(instances) + 1)),
            "class": instances.names,
            "category_id": [instances.category_ids[label] for label in instances.labels.tolist()],
            "score": instances.scores.tolist(),
            **{name: [box[side] for box in boxes] for side, name in enumerate(("x1", "y1", "x2", "y2"))},
            "area": instances.masks.areas().tolist(),
            "rle": [rle["counts"] for rle in instances.rles()],
        },
    )


PART = re.compile(r"part-(\d{6,})\.parquet")
"""The name of a file of results, with the index of its chunk."""


def part_name(folder: str, chunk: int) -> str:
    """The file of a chunk, below the job's folder."""
    return f"{folder}/part-{chunk:06d}.parquet"


def write_chunk(out: Folder, chunk: int, rows: Iterable[tuple[Identity, ImageOutcome]]) -> dict[str, int]:
    """Write a chunk's two files. The file of images comes last and marks the chunk as done.

    Returns:
        the numbers of "images", "instances" and "errors".

    Raises:
        OutputError: a file cannot be written.
    """
    images: list[dict[str, Any]] = []
    instances: dict[str, list[Any]] = {name: [] for name in INSTANCES.names}
    for image, found in rows:
        identity = asdict(image)
        if found.size is None:
            images.append({**identity, "error": found.error})
            continue
        height, width = found.size
        count = len(found.columns["number"])
        whole = {"width": width, "height": height, "instances": count, "limit_reached": found.limit_reached}
        images.append({**identity, **whole})
        for name, value in {**identity, "width": width, "height": height}.items():
            instances[name] += [value] * count
        for name, values in found.columns.items():
            instances[name] += values
    tables = {
        INSTANCES_FOLDER: pa.table(instances, schema=INSTANCES),
        IMAGES_FOLDER: pa.Table.from_pylist(images, schema=IMAGES),
    }
    for folder, table in tables.items():
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        out.write(part_name(folder, chunk), memoryview(content.getvalue()))
    return _counts(tables[IMAGES_FOLDER])


def read_counts(out: Folder, chunk: int) -> dict[str, int] | None:
    """What `write_chunk` returned for a chunk that is done; None for another."""
    name = part_name(IMAGES_FOLDER, chunk)
    if not out.exists(name):
        return None
    with out.open(name) as file:
        return _counts(pq.read_table(file, columns=["instances", "error"]))


def count_results(out: Folder) -> tuple[int, int, int, int]:
    """The numbers of images, instances, errors and images that reached the limit, in all files of a job.

    Raises:
        ConfigError: an image has two rows, or the rows of images say another number of instances.
    """
    tables = {
        name: dataset.dataset(
            [f"{out.path}/{name}/{part}" for part in sorted(out.names(name)) if PART.fullmatch(part)],
            schema=schema,
            filesystem=out.filesystem,
            format="parquet",
        )
        for name, schema in ((IMAGES_FOLDER, IMAGES), (INSTANCES_FOLDER, INSTANCES))
    }
    images = tables[IMAGES_FOLDER].to_table(columns=["image", "instances", "error", "limit_reached"])
    counts, rows = _counts(images), tables[INSTANCES_FOLDER].count_rows()
    different = pc.count_distinct(images["image"]).as_py()
    if different != counts["images"] or counts["instances"] != rows:
        raise ConfigError(
            f"{out.path}: holds {counts['images']} rows for {different} images, and {rows} instances where"
            f" the rows of images say {counts['instances']}: were files copied or deleted there?"
        )
    limited = len(images) - images["limit_reached"].null_count
    return counts["images"], rows, counts["errors"], limited


def _counts(images: pa.Table) -> dict[str, int]:
    return {
        "images": len(images),
        "instances": pc.sum(images["instances"]).as_py() or 0,
        "errors": len(images) - images["error"].null_count,
    }
