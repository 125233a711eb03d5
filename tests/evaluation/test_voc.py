"""VOC's mAP^r on cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.evaluation.voc import voc_map
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances

SIZE = (20, 40)


def square(x: int, y: int = 0, side: int = 10) -> list[list[float]]:
    """A polygon around the pixels x..x+side, y..y+side."""
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def make(objects: list[list[tuple[int, int]]]) -> Dataset:
    """Images with (label, x) squares of side 10."""
    images = []
    for number, content in enumerate(objects):
        annotations = tuple(
            Annotation(10 * number + i, label, (x, 0, x + 10, 10), square(x), 100.0, False)
            for i, (label, x) in enumerate(content)
        )
        images.append(ImageRecord(number, Path(f"{number}.png"), *SIZE, annotations))
    return Dataset("hand", tuple(images), ("a", "b"), (1, 2))


def detect(rows: list[tuple[int, int, float]]) -> Instances:
    """(label, x, score) squares, given best first."""
    dense = torch.zeros((len(rows), *SIZE), dtype=torch.bool)
    for i, (_, x, _) in enumerate(rows):
        dense[i, 0:10, x : x + 10] = True
    masks = CroppedMasks.from_dense(dense)
    return Instances(
        masks.tight_boxes(),
        torch.tensor([score for _, _, score in rows]),
        torch.tensor([label for label, _, _ in rows], dtype=torch.int64),
        masks,
        ("a", "b"),
        (1, 2),
    )


def test_two_objects_one_hit_first() -> None:
    # Hits: true (0.9), false (0.8). Precision 1 up to recall 0.5, never further: 6 of 11 points.
    dataset = make([[(0, 0), (0, 20)]])
    assert voc_map(dataset, {0: detect([(0, 0, 0.9), (0, 10, 0.8)])})[0.5] == pytest.approx(6 / 11)


def test_a_second_hit_on_the_same_object_is_false() -> None:
    # x = 2 overlaps the object at 0 by 80 / 120 = 0.667 and comes first; the exact one at 0 is then a repeat.
    dataset = make([[(0, 0), (0, 20)]])
    found = {0: detect([(0, 2, 0.9), (0, 0, 0.8), (0, 20, 0.7)])}
    # true, false, true: precision 1 at recall 0.5, 2/3 at recall 1: (6 * 1 + 5 * 2/3) / 11
    values = voc_map(dataset, found)
    assert values[0.5] == pytest.approx((6 + 10 / 3) / 11)
    # At 0.7 the first one misses: false, true, true: precision 1/2 at recall 1/2, 2/3 at recall 1, which also
    # serves below.
    assert values[0.7] == pytest.approx(2 / 3)


def test_mean_over_the_classes_that_have_objects() -> None:
    dataset = make([[(0, 0)], [(0, 0)]])
    found = {0: detect([(1, 20, 0.9), (0, 0, 0.8)]), 1: detect([(0, 0, 0.7)])}
    assert voc_map(dataset, found)[0.5] == pytest.approx(1.0), (
        "class b has no object: its false alarm does not count"
    )


def test_an_object_of_another_class_is_no_hit() -> None:
    dataset = make([[(0, 0), (1, 20)]])
    assert voc_map(dataset, {0: detect([(1, 0, 0.9), (0, 20, 0.8)])})[0.5] == 0.0


def test_missing_images_and_no_objects() -> None:
    assert voc_map(make([[(0, 0)]]), {})[0.5] == 0.0
    assert voc_map(make([[]]), {0: detect([(0, 0, 0.9)])})[0.5] is None
