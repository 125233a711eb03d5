"""COCO's AP: equal to pycocotools, and right where pycocotools has nothing to say."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.coco import read_coco
from instancefcn.data.synthetic import write_shapes
from instancefcn.evaluation.coco import NAMES, CocoScorer, attainable, ground_truth
from instancefcn.evaluation.report import plot_precision_recall, table
from instancefcn.evaluation.review import truth
from instancefcn.evaluation.run import evaluate_predictions
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=8, val=1, size=160, seed=3)
    return read_coco(folder / "train.json", folder / "images")


def noisy(dataset: Dataset, seed: int) -> dict[int, Instances]:
    """The truth moved by some pixels, now and then of another class, left out or invented; random scores."""
    random = np.random.default_rng(seed)
    found = {}
    for image in dataset.images:
        true = truth(image, dataset)
        dense, labels = true.dense_masks(), true.labels.clone()
        masks = [torch.roll(mask, tuple(random.integers(-9, 10, 2).tolist()), (0, 1)) for mask in dense]
        masks += [torch.roll(mask, (40, 25), (0, 1)) for mask in dense]
        labels = torch.cat((labels, labels))
        swapped = torch.from_numpy(random.random(len(labels)) < 0.2)
        labels[swapped] = (labels[swapped] + 1) % len(dataset.class_names)
        kept = torch.from_numpy(random.random(len(labels)) < 0.8).nonzero()[:, 0]
        crops = CroppedMasks.from_dense(torch.stack(masks))[kept]
        scores = torch.from_numpy(random.random(len(kept))).float().sort(descending=True).values
        found[image.id] = Instances(
            crops.tight_boxes(), scores, labels[kept], crops, dataset.class_names, dataset.category_ids
        )
    return found


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_pycocotools(dataset: Dataset, seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = noisy(dataset, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = json.loads(json.dumps(ground_truth(dataset)))
        oracle.createIndex()
    for kind, iou_type, other in (("mask", "segm", "bbox"), ("box", "bbox", "segmentation")):
        rows = [row for key, instances in found.items() for row in instances.to_coco(key)]
        for row in rows:
            del row[other]  # or a mask's size would be taken from its box
        with contextlib.redirect_stdout(io.StringIO()):
            results = oracle.loadRes(rows)
            evaluation = COCOeval(oracle, results, iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ours = CocoScorer(dataset).score(found, kind)
        expected = [None if value < 0 else value for value in evaluation.stats[:6]]
        assert [ours.summary[name] for name in NAMES] == pytest.approx(expected, abs=1e-9)
        assert 0 < (ours.summary["AP"] or 0) < 1
        mean = np.mean([figures["AP"] for figures in ours.per_class.values()])
        assert mean == pytest.approx(ours.summary["AP"])


def test_the_truth_itself_scores_one(dataset: Dataset) -> None:
    found = {image.id: truth(image, dataset) for image in dataset.images}
    summary = CocoScorer(dataset).score(found, "mask").summary
    assert summary["AP"] == pytest.approx(1.0)
    assert summary["AP75"] == pytest.approx(1.0)


def test_finding_nothing_scores_zero_where_there_are_objects(dataset: Dataset) -> None:
    result = CocoScorer(dataset).score({}, "mask")
    assert result.summary["AP"] == 0.0
    present = {a.label for p in dataset.images for a in p.annotations if not a.crowd}
    assert set(result.per_class) == {dataset.class_names[label] for label in present}


def test_dollars_in_the_name_of_a_class_are_no_mathematics(dataset: Dataset, tmp_path: Path) -> None:
    names = tuple(f"{name}_$x_$" for name in dataset.class_names)
    plot_precision_recall(CocoScorer(dataset).score(noisy(dataset, 0), "mask"), names, tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()


def test_names_without_a_font_are_plotted_without_a_warning(dataset: Dataset, tmp_path: Path) -> None:
    """Warnings are errors in the tests: matplotlib warns of each letter that its font lacks."""
    names = tuple(f"\u9e7f{number} олень हिरण" for number, _ in enumerate(dataset.class_names))
    plot_precision_recall(CocoScorer(dataset).score(noisy(dataset, 0), "mask"), names, tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()


def test_a_mask_is_as_large_as_its_own_area() -> None:
    """A long diagonal line is a small object in a large box: COCO's APs counts it, APl does not."""
    line = torch.zeros((200, 200), dtype=torch.bool)
    line[torch.arange(200), torch.arange(200)] = True
    masks = CroppedMasks.from_dense(line[None])
    rle = masks.rles()[0]
    annotation = Annotation(1, 0, (0.0, 0.0, 200.0, 200.0), rle, 200.0, False)
    lines = Dataset("lines", (ImageRecord(1, Path("line.png"), 200, 200, (annotation,)),), ("line",), (1,))
    blank = torch.zeros((200, 200), dtype=torch.bool)
    blank[0:199, 0] = True  # a false alarm of the same size, in a narrow box
    crops = CroppedMasks.from_dense(torch.stack((line, blank)))
    labels = torch.zeros(2, dtype=torch.int64)
    found = {1: Instances(crops.tight_boxes(), torch.tensor([0.5, 0.4]), labels, crops, ("line",), (1,))}
    summary = CocoScorer(lines).score(found, "mask").summary
    assert summary["APs"] == pytest.approx(1.0)
    assert summary["APl"] is None


