"""The images of one chunk: which they are, fetching their bytes, decoding them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs
from pyarrow import parquet as pq

from instancefcn.bulk.job import LISTING
from instancefcn.bulk.listing import image_column, open_parquet, path_on
from instancefcn.bulk.shards import Head
from instancefcn.bulk.storage import Folder, open_place
from instancefcn.errors import ImageError
from instancefcn.images.decoding import decode_image
from instancefcn.inference.predictor import FileResult

LARGEST_FILE = 2**31
"""Bytes of an image file; MAX_PIXELS at 16 bits and with alpha are less."""
TRIES, PAUSE = 3, 1.0
"""How often a file is asked for that a store does not hand out, and seconds before the second time."""
ROWS = 16
"""Rows of a Parquet file whose images are in memory together."""


class WrongImage(ImageError):
    """Perhaps nothing is wrong with the image: its file could not be fetched."""


@dataclass(frozen=True)
class Pick:
    """One image to read.

    Attributes:
        head: which it is.
        filesystem: has its file, unless the other two say more.
        content: the bytes of an image in a Parquet file.
        error: why there is nothing to read.
    """

    head: Head
    filesystem: fs.FileSystem | None = None
    content: bytes | None = None
    error: ImageError | None = None


class ChunkReader:
    """Knows the job's listing and the file systems of its sources.

    Args:
        out: the job's folder.
        sources: see `Job`.
        chunk: images of a chunk.
    """

    def __init__(self, out: Folder, sources: Sequence[str], chunk: int) -> None:
        self.listing = pq.ParquetFile(out.open(LISTING))
        self.sources, self.chunk = tuple(sources), chunk
        self.filesystems: dict[int, fs.FileSystem] = {}

    def picks(self, chunk: int) -> Iterator[Pick]:
        """The images of a chunk in their order."""
        number = chunk * self.chunk
        for piece in self.listing.read_row_group(chunk).to_pylist():
            filesystem = self._filesystem(piece["source"])
            if piece["row"] is None:
                yield Pick(Head(number, piece["file"]), filesystem)
            else:
                yield from self._rows(number, filesystem, piece["file"], piece["row"], piece["count"])
            number += piece["count"]

    def read(self, pick: Pick) -> FileResult:
        """Fetch and decode one image; what is wrong with it is in the result."""
        file = pick.head.file
        try:
            if pick.error is not None:
                raise pick.error
            content = pick.content
            if content is None:
                assert pick.filesystem is not None
                content = fetch(file, pick.filesystem)
            return FileResult(file, decode_image(content, file), None, None)
        except ImageError as error:
            return FileResult(file, None, None, error)

    def _rows(
        self, number: int, filesystem: fs.FileSystem, file: str, row: int, count: int
    ) -> Iterator[Pick]:
        """The images in `count` rows of a Parquet file; an error for those that are damaged."""

        def failed(begin: int, end: int, fault: Exception) -> Iterator[Pick]:
            for at in range(begin, end):
                error = WrongImage(f"{file}#{at}: cannot be read ({fault})")
                yield Pick(Head(number + at - row, f"{file}#{at}"), error=error)

        try:
            table = open_parquet(filesystem, file)
        except (OSError, pa.ArrowException) as fault:
            yield from failed(row, row + count, fault)
            return
        with table:
            for group, first, begin, end in _groups(table, row, row + count):
                done = begin
                try:
                    for name, content in _contents(table, file, group, begin - first, end - first):
                        head = Head(number + done - row, f"{file}#{done}", name)
                        error = None if content else ImageError(f"{head.file}: there is no image in this row")
                        yield Pick(head, content=content, error=error)
                        done += 1
                except (OSError, pa.ArrowException) as fault:
                    yield from failed(done, end, fault)

    def _filesystem(self, source: int) -> fs.FileSystem:
        if source not in self.filesystems:
            self.filesystems[source] = open_place(self.sources[source])[0]
        return self.filesystems[source]


def fetch(file: str, filesystem: fs.FileSystem) -> bytes:
    """The bytes of a listed file.

    Raises:
        WrongImage: it cannot be had, however often it is tried.
        ImageError: it is too long.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with filesystem.open_input_file(path_on(file)) as stream:
                if stream.size() > LARGEST_FILE:
                    raise ImageError(f"{file}: is longer than {LARGEST_FILE / 2**30:g} GB")
                return bytes(stream.read())
        except (OSError, pa.ArrowException) as error:
            final = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
            if final or attempt == TRIES:
                raise WrongImage(f"{file}: cannot be fetched ({error})") from error
            time.sleep(PAUSE * attempt)
    raise AssertionError("the last attempt returns or raises")


def _groups(table: pq.ParquetFile, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(row group, its first row, first and last + 1 of its rows that are wanted) of rows `begin` to `end`."""
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
    for batch in table.iter_batches(ROWS, row_groups=[group], columns=columns):
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
