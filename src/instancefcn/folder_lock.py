"""One process at a time writes to a folder of results.

The lock is the operating system's and ends with the process that holds it, however that ends: nothing has to
be cleaned up after a crash. (The package filelock, where there is no such lock, takes a file as one, which a
crash leaves behind.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from instancefcn.errors import OutputError
from instancefcn.files import writable

NAME = ".instancefcn.lock"
"""The file in the folder; its content names the process."""
_LOCKED_BYTE = 2**20
"""Windows locks bytes, and does not let others read these: one behind the content."""


@contextlib.contextmanager
def only_writer(folder: Path | str) -> Iterator[None]:
    """Hold the lock of a folder within the block. The folder is created, and removed if it is still empty
    after the block. On a file system without locks nothing is locked.

    Raises:
        OutputError: another process, or another call in this one, holds the lock; or the folder cannot be
            written to.
    """
    folder = Path(folder)
    new = not folder.exists()
    with writable():
        folder.mkdir(parents=True, exist_ok=True)
        file = _opened(folder / NAME)
    try:
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file: it stays, and locks nothing
            (folder / NAME).unlink()
        os.close(file)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def check_not_locked(folder: Path | str) -> None:
    """Raises OutputError when another process is writing to a folder, which need not exist."""
    path = Path(folder) / NAME
    if path.exists():
        os.close(_opened(path))


def _opened(path: Path) -> int:
    """The file, open and locked. Raises OutputError when another process has locked it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(file):
                holder = os.read(file, 500).decode(errors="replace") or "another process"
                raise OutputError(
                    f"{path.parent}: {holder} is writing to this folder: wait until it has ended, or choose"
                    " another folder with --out"
                )
            # Its last holder may have removed the file after it was opened here.
            if os.path.exists(path) and os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # the file system has no locks
            return True
        return True
