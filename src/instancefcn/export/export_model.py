"""`export_model`: a named or loaded model into one file that runs without this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from instancefcn import export as exporting
from instancefcn.export import SUFFIXES, Format
from instancefcn.export.check import Row
from instancefcn.inference.predictor import Predictor, load


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: the file.
        rows: how far its results are from PyTorch's, one row per image.
    """

    path: Path
    rows: list[Row]


def export_model(
    model: str | Path | Predictor,
    *,
    format: Format = "onnx",
    dynamic: bool = False,
    dynamic_batch: bool = False,
    instances: int | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Write a model as one file that takes an image and gives boxes, scores, labels and masks.

    The file's results are compared with PyTorch's on several images before it gets its name. docs/export.md
    says how to prepare images for it and how to read its results.

    Args:
        model: name of a bundled model, checkpoint file, folder of a run, or what `load` returned for the CPU.
        format: "onnx", or "torch-export" for a file that `torch.export.load` reads.
        dynamic: height and width are free (FCIS only); else they are the model's short and long side.
        dynamic_batch: any number of images of one size at once (ONNX only); the results of each are those
            that it has alone.
        instances: number of objects in the results; unused ones have score 0. None for the maximum number
            that the model finds in an image, or 100 proposals.
        out: the file; None names it after the model, in the current folder.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: a setting is out of range or does not suit the model.
        ExportError: the results differ; the file is not kept.
        OutputError: the file cannot be written.
        MissingPackageError: packages for the format are missing.
    """
    source = Path("model" if isinstance(model, Predictor) else model).absolute()
    # A folder's name has no suffix: lr0.01 and lr0.02 are two runs.
    path = Path(out or (source.name if source.is_dir() else source.stem) + SUFFIXES[format])
    predictor = model if isinstance(model, Predictor) else load(model, device="cpu")
    rows = exporting.export(
        predictor, path, format, dynamic=dynamic, dynamic_batch=dynamic_batch, instances=instances
    )
    return Exported(path, rows)
