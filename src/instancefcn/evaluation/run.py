"""Evaluating a model on a split, and predictions however they were made."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instancefcn.console import progress
from instancefcn.data.dataset import OBJECT, Dataset, Picture
from instancefcn.data.images import read_image
from instancefcn.data.layout import describe, open_dataset
from instancefcn.errors import DataError
from instancefcn.evaluation.coco import CocoResult, CocoScorer
from instancefcn.evaluation.encoded import Predictions, encode
from instancefcn.evaluation.proposals import ProposalResult, measure_proposals
from instancefcn.evaluation.report import plot_precision_recall, plot_recall
from instancefcn.evaluation.review import write_review
from instancefcn.evaluation.voc import voc_map
from instancefcn.files import write_json
from instancefcn.instances import Instances

if TYPE_CHECKING:
    from torch import Tensor

    from instancefcn.inference.predictor import Predictor

WARM_UP = 2
"""Pictures that are run before the clock starts: kernels are compiled and memory is laid out then."""


def evaluate(
    data: Path | str, model: str | Path | Predictor, *, split: str = "val", out: Path | str | None = None
) -> dict[str, Any]:
    """Measure a model on one split of a dataset. A model whose one class is "object" is measured on all
    annotations, whatever their class (`Dataset.as_objects`).

    Args:
        data: a folder or YAML file of any layout in docs/data.md, such as SPLIT.json (COCO) with images/.
        model: name of a bundled model, checkpoint, run folder, or what `instancefcn.load` returned.
        split: which file; no other need exist.
        out: a folder for metrics.json, precision-recall curves, recall of proposals and sheets of the best
            and the worst pictures; None writes nothing.

    Returns:
        {"mask": {"AP", "AP50", "AP75", "APs", "APm", "APl"}, "box": likewise, "voc": {"mAP50", "mAP70"},
        "proposals": {"AR@10", "AR@100", "AR@1000", "ARs", "ARm", "ARl", "box": {the same six}},
        "per_class": {name: {"mask": {...}, "box": {...}}}, "images", "seconds_per_image"}. Figures are 0 to
        1, None where the data holds no such object. The figures of proposals are of masks unless under "box",
        and do not look at classes. The seconds are of resizing, network, voting and masks; decoding the file
        is left out.

    Raises:
        DataError: the split is missing or damaged, or its classes are not the model's.
        CheckpointError: there is no such model.
    """
    from instancefcn.inference.predictor import Predictor, load

    predictor = model if isinstance(model, Predictor) else load(model)
    print(describe(data), file=sys.stderr, flush=True)
    dataset = open_dataset(data, split)
    if predictor.class_names == (OBJECT,) and dataset.class_names != (OBJECT,):
        dataset = dataset.as_objects()
    check_classes(dataset, predictor.class_names)
    found: dict[int, Predictions] = {}
    seconds = 0.0
    for picture in _with_progress(dataset):
        image = read_image(picture.path)
        if not found:
            for _ in range(WARM_UP):
                predictor.run([image])
        started = time.perf_counter()
        (instances,) = predictor.run([image])
        seconds += time.perf_counter() - started
        found[picture.id] = encode(in_order_of(dataset, instances))
    metrics, masks, proposals = _measure(dataset, found)
    metrics["seconds_per_image"] = round(seconds / max(len(dataset), 1), 4)
    if out is not None:
        folder = Path(out)
        write_json(folder / "metrics.json", metrics)
        plot_precision_recall(masks, dataset.class_names, folder / "precision_recall.png")
        plot_recall(proposals, folder / "recall.png")
        write_review(dataset, found, folder)
    return metrics


def evaluate_predictions(dataset: Dataset, found: Mapping[int, Predictions]) -> dict[str, Any]:
    """What `evaluate` returns, without the seconds, for predictions that are there already.

    Args:
        found: picture id to instances in that picture's pixels, with the dataset's classes.
    """
    return _measure(dataset, found)[0]


def _measure(
    dataset: Dataset, found: Mapping[int, Predictions]
) -> tuple[dict[str, Any], CocoResult, ProposalResult]:
    scorer = CocoScorer(dataset)
    masks, boxes = scorer.score(found, "mask"), scorer.score(found, "box")
    voc = voc_map(dataset, found)
    proposals = measure_proposals(dataset, found)
    metrics = {
        "mask": masks.summary,
        "box": boxes.summary,
        "voc": {"mAP50": voc[0.5], "mAP70": voc[0.7]},
        "proposals": proposals.summary,
        "per_class": {
            name: {"mask": masks.per_class[name], "box": boxes.per_class[name]} for name in masks.per_class
        },
        "images": len(dataset),
    }
    return metrics, masks, proposals


def check_classes(dataset: Dataset, names: tuple[str, ...]) -> None:
    """Raise DataError unless the dataset's classes are all known to a model with these class names."""
    unknown = [name for name in dataset.class_names if name not in names]
    if unknown:
        raise DataError(
            f"{dataset.name}: the model does not know {', '.join(unknown)}; it knows {', '.join(names)}."
            " Evaluate a model that was trained on these classes, or rename them"
        )


def in_order_of(dataset: Dataset, instances: Instances) -> Instances:
    """`instances` with the dataset's labels and ids, classes matched by name; those of classes it does not
    have are left out.
    """
    if instances.class_names == dataset.class_names and instances.category_ids == dataset.category_ids:
        return instances
    import torch

    place = {name: label for label, name in enumerate(dataset.class_names)}
    table = torch.tensor([place.get(name, -1) for name in instances.class_names], dtype=torch.int64)
    labels: Tensor = table[instances.labels]
    kept = instances[labels >= 0]
    return Instances(
        kept.boxes,
        kept.scores,
        labels[labels >= 0],
        kept.masks,
        dataset.class_names,
        dataset.category_ids,
        kept.source,
    )


def _with_progress(dataset: Dataset) -> Iterator[Picture]:
    """The pictures, while progress is shown."""
    with progress() as show:
        for done, picture in enumerate(dataset.pictures):
            show(f"evaluating {dataset.name}", done, len(dataset))
            yield picture
