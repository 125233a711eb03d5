"""Files and folders wherever pyarrow (or else fsspec) finds them: on a disk, `s3://`, `gs://`, `abfs://`, `hdfs://`."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import fs

from instancefcn.data.paths import at_home
from instancefcn.errors import ConfigError, OutputError
from instancefcn.files import atomic_write

WHOLE_OBJECTS = ("s3", "gcs", "abfs")
"""pyarrow's file systems on which an object appears when all of it has arrived."""


def absolute(place: str) -> str:
    """A path from the root of the disk, for processes that run elsewhere; an address as it is."""
    return place if "://" in place else str(at_home(place).absolute())


def open_place(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path on it (of a URI without its options).

    Raises:
        ConfigError: nobody knows such an address, or it cannot be opened.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), absolute(uri)
    scheme = uri.split("://", 1)[0]
    try:
        return fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        if "nrecognized filesystem" not in str(error):
            raise ConfigError(f"{uri}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{uri}: cannot be opened ({error})") from error
    from fsspec.core import url_to_fs

    try:
        other, path = url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{uri}: neither pyarrow nor fsspec reads {scheme}:// here ({error})") from error
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path


class Folder:
    """A folder that is written to as `files.atomic_write` does it: nobody ever sees half of a file.

    Args:
        uri: a path or an address that `open_place` knows. Nothing is created before something is written.
    """

    def __init__(self, uri: str) -> None:
        self.filesystem, self.path = open_place(uri)
        self.local = isinstance(self.filesystem, fs.LocalFileSystem)

    def names(self, below: str) -> set[str]:
        """Names of the files that lie directly in the folder `below` this one; empty where there is none."""
        selector = fs.FileSelector(self._at(below), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return {info.base_name for info in found if info.type == fs.FileType.File}

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        info: fs.FileInfo = self.filesystem.get_file_info(self._at(name))
        return bool(info.type == fs.FileType.File)

    def open(self, name: str) -> pa.NativeFile:
        """The file, for reading anywhere in it. Raises OSError."""
        return self.filesystem.open_input_file(self._at(name))

    def read(self, name: str) -> bytes:
        """All of a file. Raises OSError."""
        with self.open(name) as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write or replace a file, all of it at once.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._at(name)
        try:
            if self.local:
                with atomic_write(path) as temporary:
                    temporary.write_bytes(content)
            else:
                self._send(path, content)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error}): free some space, or choose another"
                " --out"
            ) from error

    def delete(self, name: str) -> None:
        """Remove a file that may have gone already."""
        if self.exists(name):
            self.filesystem.delete_file(self._at(name))

    def _send(self, path: str, content: bytes | memoryview) -> None:
        whole = self.filesystem.type_name in WHOLE_OBJECTS
        if not whole:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        first = path if whole else f"{path}.part"
        with self.filesystem.open_output_stream(first) as stream:
            stream.write(content)
        if not whole:
            self.filesystem.move(first, path)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"
