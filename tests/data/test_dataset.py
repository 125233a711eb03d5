"""`Dataset.as_objects` changes classes only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord


def test_as_objects_only_changes_the_classes() -> None:
    square = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
    annotations = (
        Annotation(11, 1, (1.0, 1.0, 5.0, 5.0), square, 16.0),
        Annotation(12, 0, (0.0, 0.0, 9.0, 9.0), {"size": [10, 10], "counts": "T3"}, 40.5, crowd=True),
    )
    images = (ImageRecord(3, Path("a.png"), 10, 10, annotations), ImageRecord(4, Path("b.png"), 8, 6))
    dataset = Dataset("mine/val", images, ("cat", "dog"), (17, 18))
    objects = dataset.as_objects()
    assert (objects.class_names, objects.category_ids) == (("object",), (1,))
    first, crowd = objects.images[0].annotations
    assert first == replace(annotations[0], label=0)
    assert crowd == annotations[1]
    assert objects.images[1] == images[1]
    assert replace(objects.images[0], annotations=annotations) == images[0]
    assert objects.name == dataset.name
    assert dataset.images[0].annotations == annotations, "the dataset itself does not change"
