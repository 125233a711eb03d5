"""Evaluation of a model on a split, and of predictions from any source."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from instancefcn import processes
from instancefcn.console import progress
from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.doctor.checked_data import Finding
from instancefcn.data.doctor.examine import FOR_FIGURES, Report, examine
from instancefcn.data.doctor.report import brief, left_out
from instancefcn.data.formats.layouts import describe_layout, open_dataset
from instancefcn.errors import DataError, InstanceFCNError, OutputError
from instancefcn.evaluation.coco import CocoResult, CocoScorer, attainable
from instancefcn.evaluation.predictions import Predictions, encode_instances
from instancefcn.evaluation.proposals import ProposalResult, measure_proposals
from instancefcn.evaluation.report import plot_precision_recall, plot_recall
from instancefcn.evaluation.review import write_review
from instancefcn.evaluation.voc import voc_map
from instancefcn.files import check_output_folder, writable, write_json
from instancefcn.images.decoding import read_image
from instancefcn.inference.predictor import DEFAULT_SCORE, Predictor, Tile, load
from instancefcn.inference.writers import DETECTIONS_NAME
from instancefcn.instances import OBJECT, Instances
from instancefcn.safe_text import plain

WARM_UP = 2
"""Runs of the first image before the clock starts, in which kernels are compiled and memory is allocated."""


class NotWritten(OutputError):
    """The files of an evaluation cannot be written. The evaluation is complete: `metrics` has its figures."""

    def __init__(self, problem: str, metrics: dict[str, Any]) -> None:
        super().__init__(problem)
        self.metrics = metrics


def evaluate(
    data: Path | str,
    model: str | Path | Predictor,
    *,
    split: str = "val",
    tile: Tile = "auto",
    precision: str = "auto",
    out: Path | str | None = None,
    crowds_as_objects: bool = False,
    skip_bad: bool = False,
    max_objects: int | None = None,
    share: bool = False,
) -> dict[str, Any]:
    """Measure a model on one split of a dataset. A model whose one class is "object" is measured on all
    annotations, whatever their class (`Dataset.as_objects`).

    Args:
        data: a folder or YAML file of any layout in docs/data.md, such as SPLIT.json (COCO) with images/.
        model: name of a bundled model, checkpoint, run folder, or what `instancefcn.load` returned.
        split: name of the split; no other needs to exist.
        tile: side of tiles in pixels, "auto" or None, see `Predictor`.
        precision: "32", "bf16" or "auto", see `load`. A loaded model keeps its own.
        out: a folder for metrics.json, detections.json (COCO results with the dataset's own image ids and
            category ids), precision-recall curves, recall of proposals, and sheets of the worst and of
            typical images; None writes nothing.
        crowds_as_objects: take every crowd (iscrowd 1) as one object.
        skip_bad: leave out images that cannot be used, and make objects that cannot be read ignored regions,
            instead of raising DataError. All are listed on standard error and in `out`/skipped.json.
        max_objects: maximum number of objects in an image, the best; None for the model's own limit. AP
            counts at most 100 of a class in an image whatever the limit, as COCO defines it; mAP^r counts
            all, and the recall of proposals up to 1000.
        share: share the images among the processes that torchrun or srun started, all of which must call
            this. The first one scores and writes; all return the figures.

    Returns:
        {"mask": {"AP", "AP50", "AP75", "APs", "APm", "APl"}, "box": likewise, "voc": {"mAP50", "mAP70"},
        "proposals": {"AR@10", "AR@100", "AR@1000", "ARs", "ARm", "ARl", "box": {the same six}},
        "attainable": the AP of perfect predictions, below 1 where images hold more than 100 objects of a
        class; "per_class": {name: {"mask": {...}, "box": {...}}}, "images", "precision" ("32" or "bf16"),
        "seconds_per_image", "max_objects": the limit, "limited_images": how many images may hold more; with
        `skip_bad` "skipped", the number of problems left out}.

        Figures are 0 to 1, or None where the data holds no such object. Those of proposals are of masks
        unless under "box", and ignore classes. The seconds cover resizing, network, voting and masks, not
        decoding. An image may hold more objects than the limit when as many are annotated, or when all within
        it score at least 0.5.

    Raises:
        DataError: the split is missing or damaged, or has classes that the model does not know.
        CheckpointError: there is no such model.
        OutputError: `out` cannot be written to; raised before any work.
        NotWritten: a file in `out` cannot be written after the work; the error has the figures.
        StoppedElsewhere: with `share`, in all processes except the first, when any of them raises an error.
    """
    with processes.group(share) as (rank, world):

        def prepare() -> tuple[Predictor, Dataset, Sequence[Finding] | None]:
            if rank == 0 and out is not None:
                check_output_folder(out)
            predictor = model if isinstance(model, Predictor) else load(model, precision=precision)
            dataset, report = _dataset(data, split, predictor, crowds_as_objects, skip_bad, say=rank == 0)
            return predictor, dataset, report.skipped if report is not None and skip_bad else None

        predictor, dataset, skipped = processes.agreed(prepare)
        own = dataset.subset(range(rank, len(dataset), world))
        found, seconds = processes.agreed(lambda: _predict(predictor, own, tile, max_objects, show=rank == 0))
        found = processes.gathered(found)
        total = sum(processes.gathered({rank: seconds}).values())

        def score() -> dict[str, Any] | None:
            if rank != 0:
                return None
            limit = predictor.max_objects if max_objects is None else max_objects
            known: dict[str, Any] = {
                "precision": predictor.precision,
                "seconds_per_image": round(total / max(len(dataset), 1), 4),
                "max_objects": limit,
                "limited_images": limited_images(dataset, found, limit),
            }
            return _score(dataset, found, known, None if out is None else Path(out), skipped)

        return processes.from_first(processes.agreed(score))


def _dataset(
    data: Path | str,
    split: str,
    predictor: Predictor,
    crowds_as_objects: bool,
    skip_bad: bool,
    say: bool,
) -> tuple[Dataset, Report | None]:
    """The split as the model sees it. One process (`say`) checks the images and says what it found; what is
    left out must be known in every process.
    """
    report = None
    if say:
        print(describe_layout(data), file=sys.stderr, flush=True)
    if say or skip_bad:
        report = examine(
            data, (split,), crowds_as_objects=crowds_as_objects, skip_bad=skip_bad, checks=FOR_FIGURES
        )
        report.raise_errors()
        dataset = report.splits[0].dataset
        if say:
            lines = (*left_out(report), *brief(report))
            print(plain("".join(f"{line}\n" for line in lines)), end="", file=sys.stderr, flush=True)
    else:
        dataset = open_dataset(data, split, check_images=False)
        dataset = dataset.crowds_as_objects() if crowds_as_objects else dataset
    classes = predictor.class_names
    if classes == (OBJECT,) and dataset.class_names != (OBJECT,):
        dataset = dataset.as_objects()
    check_same_classes(dataset, classes)
    return dataset, report


def _predict(
    predictor: Predictor, dataset: Dataset, tile: Tile, max_objects: int | None, show: bool
) -> tuple[dict[int, Predictions], float]:
    """Predictions by image id, and the seconds that they took."""
    found: dict[int, Predictions] = {}
    seconds = 0.0
    for image in dataset.images[:1]:
        pixels = read_image(image.path)
        for _ in range(WARM_UP):
            predictor.run([pixels], max_objects=max_objects)
    # Nothing is read ahead: on a CPU it would take the network's time, which is measured.
    paths = [image.path for image in dataset.images]
    results = predictor.files(paths, score=0.0, tile=tile, max_objects=max_objects)
    with closing(results), progress(show) as report:
        report(f"evaluating {dataset.name}", 0, len(dataset))
        for done, (image, result) in enumerate(zip(dataset.images, results, strict=True), 1):
            if result.error is not None:
                raise result.error
            assert result.instances is not None
            seconds += result.seconds
            found[image.id] = encode_instances(in_order_of(dataset, result.instances))
            report(f"evaluating {dataset.name}", done, len(dataset))
    return found, seconds


def _score(
    dataset: Dataset,
    found: Mapping[int, Predictions],
    known: Mapping[str, Any],
    out: Path | None,
    skipped: Sequence[Finding] | None,
) -> dict[str, Any]:
    """The figures, with those that are `known` already; with `out`, also their files."""
    metrics, masks, proposals = _measure(dataset, found)
    metrics |= known
    if skipped is not None:
        metrics["skipped"] = len(skipped)
    if out is None:
        return metrics
    try:
        with writable():
            write_json(out / "metrics.json", metrics)
            if skipped is not None:
                write_json(out / "skipped.json", [finding.as_json() for finding in skipped])
            rows = (row for image in dataset.images for row in found[image.id].to_coco(image.id))
            write_json(out / DETECTIONS_NAME, list(rows), indent=None)
            plot_precision_recall(masks, dataset.class_names, out / "precision_recall.png")
            plot_recall(proposals, out / "recall.png")
            write_review(dataset, found, out)
    except InstanceFCNError as error:
        raise NotWritten(str(error), metrics) from error
    return metrics


def evaluate_predictions(dataset: Dataset, found: Mapping[int, Predictions]) -> dict[str, Any]:
    """What `evaluate` returns, without precision and seconds, for existing predictions.

    Args:
        found: image id to instances in that image's pixels, with the dataset's classes.
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
        "attainable": attainable(dataset),
        "per_class": {
            name: {"mask": masks.per_class[name], "box": boxes.per_class[name]} for name in masks.per_class
        },
        "images": len(dataset),
    }
    return metrics, masks, proposals


