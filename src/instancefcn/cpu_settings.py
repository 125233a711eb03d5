"""How torch and Numba use the cores and the memory of this machine, set before they are loaded.

Only the command line does so, for itself and the processes that it starts: `import instancefcn` changes
nothing in a program of which it is a part. docs/speed.md says what such a program can set itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

SPIN = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How long a thread of OpenMP waits actively, for the others or for work, before it sleeps: rounds (about 30
ns) of GNU's OpenMP, which torch for Linux and Numba use; milliseconds of LLVM's and Intel's (macOS, Windows).
The defaults, about 10 and 200 ms, take cores on a busy machine from the threads that are waited for."""
CHOSEN = ("OMP_WAIT_POLICY", *SPIN)
"""Whoever sets one of these has chosen already."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
KEPT = 256 * 2**20
"""Bytes of free memory at the end of the heap that glibc keeps instead of returning them to the system."""
LARGEST_MMAP = 32 * 2**20
"""From this size on a block is mapped by itself: the largest that glibc allows."""


def set_up_cpu() -> None:
    """Let threads of OpenMP wait briefly, and let malloc keep memory that the next step needs again.

    Takes effect where torch and Numba are not loaded yet. What the environment says already stays.
    """
    if not any(name in os.environ for name in CHOSEN):
        os.environ.update(SPIN)
    keep_memory()


def keep_memory() -> None:
    """Let glibc's malloc keep what is freed, within limits.

    A training step frees and takes the same large blocks again. The system would clear them anew each time,
    page by page. Does nothing with other C libraries, or where the environment sets malloc.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP)
    mallopt(TRIM_THRESHOLD, KEPT)
