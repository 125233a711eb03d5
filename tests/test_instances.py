"""The result type: what it refuses, and how it is handed on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instancefcn.errors import ConfigError, MissingPackageError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances

DENSE = torch.zeros(3, 4, 6, dtype=torch.bool)
DENSE[0, 0:2, 0:3] = True
DENSE[1, 2:4, 4:6] = True
DENSE[2, 1:2, 1:2] = True


@pytest.fixture
def found() -> Instances:
    return Instances(
        boxes=torch.tensor([[0.0, 0.0, 3.0, 2.0], [4.0, 2.0, 6.0, 4.0], [1.0, 1.0, 2.0, 2.0]]),
        scores=torch.tensor([0.9, 0.5, 0.25]),
        labels=torch.tensor([1, 0, 1]),
        masks=CroppedMasks.from_dense(DENSE),
        class_names=("cat", "dog"),
        category_ids=(17, 90),
        source="a.jpg",
    )


def test_size_and_names(found: Instances) -> None:
    assert len(found) == 3
    assert found.image_size == (4, 6)
    assert found.names == ["dog", "cat", "dog"]
    assert torch.equal(found.dense_masks(), DENSE)


def test_repr_is_for_people(found: Instances) -> None:
    assert repr(found) == "Instances(3 in a 6 x 4 image: dog 0.90, cat 0.50, dog 0.25)"


@pytest.mark.parametrize(
    "index", [slice(0, 2), torch.tensor([0, 1]), torch.tensor([True, True, False])], ids=str
)
def test_indexing_takes_everything_along(found: Instances, index: Any) -> None:
    part = found[index]
    assert part.names == ["dog", "cat"]
    assert part.boxes.tolist() == found.boxes[:2].tolist()
    assert torch.equal(part.dense_masks(), DENSE[:2])
    assert part.source == "a.jpg"


def test_filter_keeps_what_reaches_the_score(found: Instances) -> None:
    assert found.filter(0.5).scores.tolist() == [torch.tensor(0.9).item(), 0.5]
    assert len(found.filter(0.95)) == 0
    assert found.filter(0.95).image_size == (4, 6)


def test_coco_results_use_the_training_sets_ids(found: Instances) -> None:
    results = found.to_coco(42)
    assert [entry["category_id"] for entry in results] == [90, 17, 90]
    assert [entry["image_id"] for entry in results] == [42, 42, 42]
    assert results[1]["bbox"] == [4, 2, 2, 2]
    assert results[0]["score"] == 0.9
    masks = CroppedMasks.from_rles([entry["segmentation"] for entry in results], (4, 6))
    assert torch.equal(masks.dense(), DENSE)


def test_numpy(found: Instances) -> None:
    arrays = found.to_numpy()
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "boxes": (np.dtype("float32"), (3, 4)),
        "scores": (np.dtype("float32"), (3,)),
        "labels": (np.dtype("int64"), (3,)),
        "masks": (np.dtype("bool"), (3, 4, 6)),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(3, 4, dtype=torch.float64)}, "boxes must be float32"),
        ({"boxes": torch.zeros(3, 5)}, "boxes must be float32"),
        ({"boxes": torch.full((3, 4), torch.nan)}, "not finite"),
        ({"boxes": torch.zeros(2, 4)}, "scores must be float32 \\[2\\]"),
        ({"scores": torch.tensor([1.5, 0.5, 0.1])}, "between 0 and 1"),
        ({"scores": torch.tensor([0.5, torch.nan, 0.1])}, "between 0 and 1"),
        ({"scores": torch.tensor([0.1, 0.5, 0.9])}, "best first"),
        ({"labels": torch.tensor([0, 1, 2])}, "labels must lie between 0 and 1"),
        ({"labels": torch.tensor([0, -1, 1])}, "labels must lie between 0 and 1"),
        ({"labels": torch.zeros(3)}, "labels must be int64"),
        ({"masks": CroppedMasks.from_dense(DENSE[:2])}, "3 boxes and 2 masks"),
        ({"category_ids": (1,)}, "2 class names, 1 category ids"),
    ],
)
def test_what_does_not_fit_is_refused(found: Instances, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(found, **change)


def test_nothing_found_is_a_result() -> None:
    none = Instances(
        torch.zeros(0, 4),
        torch.zeros(0),
        torch.zeros(0, dtype=torch.int64),
        CroppedMasks.empty((4, 6)),
        ("cat",),
        (1,),
    )
    assert none.to_coco(1) == []
    assert none.names == []
    assert none.dense_masks().shape == (0, 4, 6)
    assert none.filter(0.5).image_size == (4, 6)


def same(a: Instances, b: Instances) -> None:
    assert torch.equal(a.boxes, b.boxes)
    assert torch.equal(a.scores, b.scores)
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.dense_masks(), b.dense_masks())
    assert (a.class_names, a.category_ids) == (b.class_names, b.category_ids)


def test_chosen_by_lists_and_arrays(found: Instances) -> None:
    same(found[[0, 2]], found[torch.tensor([0, 2])])
    same(found[np.array([True, False, True])], found[[0, 2]])
    same(found[[True, False, True]], found[[0, 2]])
    assert len(found[[]]) == 0


def test_from_coco_annotations_with_polygons() -> None:
    row = {"category_id": 17, "bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]}
    (mask,) = Instances.from_coco([row], (4, 6), ("cat",), (17,)).dense_masks()
    assert mask.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    with pytest.raises(ValueError, match="2 points"):
        Instances.from_coco([row | {"segmentation": [[1, 1, 3, 1]]}], (4, 6), ("cat",), (17,))


def test_coco_and_back_in_any_order(found: Instances) -> None:
    rows = found.to_coco(1)
    same(Instances.from_coco(rows[::-1], (4, 6), ("cat", "dog"), (17, 90)), found)
    assert len(Instances.from_coco([], (4, 6), ("cat", "dog"), (17, 90))) == 0
    unscored = [{key: value for key, value in row.items() if key != "score"} for row in rows]
    assert Instances.from_coco(unscored, (4, 6), ("cat", "dog"), (17, 90)).scores.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"\[90\].*\[17, 3\]"):
        Instances.from_coco(rows, (4, 6), ("cat", "dog"), (17, 3))


def test_torchvision_counts_classes_from_one_and_back(found: Instances) -> None:
    result = found.to_torchvision()
    assert result["labels"].tolist() == [2, 1, 2]
    assert result["masks"].shape == (3, 1, 4, 6)
    assert result["masks"].dtype == torch.float32
    same(Instances.from_torchvision(result, ("cat", "dog"), (17, 90)), found)
    # What torchvision gives: probabilities, in any order; and its targets: masks [N, H, W] without scores.
    soft = {key: value.flip(0) for key, value in result.items()}
    soft["masks"] = soft["masks"] * 0.6 + 0.1
    same(Instances.from_torchvision(soft, ("cat", "dog"), (17, 90)), found)
    target = {"boxes": found.boxes, "labels": result["labels"], "masks": DENSE.to(torch.uint8)}
    assert Instances.from_torchvision(target, ("cat", "dog")).category_ids == (1, 2)


def test_supervision_and_back(found: Instances) -> None:
    supervision = pytest.importorskip("supervision", reason="needs supervision")
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == 3
    assert detections.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert detections.area.tolist() == [6, 4, 1]
    same(Instances.from_supervision(detections[[2, 0, 1]], ("cat", "dog"), (17, 90)), found)
    empty = found[:0].to_supervision()
    assert len(Instances.from_supervision(empty, ("cat", "dog"))) == 0
    with pytest.raises(ValueError, match="masks"):
        Instances.from_supervision(supervision.Detections(xyxy=np.zeros((1, 4))), ("cat",))


def test_without_supervision_the_command_is_named(found: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackageError, match="pip install supervision"):
        found.to_supervision()


def test_show_draws_on_the_image(found: Instances, tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    drawn = found.show(image, labels=False)
    assert drawn.size == (6, 4)
    assert np.asarray(drawn).any()
    assert not image.any()
    Image.fromarray(image).save(tmp_path / "a.png")
    from_source = replace(found, source=str(tmp_path / "a.png")).show(labels=False)
    assert np.array_equal(np.asarray(from_source), np.asarray(drawn))
    with pytest.raises(ConfigError, match=r"instances\.show\(image\)"):
        replace(found, source=None).show()


def test_one_after_another(found: Instances) -> None:
    assert [one.names for one in found] == [[name] for name in found.names]
    assert found[-1].scores.tolist() == found.scores[-1:].tolist()
    assert torch.equal(found[np.int64(0)].masks.dense(), found.masks.dense()[:1])
    with pytest.raises(IndexError):
        found[len(found)]