def limited_images(dataset: Dataset, found: Mapping[int, Predictions], limit: int) -> int:
    """How many images may hold more objects than `limit`: as many are annotated, or all that were found up to
    the limit score as much as `predict` asks for.
    """

    def is_limited(image: ImageRecord) -> bool:
        annotated = sum(not annotation.crowd for annotation in image.annotations)
        good = found[image.id].filter(DEFAULT_SCORE)
        return annotated > limit or (len(good) > 0 and good.limit_reached is not None)

    return sum(map(is_limited, dataset.images))


def check_same_classes(dataset: Dataset, names: tuple[str, ...]) -> None:
    """Raise DataError unless the dataset's classes are all known to a model with these class names."""
    unknown = [name for name in dataset.class_names if name not in names]
    if unknown:
        raise DataError(
            f"{dataset.name}: the model does not know {', '.join(unknown)}; it knows {', '.join(names)}."
            " Evaluate a model that was trained on these classes, or rename them"
        )


def in_order_of(dataset: Dataset, instances: Instances) -> Instances:
    """`instances` with the dataset's labels and ids, classes matched by name; instances of classes that the
    dataset does not have are left out.
    """
    if instances.class_names == dataset.class_names and instances.category_ids == dataset.category_ids:
        return instances
    label_of = {name: label for label, name in enumerate(dataset.class_names)}
    table = torch.tensor([label_of.get(name, -1) for name in instances.class_names], dtype=torch.int64)
    labels = table[instances.labels]
    kept = instances[labels >= 0]
    return Instances(
        kept.boxes,
        kept.scores,
        labels[labels >= 0],
        kept.masks,
        dataset.class_names,
        dataset.category_ids,
        kept.source,
        instances.limit_reached,
    )
