"""COCO JSON as Roboflow, CVAT and COCO itself lay it out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from instancefcn.data.conversion import convert
from instancefcn.data.doctor.examine import examine
from instancefcn.data.doctor.fix import write_repaired_copy
from instancefcn.data.formats.coco_layouts import CocoFolder
from instancefcn.data.formats.layouts import open_dataset, open_datasets, recognise, splits_of
from instancefcn.errors import DataError

ROBOFLOW = ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid")
LAYOUTS = {
    "roboflow": ROBOFLOW,
    "cvat": (
        "annotations/instances_train.json",
        "images/train",
        "annotations/instances_val.json",
        "images/val",
    ),
    "one folder": (
        "annotations/instances_train.json",
        "images",
        "annotations/instances_validation.json",
        "images",
    ),
    "coco": (
        "annotations/instances_train2017.json",
        "train2017",
        "annotations/instances_val2017.json",
        "val2017",
    ),
    "years apart": (
        "annotations/train2017.json",
        "images/train2017",
        "annotations/val2017.json",
        "images/val",
    ),
}


def exported(shapes: Path, out: Path, places: tuple[str, str, str, str]) -> Path:
    """The data of `shapes` in another layout."""
    for split, file, images in (("train", *places[:2]), ("val", *places[2:])):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / images).mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes / f"{split}.json", out / file)
        for image in (shapes / "images").glob(f"{split}_*"):
            shutil.copy(image, out / images)
    return out


@pytest.mark.parametrize("places", LAYOUTS.values(), ids=LAYOUTS)
def test_exports_are_the_same_data(
    shapes_folder: Path, tmp_path: Path, places: tuple[str, str, str, str]
) -> None:
    folder = exported(shapes_folder, tmp_path / "data", places)
    assert isinstance(recognise(folder), CocoFolder)
    assert splits_of(folder) == ["train", "val"]
    expected = open_datasets(shapes_folder, ("train", "val"))
    for found, original in zip(open_datasets(folder, ("train", "val")), expected, strict=True):
        assert (found.class_names, found.category_ids) == (original.class_names, original.category_ids)
        assert [p.annotations for p in found.images] == [p.annotations for p in original.images]
        assert [p.path.read_bytes() for p in found.images] == [p.path.read_bytes() for p in original.images]


def test_other_annotations_of_the_same_images_are_not_splits(shapes_folder: Path, tmp_path: Path) -> None:
    folder = exported(shapes_folder, tmp_path / "data", LAYOUTS["coco"])
    for kind in ("captions", "person_keypoints"):
        shutil.copy(shapes_folder / "val.json", folder / "annotations" / f"{kind}_val2017.json")
    assert splits_of(folder) == ["train", "val"]


def test_two_years_keep_their_names(shapes_folder: Path, tmp_path: Path) -> None:
    folder = exported(shapes_folder, tmp_path / "data", LAYOUTS["coco"])
    shutil.copy(shapes_folder / "train.json", folder / "annotations" / "instances_train2014.json")
    assert splits_of(folder) == ["val", "train2014", "train2017"]


def test_what_is_missing_is_named(shapes_folder: Path, tmp_path: Path) -> None:
    folder = exported(shapes_folder, tmp_path / "data", LAYOUTS["coco"])
    with pytest.raises(DataError, match=r"'test'.*train, val"):
        open_dataset(folder, "test")
    shutil.rmtree(folder / "train2017")
    with pytest.raises(DataError, match="train2017"):
        open_dataset(folder, "train")


def test_exports_are_repaired_and_converted(shapes_folder: Path, tmp_path: Path) -> None:
    """A repaired copy keeps other fields of the files; a conversion reports them as lost."""
    folder = exported(shapes_folder, tmp_path / "data", ROBOFLOW)
    file = folder / ROBOFLOW[0]
    content = json.loads(file.read_text())
    content["info"] = {"year": "2026"}
    file.write_text(json.dumps(content))
    write_repaired_copy(examine(folder), tmp_path / "repaired")
    assert json.loads((tmp_path / "repaired" / "train.json").read_text())["info"] == {"year": "2026"}
    lost = convert(folder, tmp_path / "converted", "coco").lost
    assert any("info" in str(row) for row in lost)
    assert len(open_dataset(tmp_path / "converted", "val")) == 2
