"""Recall of proposals: by hand, equal to pycocotools without categories, and where nothing is to be found."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.evaluation.coco import ground_truth
from instancefcn.evaluation.proposals import AR_NAMES, COUNTS, ProposalResult, measure_proposals
from instancefcn.evaluation.report import plot_recall
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")

NAMES, IDS = ("cat", "dog", "elk"), (3, 5, 9)
Box = tuple[int, int, int, int]


def filled(boxes: list[Box], size: int) -> CroppedMasks:
    dense = torch.zeros((len(boxes), size, size), dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(dense, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return CroppedMasks.from_dense(dense)


def annotated(number: int, boxes: list[Box], size: int, labels: list[int], crowds: int = 0) -> ImageRecord:
    """An image whose objects fill their boxes; the last `crowds` of them are crowds."""
    masks = filled(boxes, size)
    annotations = tuple(
        Annotation(10 * number + i, label, tuple(map(float, box)), rle, float(area), i >= len(boxes) - crowds)
        for i, (box, label, rle, area) in enumerate(
            zip(boxes, labels, masks.rles(), masks.areas().tolist(), strict=True)
        )
    )
    return ImageRecord(number, Path(f"{number}.png"), size, size, annotations)


def proposed(masks: CroppedMasks, boxes: torch.Tensor | None = None, labels: object = None) -> Instances:
    """Instances of falling scores; their boxes are the tight ones unless given."""
    boxes = masks.tight_boxes() if boxes is None else boxes
    scores = torch.linspace(0.95, 0.05, len(masks))
    chosen = torch.zeros(len(masks), dtype=torch.int64) if labels is None else torch.as_tensor(labels)
    return Instances(boxes, scores, chosen, masks, NAMES, IDS)


def two_images() -> tuple[Dataset, dict[int, Instances]]:
    """A small (100 px), a medium (1600 px) and a large (10 000 px) object; nothing was found of the last."""
    first = annotated(1, [(0, 0, 10, 10), (20, 20, 60, 60)], 120, [0, 2])
    second = annotated(2, [(10, 10, 110, 110)], 120, [1])
    masks = filled([(0, 0, 9, 8), (70, 70, 80, 80), (20, 20, 60, 53)], 120)
    boxes = masks.tight_boxes()
    boxes[2] = torch.tensor([20.0, 20.0, 60.0, 60.0])
    return Dataset("two", (first, second), NAMES, IDS), {1: proposed(masks, boxes)}


def test_by_hand() -> None:
    dataset, found = two_images()
    result = measure_proposals(dataset, found)
    # First proposal, mask and box: 9 x 8 of the small object's 10 x 10, IoU 0.72: found at the 5 thresholds
    #   0.5 .. 0.7.
    # Second: nothing.
    # Third: 40 x 33 of the medium object's 40 x 40, IoU 0.825: found at the 7 thresholds 0.5 .. 0.8; its box
    #   is exact: found at all 10.
    # The large object is not found.
    at_one = (0.5 + 0 + 0) / 3
    mask_at_ten, box_at_ten = (0.5 + 0.7 + 0) / 3, (0.5 + 1.0 + 0) / 3
    assert result.recall["mask"].mean(0)[:2] == pytest.approx([at_one, at_one])
    assert result.recall["box"].mean(0)[:2] == pytest.approx([at_one, at_one])
    sizes = {"ARm": 0.7, "ARs": 0.5, "ARl": 0.0}
    at_counts = {"AR@10": mask_at_ten, "AR@100": mask_at_ten, "AR@1000": mask_at_ten}
    box = result.summary.pop("box")
    assert result.summary == pytest.approx(at_counts | sizes)
    at_counts = dict.fromkeys(at_counts, box_at_ten)
    assert box == pytest.approx(at_counts | sizes | {"ARm": 1.0})
    assert result.counts.tolist() == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert result.thresholds == pytest.approx(np.arange(50, 100, 5) / 100)
    # 0.5 .. 0.7 both, 0.75 and 0.8 the medium one, then none.
    expected = [2 / 3] * 5 + [1 / 3] * 2 + [0] * 3
    assert result.recall["mask"][:, 3] == pytest.approx(expected)


def random_case(seed: int) -> tuple[Dataset, dict[int, Instances]]:
    """Six images of objects of all sizes and classes with crowds, one image without objects and one that
    was left out; some 150 proposals each: objects moved and cut, and inventions.
    """
    random = np.random.default_rng(seed)
    size = 160

    def box(low: int, high: int) -> Box:
        w, h = random.integers(low, high, 2)
        x, y = random.integers(0, size - w), random.integers(0, size - h)
        return int(x), int(y), int(x + w), int(y + h)

    images, found = [], {}
    for number in range(1, 9):
        boxes = [box(*limits) for limits in ((8, 30), (8, 30), (34, 90), (34, 90), (100, 150), (20, 60))]
        boxes = [] if number == 7 else boxes
        labels = random.integers(0, 3, len(boxes)).tolist()
        images.append(annotated(number, boxes, size, labels, crowds=number % 2))
        guesses = [box(8, 120) for _ in range(60)]
        for x1, y1, x2, y2 in boxes * 15:
            dx, dy = (int(d) for d in random.integers(-3, 4, 2))
            guesses.append((max(x1 + dx, 0), max(y1 + dy, 0), x2 + dx, y2 + dy))
        dense = filled(guesses, size).dense()
        dense &= torch.from_numpy(random.random(dense.shape) < random.choice([0.75, 0.9, 1.0]))
        masks = CroppedMasks.from_dense(dense[torch.from_numpy(random.permutation(len(guesses)))])
        if number != 8:
            found[number] = proposed(masks, labels=random.integers(0, 3, len(masks)))
    return Dataset("random", tuple(images), NAMES, IDS), found


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycocotools_without_categories(seed: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset, found = random_case(seed)
    ours = measure_proposals(dataset, found)
    for kind, iou_type, other in (("mask", "segm", "bbox"), ("box", "bbox", "segmentation")):
        rows = [row for key, instances in found.items() for row in instances.to_coco(key)]
        for row in rows:
            del row[other]
        with contextlib.redirect_stdout(io.StringIO()):
            oracle = COCO()
            oracle.dataset = json.loads(json.dumps(ground_truth(dataset)))
            oracle.createIndex()
            evaluation = COCOeval(oracle, oracle.loadRes(rows), iou_type)
            evaluation.params.useCats = 0
            evaluation.params.maxDets = list(COUNTS)
            evaluation.evaluate()
            evaluation.accumulate()
        recall = evaluation.eval["recall"][:, 0]  # [threshold, area, detections]
        np.testing.assert_allclose(ours.recall[kind], recall[:, 0], rtol=0, atol=1e-12)
        average = recall.mean(0)
        expected = [average[0, 3], average[0, 6], average[0, 9], average[1, 9], average[2, 9], average[3, 9]]
        figures = ours.summary if kind == "mask" else ours.summary["box"]
        assert [figures[name] for name in AR_NAMES] == pytest.approx(expected, abs=1e-12)
        assert len(set(expected)) == 6, "a case in which figures could be mixed up unseen"
        assert 0 < min(expected) < max(expected) < 1


def same(one: ProposalResult, other: ProposalResult) -> bool:
    return one.summary == other.summary and all(
        np.array_equal(one.recall[kind], other.recall[kind], equal_nan=True) for kind in ("mask", "box")
    )


def test_classes_and_order_of_images_play_no_part() -> None:
    dataset, found = random_case(5)
    result = measure_proposals(dataset, found)
    of_one_class = {
        number: replace(
            instances,
            labels=torch.zeros_like(instances.labels),
            class_names=("thing",),
            category_ids=(77,),
        )
        for number, instances in reversed(found.items())
    }
    turned = replace(dataset, images=dataset.images[::-1])
    for truth in (dataset, turned, dataset.as_objects()):
        assert same(measure_proposals(truth, of_one_class), result)
    strangers = found | {99: found[1]}
    assert same(measure_proposals(dataset, strangers), result), "an image that is not in the dataset"


def test_equal_scores_of_two_classes_keep_their_order() -> None:
    """Both cover the object; the first alone does so exactly, though its class comes last."""
    masks = filled([(0, 0, 20, 20), (0, 0, 20, 15)], 40)
    dataset = Dataset("one", (annotated(1, [(0, 0, 20, 20)], 40, [0]),), NAMES, IDS)
    found = Instances(masks.tight_boxes(), torch.full((2,), 0.5), torch.tensor([2, 0]), masks, NAMES, IDS)
    assert measure_proposals(dataset, {1: found}).recall["mask"][:, 0].tolist() == [1.0] * 10


def test_crowds_are_neither_found_nor_missed() -> None:
    boxes = [(0, 0, 20, 20), (30, 30, 140, 140)]
    alone = Dataset("crowd", (annotated(1, boxes[:1], 150, [0]),), NAMES, IDS)
    crowded = replace(alone, images=(annotated(1, boxes, 150, [0, 0], crowds=1),))
    found = {1: proposed(filled([boxes[1], (40, 40, 60, 60), boxes[0]], 150))}
    result = measure_proposals(crowded, found)
    assert same(result, measure_proposals(alone, found))
    assert result.recall["mask"][0, :3].tolist() == [0.0, 0.0, 1.0]
    assert result.summary["ARl"] is None, "the one large region is a crowd"
    counted = replace(alone, images=(annotated(1, boxes, 150, [0, 0]),))
    assert measure_proposals(counted, found).summary["ARl"] == pytest.approx(1.0)


@pytest.mark.parametrize("explicit", [False, True])
def test_nothing_found_is_zero_where_there_are_objects(explicit: bool) -> None:
    dataset = Dataset("some", (annotated(1, [(0, 0, 20, 20), (0, 0, 40, 40)], 50, [0, 1]),), NAMES, IDS)
    result = measure_proposals(dataset, {1: proposed(filled([], 50))} if explicit else {})
    expected = dict.fromkeys(AR_NAMES, 0.0) | {"ARl": None}
    assert result.summary == {**expected, "box": expected}
    assert result.recall["mask"].shape == (10, len(COUNTS))
    assert not result.recall["mask"].any()
    assert not result.recall["box"].any()


@pytest.mark.parametrize("crowds", [0, 1])
@pytest.mark.parametrize("proposals", [0, 2])
def test_without_objects_nothing_is_defined(crowds: int, proposals: int) -> None:
    boxes: list[Box] = [(0, 0, 20, 20)] * crowds
    image = annotated(1, boxes, 50, [0] * crowds, crowds=crowds)
    found = {1: proposed(filled([(0, 0, 20, 20)] * proposals, 50))}
    result = measure_proposals(Dataset("none", (image,), NAMES, IDS), found)
    undefined = dict.fromkeys(AR_NAMES)
    assert result.summary == {**undefined, "box": undefined}
    assert np.isnan(result.recall["mask"]).all()


@pytest.mark.parametrize(
    ("rank", "at_100", "at_1000"), [(100, 1.0, 1.0), (101, 0.0, 1.0), (1000, 0.0, 1.0), (1001, 0.0, 0.0)]
)
def test_up_to_1000_proposals_count(rank: int, at_100: float, at_1000: float) -> None:
    dataset = Dataset("far", (annotated(1, [(0, 0, 20, 20)], 40, [0]),), NAMES, IDS)
    masks = filled([(30, 30, 35, 35)] * (rank - 1) + [(0, 0, 20, 20)], 40)
    summary = measure_proposals(dataset, {1: proposed(masks)}).summary
    assert (summary["AR@100"], summary["AR@1000"]) == (at_100, at_1000)


def test_plot(tmp_path: Path) -> None:
    dataset, found = two_images()
    empty = replace(dataset, images=())
    inked = []
    for name, result in (
        ("some", measure_proposals(dataset, found)),
        ("none", measure_proposals(empty, {})),
    ):
        plot_recall(result, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 100
            pixels = np.asarray(image.convert("RGB")).astype(int)
        inked.append(int((np.ptp(pixels, axis=2) > 60).sum()))
    # The three coloured lines, solid and dashed; without objects there are axes and no line.
    assert inked[0] > 1000
    assert inked[1] == 0
