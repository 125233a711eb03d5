"""All images of a job, in an order that every restart reproduces, cut into chunks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

import pyarrow as pa
from pyarrow import fs
from pyarrow import parquet as pq

from instancefcn.bulk.storage import absolute, open_filesystem
from instancefcn.data.paths import IMAGE_SUFFIXES
from instancefcn.errors import ImageError
from instancefcn.inference.sources import (
    EMPTY_SOURCE,
    OVERLAY_SUFFIX,
    describe_left_out,
    find_images,
    left_out_of,
)
from instancefcn.inference.threaded_map import threaded_map
from instancefcn.safe_text import writable_text

PARQUET_SUFFIXES = (".parquet", ".pq")
FOOTERS_AHEAD = 64
"""Parquet files whose footers are fetched at once: each waits for its object store."""

SCHEMA = pa.schema(
    [("source", pa.int32()), ("file", pa.string()), ("row", pa.int64()), ("count", pa.int64())]
)
"""One row per piece of a chunk: an image file (`row` is null, `count` is 1), or `count` rows of a Parquet
file from `row` on. `source` is the index of the source that it came from, which tells its file system.
"""


@dataclass
class Listing:
    """The files to read. All lists but `sources` have one entry per file.

    Attributes:
        sources: what was given, with absolute paths.
        source: index of the source that a file came from.
        file: its path or address, without options.
        size: in bytes.
        modified: in nanoseconds since 1970.
        left_out: what the folders hold that is not read, as `describe_left_out` puts it; "" for nothing.
    """

    sources: tuple[str, ...]
    source: list[int] = field(default_factory=list)
    file: list[str] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    modified: list[int] = field(default_factory=list)
    left_out: str = ""

    def digest(self) -> str:
        """SHA-256 of the files, sizes and times, in their order."""
        digest = hashlib.sha256()
        for row in zip(self.source, self.file, self.size, self.modified, strict=True):
            digest.update(f"{row}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def counts(self) -> list[int]:
        """The number of images in each file: the rows of a Parquet file according to its footer, else 1.

        Raises:
            ImageError: a Parquet file cannot be read or holds no images; all of these are named.
        """
        problems: list[str] = []

        def count(index: int) -> int:
            file = self.file[index]
            if not is_parquet(file):
                return 1
            try:
                filesystem, _ = open_filesystem(self.sources[self.source[index]])
                with open_parquet(filesystem, file) as table:
                    image_column(table.schema_arrow, file)
                    return int(table.metadata.num_rows)
            except (OSError, pa.ArrowException) as error:
                problems.append(f"{file}: cannot be read as Parquet ({error})")
            except ImageError as error:
                problems.append(str(error))
            return 0

        if not any(map(is_parquet, self.file)):
            return [1] * len(self.file)
        with closing(threaded_map(count, range(len(self.file)), FOOTERS_AHEAD, threads=16)) as counted:
            counts = list(counted)
        if problems:
            raise ImageError("\n".join(sorted(problems)))
        return counts


def list_images(sources: Sequence[str], own: Callable[[str], bool] | None = None) -> Listing:
    """Find the files of folders, patterns and addresses.

    Local sources are searched as by `find_images`; a folder also gives the Parquet files directly in it.
    An address names a file, a folder or a pattern of `*`, `**` and `[...]` (`?` begins pyarrow's options).

    Args:
        sources: as the user gave them.
        own: whether the job writes a file itself, see `job.own_files`; such files are left out.

    Returns:
        the files in the order of the sources, sorted within each source, without duplicates.

    Raises:
        ImageError: a source gives nothing; all of these are named.
    """
    listing = Listing(tuple(map(absolute, sources)))
    seen: set[str] = set()
    others: list[PurePath] = []
    problems = [] if all(map(str.strip, sources)) else [EMPTY_SOURCE]
    for number, source in enumerate(listing.sources):
        try:
            found = list(_remote(source, others) if "://" in source else _local(source, others))
        except ImageError as error:
            problems.append(str(error))
            continue
        if own is not None:
            found = [one for one in found if not own(one[0])]
            if not found:
                problems.append(f"{source}: holds only results of this job")
        for file, size, modified in found:
            if file not in seen:
                seen.add(file)
                listing.source.append(number)
                listing.file.append(file)
                listing.size.append(size)
                listing.modified.append(modified)
    left_out = [path for path in others if own is None or not own(str(path))]
    listing.left_out = describe_left_out(left_out)
    if problems or not seen:
        raise ImageError("\n".join(problems) or "no source given: name folders, patterns or addresses")
    return listing


def cut(listing: Listing, counts: Sequence[int], chunk: int) -> Iterator[pa.Table]:
    """The pieces of each chunk as a table in SCHEMA; `chunk` images each, fewer in the last."""
    rows: list[tuple[int, str, int | None, int]] = []
    room = chunk
    for source, file, count in zip(listing.source, listing.file, counts, strict=True):
        if not is_parquet(file):
            rows.append((source, file, None, 1))
            room -= 1
        start = 0
        while is_parquet(file) and start < count:
            taken = min(room, count - start)
            rows.append((source, file, start, taken))
            start, room = start + taken, room - taken
            if not room:
                yield _table(rows)
                rows, room = [], chunk
        if not room:
            yield _table(rows)
            rows, room = [], chunk
    if rows:
        yield _table(rows)


def is_parquet(file: str) -> bool:
    """Whether a file is a Parquet file, by its suffix."""
    return file.lower().endswith(PARQUET_SUFFIXES)


def path_on(file: str) -> str:
    """The path of a listed file on its file system."""
    scheme, found, path = file.partition("://")
    return path if found and scheme else file


def open_parquet(filesystem: fs.FileSystem, file: str) -> pq.ParquetFile:
    """Open a listed Parquet file; columns are read in pieces, when needed."""
    return pq.ParquetFile(path_on(file), filesystem=filesystem, pre_buffer=False, buffer_size=2**20)


def image_column(schema: pa.Schema, file: str) -> str:
    """The name of the column of encoded images.

    Raises:
        ImageError: there is no column `image` of bytes, or of a struct with `bytes`.
    """
    kind = schema.field("image").type if "image" in schema.names else None
    if kind is not None and pa.types.is_struct(kind):
        inside = [one.name for one in kind]
        kind = kind.field("bytes").type if "bytes" in inside else None
        name = "image.bytes"
    else:
        name = "image"
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ImageError(
            f"{file}: has no column 'image' with the bytes of image files, only {', '.join(schema.names)}"
        )
    return name


def _local(source: str, others: list[PurePath]) -> Iterator[tuple[str, int, int]]:
    """(file, bytes, nanoseconds since 1970) of each file of a local source; what it leaves out is added to
    `others`.
    """
    path = Path(source)
    others += [file for file in left_out_of(path) if not is_parquet(file.name)]
    tables = []
    if path.is_dir():
        tables = [p for p in path.iterdir() if is_parquet(p.name) and not p.name.startswith(".")]
    images: list[Path] = []
    try:
        images = find_images([source])
    except ImageError:
        if not tables:
            raise
    for found in sorted({*images, *tables}):
        status = found.stat()
        # Arrow's strings are UTF-8: any other name is escaped, not found later, and gets an error row.
        yield writable_text(str(found)), status.st_size, status.st_mtime_ns


def _remote(source: str, others: list[PurePath]) -> list[tuple[str, int, int]]:
    """As `_local`, for an address."""
    filesystem, path = open_filesystem(source)
    scheme = source.split("://", 1)[0]
    magic = re.search(r"[*\[]", path)
    try:
        if magic:
            infos = _matching(filesystem, path, magic.start())
        else:
            infos = filesystem.get_file_info([path])
            if infos[0].type == fs.FileType.Directory:
                inside = filesystem.get_file_info(fs.FileSelector(path))
                infos = [info for info in inside if _is_image(info)]
                files = (info for info in inside if info.type == fs.FileType.File and not _is_image(info))
                others += [PurePosixPath(info.path) for info in files if not info.base_name.startswith(".")]
    except (OSError, pa.ArrowException) as error:
        raise ImageError(f"{source}: cannot be listed ({error})") from error
    found = sorted((info for info in infos if info.type == fs.FileType.File), key=lambda info: info.path)
    if not found:
        raise ImageError(f"{source}: no image and no Parquet file found")
    return [(f"{scheme}://{info.path}", info.size or 0, info.mtime_ns or 0) for info in found]


def _matching(filesystem: fs.FileSystem, pattern: str, magic: int) -> list[fs.FileInfo]:
    from fsspec.utils import glob_translate

    base = pattern[: pattern.rfind("/", 0, magic)]
    matches = re.compile(glob_translate(pattern)).match
    deep = "/" in pattern[magic:] or "**" in pattern
    infos = filesystem.get_file_info(fs.FileSelector(base, recursive=deep, allow_not_found=True))
    return [info for info in infos if matches(info.path)]


def _is_image(info: fs.FileInfo) -> bool:
    name = info.base_name.lower()
    known = PurePosixPath(name).suffix in IMAGE_SUFFIXES or is_parquet(name)
    return known and not name.startswith(".") and not name.endswith(OVERLAY_SUFFIX)


def _table(rows: list[tuple[int, str, int | None, int]]) -> pa.Table:
    return pa.table(dict(zip(SCHEMA.names, map(list, zip(*rows, strict=True)), strict=True)), schema=SCHEMA)
