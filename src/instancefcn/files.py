"""Writing files so that nobody ever sees half of one."""

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

NO_PLACE = frozenset(
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
"""What the system says when a file cannot be written for a reason that the user can mend."""

_TEMPORARY = re.compile(r"\..+-[0-9a-f]{12}~(\.[^.]+)?")


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the block succeeds.

    The folder is created when it is missing. On an error the temporary file is removed and an older `path`
    stays as it was. The temporary name keeps the suffix, so that writers which look at it (Pillow,
    Matplotlib) work; `remove_leftovers` knows it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`: its files are private, and the umask that says what is usual can only be read by
    # setting it, which other threads would notice.
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
        # A failed write() names no file, and nobody knows the temporary one.
        if isinstance(error, OSError) and error.filename in (None, temporary, str(temporary)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which takes that name when the block succeeds and vanishes
    when it fails.
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
    """Remove what `atomic_write` left in a folder when its process was killed; return what was removed. Only
    for a folder that no other process writes to.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def check_place(folder: Path | str) -> None:
    """See to it that a folder can be made (or is there) and written to, without making it: mistakes are to
    show before the work begins.

    Raises:
        OutputError: a file is in the way, or the right is missing.
    """
    folder = place = Path(folder)
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        reason = f"{place} is a file" if place != folder else "it is a file"
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = f"no right to write to {place}" if place != folder else "no right to write to it"
    else:
        return
    raise OutputError(f"{folder}: cannot be written ({reason}): choose another folder with --out")


def check_file(path: Path | str) -> None:
    """As `check_place`, for one file. Raises OutputError also when a folder has its name."""
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: name a file in it with --out")
    check_place(path.parent)


@contextlib.contextmanager
def writable(option: str = "--out") -> Iterator[None]:
    """Turn what keeps a file from being written (no room, no right) into an error that says so. `option` is
    the one that named its place.

    Raises:
        OutputError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        mend = "shorten its name" if error.errno == errno.ENAMETOOLONG else "make room"
        raise OutputError(
            f"{error.filename or 'a result'}: cannot be written ({error.strerror or error}): {mend}, or"
            f" choose another folder with {option}"
        ) from error


def link_or_copy(source: Path | str, target: Path) -> None:
    """A second name for the file, or a copy where the disk does not allow one."""
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def write_json(path: Path | str, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, atomically. NaN and infinity are refused (ValueError): JSON has no word for
    them.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
