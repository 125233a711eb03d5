"""Arrays of a file, described before their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.errors import CheckpointError

MAX_ARRAYS = 10_000
"""More than any published network has."""
SHOWN = 8
"""Maximum number of problems that a message lists."""


@dataclass(frozen=True)
class Stored:
    """One array: what the file claims, and how to read it.

    Attributes:
        shape, dtype: as the file describes them; no memory is allocated for them yet.
        read: reads and checks the values; raises CheckpointError when they are damaged.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], NDArray[Any]]


def refuse(path: Path, problems: Sequence[str], note: str = "") -> CheckpointError:
    """The error that lists the problems of a file, followed by `note`."""
    shown = list(problems[:SHOWN])
    if len(problems) > SHOWN:
        shown.append(f"and {len(problems) - SHOWN} more")
    text = problems[0] if len(problems) == 1 else "\n  - ".join((f"{len(problems)} problems:", *shown))
    return CheckpointError(f"{path}: {text}" + (f"\n{note}" if note else ""))
