"""Maximum resident size of this process, for the benchmarks."""

from __future__ import annotations

import resource
import sys


def peak() -> float:
    """Maximum resident size of this process so far, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