def test_sizes_without_objects_are_undefined(dataset: Dataset) -> None:
    biggest = max(a.area for p in dataset.images for a in p.annotations)
    assert biggest < 96**2, "the fixture's objects are small or medium"
    for found in ({}, {p.id: truth(p, dataset) for p in dataset.images}):
        assert CocoScorer(dataset).score(found, "mask").summary["APl"] is None


def test_a_dataset_without_objects_has_no_figures(dataset: Dataset, tmp_path: Path) -> None:
    from dataclasses import replace

    empty = replace(dataset, images=tuple(replace(p, annotations=()) for p in dataset.images))
    summary = CocoScorer(empty).score(noisy(dataset, 0), "box").summary
    assert set(summary.values()) == {None}


def crowded(numbers: Sequence[tuple[int, ...]]) -> Dataset:
    """Images of 40 x 30 with squares of 2 pixels: how many of every class."""
    images = []
    for id_, of_class in enumerate(numbers, start=1):
        labels = [label for label, number in enumerate(of_class) for _ in range(number)]
        annotations = []
        for place, label in enumerate(labels):
            x, y = 2 * (place % 20), 2 * (place // 20)
            box = (float(x), float(y), float(x + 2), float(y + 2))
            outline = [[float(c) for c in (x, y, x + 2, y, x + 2, y + 2, x, y + 2)]]
            annotations.append(Annotation(1000 * id_ + place, label, box, outline, 4.0))
        images.append(ImageRecord(id_, Path(f"{id_}.png"), 30, 40, tuple(annotations)))
    names = tuple(f"class {label}" for label in range(len(numbers[0])))
    return Dataset("crowded", tuple(images), names, tuple(range(1, len(names) + 1)))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([(100, 3)], 1.0),  # as many as COCO counts
        ([(125, 0)], 81 / 101),  # recall 0.8 is reached: 81 of 101 places
        ([(150, 3), (50, 4)], (76 / 101 + 1) / 2),
        ([(300,), (0,)], 34 / 101),
    ],
)
def test_attainable_is_the_ap_of_the_truth_itself(numbers: list[tuple[int, ...]], expected: float) -> None:
    dataset = crowded(numbers)
    assert attainable(dataset) == pytest.approx(expected)
    found = {image.id: truth(image, dataset) for image in dataset.images}
    scorer = CocoScorer(dataset)
    assert scorer.score(found, "mask").summary["AP"] == pytest.approx(expected)
    assert scorer.score(found, "box").summary["AP"] == pytest.approx(expected)


def test_nothing_is_attainable_without_objects() -> None:
    assert attainable(crowded([(0, 0)])) is None


def test_the_table_says_when_images_are_too_crowded_for_coco() -> None:
    for numbers, said in ([(125,)], True), ([(100,)], False):
        dataset = crowded(numbers)
        metrics = evaluate_predictions(dataset, {})
        assert ("perfect predictions would have 0.802" in table(metrics)) is said
