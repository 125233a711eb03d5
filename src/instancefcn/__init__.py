"""Instance segmentation with position-sensitive score maps: FCIS and InstanceFCN.

Every verb of the command line is one function with the same options:

    load              a model, ready for use: a `Predictor`
    predict           find, name and outline objects in images and videos
    propose           propose masks of objects of any class
    plan              what `train` would choose for a dataset, and why
    train             train a model on annotated images
    evaluate          measure a model on a split of a dataset
    check             look for errors and doubts in a dataset, and repair them
    convert           write a dataset in another format
    predict_bulk      segment millions of images on a Ray cluster
    time_predict      measure speed on this machine
    export_model      write a model as ONNX or as a program of torch.export
    convert_weights   convert published weights into a checkpoint
    serve             serve the web page and its HTTP API
    label             serve the web page that labels images and trains on them

`Instances` are the objects found in one image, and a `FileResult` holds them for one file. All errors that
a user can fix are subclasses of `InstanceFCNError`: `CheckpointError`, `ConfigError`, `DataError`,
`ExportError`, `ImageError`, `MissingPackageError`, `OutputError` and `TrainingError`.

torch and other large packages are imported when one of these names is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instancefcn.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    ImageError,
    InstanceFCNError,
    MissingPackageError,
    OutputError,
    TrainingError,
)
from instancefcn.version import __version__

if TYPE_CHECKING:
    from instancefcn.bulk.predict_bulk import predict_bulk
    from instancefcn.data.conversion import convert
    from instancefcn.evaluation.dataset_check import check
    from instancefcn.evaluation.run import evaluate
    from instancefcn.export import export_model
    from instancefcn.inference.predict import predict, propose
    from instancefcn.inference.predictor import FileResult, Predictor, load
    from instancefcn.inference.timing import time_predict
    from instancefcn.instances import Instances
    from instancefcn.published.conversion import convert_weights
    from instancefcn.studio import label, serve
    from instancefcn.training.loop import train
    from instancefcn.training.setup import plan

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ExportError",
    "FileResult",
    "ImageError",
    "InstanceFCNError",
    "Instances",
    "MissingPackageError",
    "OutputError",
    "Predictor",
    "TrainingError",
    "__version__",
    "check",
    "convert",
    "convert_weights",
    "evaluate",
    "export_model",
    "label",
    "load",
    "plan",
    "predict",
    "predict_bulk",
    "propose",
    "serve",
    "time_predict",
    "train",
]

_HOME = {
    "FileResult": "instancefcn.inference.predictor",
    "Instances": "instancefcn.instances",
    "Predictor": "instancefcn.inference.predictor",
    "check": "instancefcn.evaluation.dataset_check",
    "convert": "instancefcn.data.conversion",
    "convert_weights": "instancefcn.published.conversion",
    "evaluate": "instancefcn.evaluation.run",
    "export_model": "instancefcn.export",
    "label": "instancefcn.studio",
    "load": "instancefcn.inference.predictor",
    "plan": "instancefcn.training.setup",
    "predict": "instancefcn.inference.predict",
    "predict_bulk": "instancefcn.bulk.predict_bulk",
    "propose": "instancefcn.inference.predict",
    "serve": "instancefcn.studio",
    "time_predict": "instancefcn.inference.timing",
    "train": "instancefcn.training.loop",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'instancefcn' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
