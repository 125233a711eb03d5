"""Where the time of an inference goes: named stages, which cost nothing unless `listen` is active.

with listen() as seconds:
    predictor("image.jpg")
print(seconds)  # {"resize": 0.002, "backbone": 0.09, ...}
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_listener: dict[str, float] | None = None


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time inside the block as `name`. Stages are not nested, so that their times add up."""
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
    """Yield a dict that collects the seconds of every stage of this process while the block runs. Each stage
    then waits for the GPU at both ends.
    """
    global _listener
    before, _listener = _listener, {}
    try:
        yield _listener
    finally:
        _listener = before


def _compiling() -> bool:
    """Whether `torch.compile` is tracing: it fuses all stages."""
    import torch

    return torch.compiler.is_compiling()


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
