"""Instance segmentation with position-sensitive score maps (FCIS).

Nothing heavy is imported before one of the names below is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from instancefcn.evaluation import evaluate
    from instancefcn.inference.predictor import load
    from instancefcn.instances import Instances
    from instancefcn.training.loop import train

__all__ = ["Instances", "__version__", "evaluate", "load", "train"]

_HOME = {
    "Instances": "instancefcn.instances",
    "evaluate": "instancefcn.evaluation",
    "load": "instancefcn.inference.predictor",
    "train": "instancefcn.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'instancefcn' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
