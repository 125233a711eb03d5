"""Files and folders on all file systems of pyarrow and fsspec: local disks, `s3://`, `gs://`, `abfs://`, `hdfs://`."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import fs

from instancefcn.data.paths import at_home
from instancefcn.errors import ConfigError, OutputError
from instancefcn.files import atomic_write

WHOLE_OBJECTS = ("s3", "gcs", "abfs")
"""pyarrow's file systems on which an object appears only when it is complete."""


def absolute(uri: str) -> str:
    """A local path made absolute, for processes with another working folder; an address as it is."""
    return uri if "://" in uri else str(at_home(uri).absolute())


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path on it, without the URI's options.

    Raises:
        ConfigError: the scheme is not supported, or the address cannot be opened.
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
        raise ConfigError(f"{uri}: pyarrow and fsspec do not support {scheme}:// here ({error})") from error
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path


class Folder:
    """A folder whose files appear whole, as with `files.atomic_write`.

    Args:
        uri: a path or address, as for `open_filesystem`. The folder is created with its first file.
    """

    def __init__(self, uri: str) -> None:
        self.filesystem, self.path = open_filesystem(uri)
        self.local = isinstance(self.filesystem, fs.LocalFileSystem)

    def names(self, below: str) -> set[str]:
        """Names of the files directly in the subfolder `below`; empty when it does not exist."""
        selector = fs.FileSelector(self._at(below), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return {info.base_name for info in found if info.type == fs.FileType.File}

    def exists(self, name: str) -> bool:
        """Whether the file exists."""
        info: fs.FileInfo = self.filesystem.get_file_info(self._at(name))
        return bool(info.type == fs.FileType.File)

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for random access. Raises OSError."""
        return self.filesystem.open_input_file(self._at(name))

    def read(self, name: str) -> bytes:
        """The content of a file. Raises OSError."""
        with self.open(name) as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write or replace a file, whole or not at all.

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
        """Delete a file; nothing happens when it is gone already."""
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
