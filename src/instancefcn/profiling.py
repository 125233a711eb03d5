"""Where the time of an inference goes: named stages that cost nothing unless somebody listens.

with listen() as seconds:
    predictor("picture.jpg")
print(seconds)  # {"resize": 0.002, "backbone": 0.09, ...}
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_listener: dict[str, float] | None = None


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The time inside the block counts as `name`. Stages lie beside one another, so that they sum up."""
    if _listener is None or _compiling():
        yield
        return
    seconds, start = _listener, _now()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + _now() - start


@contextmanager
def listen() -> Iterator[dict[str, float]]:
    """Gives a dict that gathers the seconds of every stage of this process while the block runs. Waits for a
    GPU at both ends of a stage.
    """
    global _listener
    before, _listener = _listener, {}
    try:
        yield _listener
    finally:
        _listener = before


def _compiling() -> bool:
    """Inside `torch.compile`, where all stages become one program."""
    import torch

    return torch.compiler.is_compiling()


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
