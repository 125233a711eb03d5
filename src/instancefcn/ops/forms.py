"""Which form of the operators runs: kernels where possible, plain PyTorch elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

try:
    from instancefcn.ops.numba import threads
except ImportError:  # no Numba, or one that does not support the installed NumPy
    HAS_KERNELS = False
else:
    HAS_KERNELS = True

_forced_portable = False
_triton: bool | None = None  # None: not tried yet


@contextmanager
def using(form: Literal["portable", "fastest"]) -> Iterator[None]:
    """Select the operators' form inside the block, for the whole process; "fastest" is the default."""
    global _forced_portable
    if form not in ("portable", "fastest"):
        raise ValueError(f"form must be 'portable' or 'fastest', not {form!r}")
    before, _forced_portable = _forced_portable, form == "portable"
    try:
        yield
    finally:
        _forced_portable = before


def is_portable(device: torch.device) -> bool:
    """Whether operators on `device` run as plain PyTorch."""
    if _forced_portable or torch.compiler.is_exporting():
        return True
    if device.type == "cuda":
        return not has_triton()
    return device.type != "cpu" or not HAS_KERNELS or not threads.usable()


@torch.compiler.assume_constant_result
def has_triton() -> bool:
    """Whether Triton can be imported; tried when maps are first on a GPU, as importing takes a while."""
    global _triton
    if _triton is None:
        try:
            importlib.import_module("instancefcn.ops.triton.voting")  # imports Triton and the operators
        except ImportError:
            _triton = False
        else:
            _triton = True
    return _triton
