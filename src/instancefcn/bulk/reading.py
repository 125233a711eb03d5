"""The images of a chunk: found in the listing, fetched and decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs
from pyarrow import parquet as pq

from instancefcn.bulk.job import LISTING
from instancefcn.bulk.listing import image_column, open_parquet, path_on
from instancefcn.bulk.shards import Identity
from instancefcn.bulk.storage import Folder, open_filesystem
from instancefcn.errors import ImageError
from instancefcn.images.decoding import decode_image
from instancefcn.inference.predictor import FileResult

MAX_FILE_BYTES = 2**31
"""Larger image files are refused; MAX_PIXELS of 16-bit RGBA are smaller."""
TRIES, PAUSE = 3, 1.0
"""How often a file is requested when a store fails, and the seconds before the second request."""
ROWS_AT_ONCE = 16
"""Rows of a Parquet file that are in memory together."""


class FetchError(ImageError):
    """A file could not be fetched; the image itself may be valid."""


@dataclass(frozen=True)
class Entry:
    """One image to read: a file on `filesystem`, the `content` of a row of a Parquet file, or an `error`.

    Attributes:
        identity: which image it is.
        filesystem: of its file.
        content: the encoded image, from a Parquet file.
        error: why it cannot be read.
    """

    identity: Identity
    filesystem: fs.FileSystem | None = None
    content: bytes | None = None
    error: ImageError | None = None


class ChunkReader:
    """Reads the images of chunks, by the job's listing.

    Args:
        out: the job's folder.
        sources: see `Job`.
        chunk: images per chunk.
    """

    def __init__(self, out: Folder, sources: Sequence[str], chunk: int) -> None:
        self.listing = pq.ParquetFile(out.open(LISTING))
        self.sources, self.chunk = tuple(sources), chunk
        self.filesystems: dict[int, fs.FileSystem] = {}

    def entries(self, chunk: int) -> Iterator[Entry]:
        """The images of a chunk, in order."""
        number = chunk * self.chunk
        for piece in self.listing.read_row_group(chunk).to_pylist():
            filesystem = self._filesystem(piece["source"])
            if piece["row"] is None:
                yield Entry(Identity(number, piece["file"]), filesystem)
            else:
                yield from self._rows(number, filesystem, piece["file"], piece["row"], piece["count"])
            number += piece["count"]

    def read(self, entry: Entry) -> FileResult:
        """Fetch and decode one image; an error is part of the result."""
        file = entry.identity.file
        try:
            if entry.error is not None:
                raise entry.error
            content = entry.content
            if content is None:
                assert entry.filesystem is not None
                content = fetch(file, entry.filesystem)
            return FileResult(file, decode_image(content, file), None, None)
        except ImageError as error:
            return FileResult(file, None, None, error)

    def _rows(
        self, number: int, filesystem: fs.FileSystem, file: str, row: int, count: int
    ) -> Iterator[Entry]:
        """The images in `count` rows of a Parquet file from `row` on; errors for rows that cannot be read."""

        def failed(begin: int, end: int, cause: Exception) -> Iterator[Entry]:
            for at in range(begin, end):
                error = FetchError(f"{file}#{at}: cannot be read ({cause})")
                yield Entry(Identity(number + at - row, f"{file}#{at}"), error=error)

        try:
            table = open_parquet(filesystem, file)
        except (OSError, pa.ArrowException) as cause:
            yield from failed(row, row + count, cause)
            return
        with table:
            for group, first, begin, end in _groups(table, row, row + count):
                done = begin
                try:
                    for name, content in _contents(table, file, group, begin - first, end - first):
                        identity = Identity(number + done - row, f"{file}#{done}", name)
                        error = None if content else ImageError(f"{identity.file}: no image in this row")
                        yield Entry(identity, content=content, error=error)
                        done += 1
                except (OSError, pa.ArrowException) as cause:
                    yield from failed(done, end, cause)

    def _filesystem(self, source: int) -> fs.FileSystem:
        if source not in self.filesystems:
            self.filesystems[source] = open_filesystem(self.sources[source])[0]
        return self.filesystems[source]


def fetch(file: str, filesystem: fs.FileSystem) -> bytes:
    """The bytes of a listed file.

    Raises:
        FetchError: it cannot be fetched in TRIES attempts, or is missing.
        ImageError: it is larger than MAX_FILE_BYTES.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with filesystem.open_input_file(path_on(file)) as stream:
                if stream.size() > MAX_FILE_BYTES:
                    raise ImageError(f"{file}: is larger than {MAX_FILE_BYTES / 2**30:g} GiB")
                return bytes(stream.read())
        except (OSError, pa.ArrowException) as error:
            final = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
            if final or attempt == TRIES:
                raise FetchError(f"{file}: cannot be fetched ({error})") from error
            time.sleep(PAUSE * attempt)
    raise AssertionError("the last attempt returns or raises")


def _groups(table: pq.ParquetFile, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(index, its first row, begin and end of its rows to read) of each row group with rows in that range."""
    first = 0
    for group in range(table.num_row_groups):
        after = first + table.metadata.row_group(group).num_rows
        if first < end and begin < after:
            yield group, first, max(begin, first), min(end, after)
        first = after


def _contents(
    table: pq.ParquetFile, file: str, group: int, begin: int, end: int
) -> Iterator[tuple[str | None, bytes | None]]:
    """(id or None, bytes or None) of rows `begin` to `end` of a row group."""
    schema = table.schema_arrow
    column = next((name for name in ("id", "path") if name in schema.names), None)
    columns = [image_column(schema, file), *([] if column is None else [column])]
    position = 0
    for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
        start, stop = max(begin - position, 0), min(end - position, len(batch))
        wanted = batch.slice(min(start, stop), max(stop - start, 0))
        position += len(batch)
        images = wanted.column("image")
        if pa.types.is_struct(images.type):
            images = images.field("bytes")
        names = [None] * len(wanted) if column is None else wanted.column(column).to_pylist()
        for name, content in zip(names, images, strict=True):
            yield None if name is None else str(name), content.as_py()
        if position >= end:
            return
