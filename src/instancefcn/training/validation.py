"""Measuring a network on the validation split while its run continues, and remembering the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

import torch

from instancefcn.data.dataset import Dataset
from instancefcn.evaluation.predictions import Predictions, encode_instances
from instancefcn.inference.predictor import Predictor
from instancefcn.models.checkpoint import Loaded
from instancefcn.models.preprocessing import Preprocessing

DETECTIONS = {
    "mask AP": ("mask", "AP"),
    "mask AP50": ("mask", "AP50"),
    "mask AP75": ("mask", "AP75"),
    "box AP": ("box", "AP"),
}
PROPOSALS = {
    "AR@100": ("proposals", "AR@100"),
    "AR@10": ("proposals", "AR@10"),
    "AR@1000": ("proposals", "AR@1000"),
    "box AR@100": ("proposals", "box", "AR@100"),
}
"""What a run reports and where evaluation keeps it; the first figure tells which weights are the best."""


def predictions_of(
    network: Any,
    dataset: Dataset,
    preprocessing: Preprocessing,
    device: torch.device,
    batch_size: int = 1,
    scale: Mapping[str, Any] | None = None,
) -> dict[int, Predictions]:
    """Predictions by image id, made as `instancefcn eval --precision 32` makes them.

    Args:
        network: called as `FCIS.forward`; left in eval mode.
        batch_size: how many images of the same shape run at once: 1 on a CPU, as only a GPU gains by more.
        scale: from `scale_of`: large images of small objects are read in tiles; None reads all whole.

    Raises:
        ImageError: an image cannot be read.
    """
    loaded = Loaded(network, dataset.class_names, dataset.category_ids, preprocessing, {"training": scale})
    predictor = Predictor(loaded, device)
    together = 1 if device.type == "cpu" else batch_size
    paths = [image.path for image in dataset.images]
    results = predictor.files(paths, score=0.0, batch_size=together, ahead=2 * together)
    found: dict[int, Predictions] = {}
    for image, result in zip(dataset.images, results, strict=True):
        if result.error is not None:
            raise result.error
        assert result.instances is not None
        found[image.id] = encode_instances(result.instances)
    return found


def figures_of(metrics: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """The figures of an evaluation by name; None for one of which the split has no objects.

    Args:
        metrics: what `evaluate_predictions` returned.
        names: DETECTIONS or PROPOSALS.
    """
    whole: Any = metrics
    return {name: reduce(getitem, keys, whole) for name, keys in names.items()}


@dataclass
class BestSoFar:
    """The best evaluation of a run, and the last. Plain values only: it is saved with the run.

    Attributes:
        figure: of the best weights, -1 before any.
        epoch: theirs, 0 before any.
        metrics: theirs, in full.
        last: metrics of the last evaluation.
        without_gain: evaluations in a row that brought no gain.
    """

    figure: float = -1.0
    epoch: int = 0
    metrics: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    without_gain: int = 0

    def judge(self, figure: float | None, metrics: dict[str, Any], epoch: int) -> bool:
        """Whether the weights of `epoch` are the best so far; None: the split has no objects to judge by."""
        self.last = metrics
        if figure is None:
            return False
        gain = figure > self.figure
        self.without_gain = 0 if gain else self.without_gain + 1
        # Of weights that find nothing yet the later ones have trained longer.
        if not gain and not figure == self.figure == 0:
            return False
        self.figure, self.epoch, self.metrics = figure, epoch, metrics
        return True

    def in_vain(self, patience: int) -> bool:
        """Whether that many evaluations in a row brought no gain; a patience of 0 has no end."""
        return 0 < patience <= self.without_gain
