"""Writing files so that a half-written one is never visible."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instancefcn.errors import OutputError

WRITE_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
        errno.EIO,
        errno.EISDIR,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
"""The errno values of errors in writing that a user can fix."""

_TEMPORARY = re.compile(r"\..+-[0-9a-f]{12}~(\.[^.]+)?")


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the block succeeds.

    A missing folder is created. On an error the temporary file is removed and an older `path` is unchanged.
    The temporary name keeps the suffix, which writers such as Pillow and Matplotlib look at;
    `remove_leftovers` finds temporary files by their name.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`. `writable` turns it into an
            OutputError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`: its files are private, and the usual permissions (the umask) can only be read by
    # setting them, which other threads would notice.
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(6)}~{path.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # A failed write() names no file, and the temporary name means nothing to a user.
        if isinstance(error, OSError) and error.filename in (None, temporary, str(temporary)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds, remove it when it
    fails.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}~")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: Path | str) -> list[Path]:
    """Remove the temporary files of a killed process from a folder, and return them. No other process may be
    writing to the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def check_output_folder(folder: Path | str) -> None:
    """Check that a folder is writable or can be created, without creating it: before the work starts.

    Raises:
        OutputError: a file is in the way, or permission is missing.
    """
    folder = existing = Path(folder)
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    if not os.path.isdir(existing):
        reason = f"{existing} is a file" if existing != folder else "it is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"no permission to write to {existing}"
    else:
        return
    raise OutputError(f"{folder}: cannot be written ({reason}): choose another folder with --out")


def check_output_file(path: Path | str) -> None:
    """`check_output_folder` for one file. Raises OutputError also when a folder has its name."""
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: name a file in it with --out")
    check_output_folder(path.parent)


@contextlib.contextmanager
def writable(option: str = "--out") -> Iterator[None]:
    """Turn an OSError of the block (disk full, no permission) into an OutputError that says how to fix it.

    Args:
        option: the command-line option that chose the path.

    Raises:
        OutputError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        fix = "shorten its name" if error.errno == errno.ENAMETOOLONG else "free some space"
        raise OutputError(
            f"{error.filename or 'a result'}: cannot be written ({error.strerror or error}): {fix}, or"
            f" choose another folder with {option}"
        ) from error


def link_or_copy(source: Path | str, target: Path) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def write_json(path: Path | str, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    text = json.dumps(value, indent=indent, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
