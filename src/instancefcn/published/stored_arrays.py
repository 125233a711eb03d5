"""Arrays of a file that have not been read yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.errors import CheckpointError

MAX_ARRAYS = 10_000
"""More than any such network has."""
SHOWN = 8
"""Problems that a message lists."""


@dataclass(frozen=True)
class Stored:
    """One array: what the file says of it, and how to get it.

    Attributes:
        shape, dtype: as the file's own description has them; nothing has been allocated for them yet.
        read: reads and checks the values; raises CheckpointError when the file is damaged there.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], NDArray[Any]]


def refuse(path: Path, problems: Sequence[str], mend: str = "") -> CheckpointError:
    """The error that lists what is wrong with a file."""
    shown = list(problems[:SHOWN])
    if len(problems) > SHOWN:
        shown.append(f"and {len(problems) - SHOWN} more")
    text = problems[0] if len(problems) == 1 else "\n  - ".join((f"{len(problems)} problems:", *shown))
    return CheckpointError(f"{path}: {text}" + (f"\n{mend}" if mend else ""))
