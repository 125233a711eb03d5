"""The gate to every parallel Numba kernel: a lock, torch's number of threads, and forked processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

SMALL = 1_000_000  # operations: a few tenths of a millisecond

_lock = threading.RLock()
_used = False
_unsafe = False


@contextmanager
def threads(work: int) -> Iterator[None]:
    """Run the block exclusively, with torch's number of threads, or with one if `work` (operations) is small.

    Waking threads takes longer than a small kernel, on a busy machine much longer. Numba's fallback threading
    layer (workqueue) aborts the process when two Python threads launch kernels at the same time, so they take
    turns; each kernel uses all threads anyway.
    """
    global _used
    with _lock:
        _used = True
        given = torch.get_num_threads()
        count = given if work > SMALL else 1
        numba.set_num_threads(max(1, min(count, numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            # Numba's first launch gives OpenMP, and with it torch, all cores.
            if torch.get_num_threads() != given:
                torch.set_num_threads(given)


def usable() -> bool:
    """False in a process forked from one that has launched kernels: GNU OpenMP would abort it."""
    return not _unsafe


def _after_fork() -> None:
    global _lock, _unsafe
    _lock = threading.RLock()  # another thread of the parent may hold the old lock
    _unsafe = _unsafe or _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
