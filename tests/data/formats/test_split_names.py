"""Splits by the names of files and folders: known in any case and variant, and never guessed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from data.conftest import PHOTOS
from instancefcn.data.formats.layouts import open_datasets, read_split, splits_of
from instancefcn.data.formats.split_names import looks_like_split, name_splits, split_of
from instancefcn.errors import DataError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            (name, "train")
            for name in ("train", "TRAIN", "Training", "train2017", "instances_Train", "trainset")
        ),
        *(
            (name, "val")
            for name in ("val", "Valid", "VALIDATION", "val_2014", "validation-set", "ValImages")
        ),
        *((name, "test") for name in ("Test", "testing", "test images", "annotations_test", "TestSet")),
        *(
            (name, None)
            for name in ("eval", "dev", "trainval", "train_small", "fold1", "test-dev", "photos", "2017")
        ),
    ],
)
def test_split_of(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_names_that_may_be_splits() -> None:
    assert all(map(looks_like_split, ("Eval", "trainval", "train_small", "fold-2", "Test")))
    assert not any(map(looks_like_split, ("photos", "default", "labels", "siteB", "valley", "dataset")))


@pytest.mark.parametrize(
    ("written", "splits"),
    [
        (["Train", "valid", "Testing"], ["train", "val", "test"]),
        (["train2014", "train2017", "val2017"], ["train2014", "train2017", "val"]),
        (["train", "Training"], ["train", "Training"]),
        (["Train", "training"], ["Train", "training"]),
        (["default"], ["train"]),
        (["labels", "other"], ["labels", "other"]),
        (["eval"], ["eval"]),
        (["Validation"], ["val"]),
    ],
)
def test_name_splits(written: list[str], splits: list[str]) -> None:
    assert [name_splits(written)[name] for name in written] == splits


def rename(root: Path, inside: str = ".") -> None:
    """train/ and val/ become Training/ and VALIDATION/."""
    (root / inside / "train").rename(root / inside / "Training")
    (root / inside / "val").rename(root / inside / "VALIDATION")


@pytest.mark.parametrize("kind", ["labelme", "bowl"])
def test_folders_of_splits_in_any_case(kind: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(kind)
    rename(data)
    assert splits_of(data) == ["train", "val"]
    train, val = open_datasets(data, ("train", "val"))
    assert [[p.path.stem for p in split.images] for split in (train, val)] == [["otter"], ["tiger"]]
    assert len(read_split(data, "Validation")[0]) == 1


def test_a_folder_of_test_images_is_not_trained_on(labelme: Path) -> None:
    (labelme / "val").rename(labelme / "TEST")
    (labelme / "train").rename(labelme / "siteA")
    assert splits_of(labelme) == ["siteA", "test"]
    with pytest.raises(DataError, match="'train'"):
        read_split(labelme, "train")


@pytest.mark.parametrize("names", [("siteA", "Eval"), ("fold1", "fold2"), ("siteA/train", "siteA/val")])
def test_names_that_may_be_splits_are_named_not_guessed(labelme: Path, names: tuple[str, str]) -> None:
    for split, name in zip(PHOTOS, names, strict=True):
        (labelme / name).parent.mkdir(exist_ok=True, parents=True)
        (labelme / split).rename(labelme / name)
    if names[0].startswith("siteA/"):  # one folder of splits is known; a second one is not
        shutil.copytree(labelme / "siteA", labelme / "deep" / "siteB")
        shutil.rmtree(labelme / "siteA")
    with pytest.raises(DataError, match=re.escape(names[1].split("/")[-1])):
        splits_of(labelme)


def test_masks_in_folders_of_splits_in_any_case(masks_apart: Path) -> None:
    """The masks' folders may be named otherwise than the images'."""
    for folders, name in zip((("Train", "training"), ("Valid", "val")), PHOTOS.values(), strict=True):
        for folder, inside, suffix in (("images", folders[0], "jpg"), ("masks", folders[1], "png")):
            (masks_apart / folder / inside).mkdir()
            path = masks_apart / folder / f"{name}.{suffix}"
            path.rename(path.parent / inside / path.name)
    assert splits_of(masks_apart) == ["train", "val"]
    for dataset, name in zip(open_datasets(masks_apart, ("train", "val")), PHOTOS.values(), strict=True):
        assert [(p.path.stem, len(p.annotations)) for p in dataset.images] == [(name, 3)]


def test_lists_of_voc_in_any_case(voc: Path) -> None:
    lists = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "train.txt").rename(lists / "Training.txt")
    (lists / "val.txt").rename(lists / "valid.txt")
    assert splits_of(voc) == ["train", "val", "trainval"]
    assert [p.path.stem for p in read_split(voc, "val")[0].images] == ["tiger"]
    for file in ("valid.txt", "trainval.txt"):
        (lists / file).unlink()
    (lists / "Training.txt").rename(lists / "default.txt")  # CVAT's
    assert splits_of(voc) == ["train"]


def test_keys_of_yolo_in_any_case(yolo: Path) -> None:
    for folder in ("images", "labels"):
        rename(yolo / folder)
    text = "Train: images/Training\nvalidation: images/VALIDATION\nvalid_share: 0.2\nnc: 3\n"
    (yolo / "data.yaml").write_text(text)
    assert splits_of(yolo) == ["train", "val"]
    for dataset, name in zip(open_datasets(yolo, ("train", "val")), PHOTOS.values(), strict=True):
        assert [(p.path.stem, len(p.annotations)) for p in dataset.images] == [(name, 1)]
    (yolo / "data.yaml").write_text("nc: 3\n")  # no split is named: those of the folders
    assert splits_of(yolo) == ["train", "val"]


COCO = {
    "plain": ("Train.json", "images", "validation.json", "images"),
    "folders": ("training.json", "images/Train", "VAL.json", "images/Valid"),
    "cvat": (
        "annotations/instances_Train.json",
        "images/Train",
        "annotations/instances_Validation.json",
        "images/val",
    ),
    "fiftyone": ("train/labels.json", "train/data", "validation/labels.json", "validation/data"),
    "roboflow": (*("Train/_annotations.coco.json", "Train"), *("Valid/_annotations.coco.json", "Valid")),
}


@pytest.mark.parametrize("places", COCO.values(), ids=COCO)
def test_coco_files_in_any_case(shapes_folder: Path, tmp_path: Path, places: tuple[str, ...]) -> None:
    data = tmp_path / "data"
    for split, file, images in (("train", *places[:2]), ("val", *places[2:])):
        (data / file).parent.mkdir(parents=True, exist_ok=True)
        (data / images).mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes_folder / f"{split}.json", data / file)
        for image in (shapes_folder / "images").glob(f"{split}_*"):
            shutil.copy(image, data / images)
    assert splits_of(data) == ["train", "val"]
    for found, split in zip(open_datasets(data, ("train", "val")), ("train", "val"), strict=True):
        expected = json.loads((shapes_folder / f"{split}.json").read_text())
        assert [p.path.name for p in found.images] == [p["file_name"] for p in expected["images"]]
        assert found.notes == ()


def test_keys_of_a_yaml_file(shapes_folder: Path, tmp_path: Path) -> None:
    entry = f"{{annotations: {shapes_folder}/val.json, images: {shapes_folder}/images}}"
    (tmp_path / "data.yaml").write_text(f"Validation: {entry}\n")
    assert splits_of(tmp_path / "data.yaml") == ["val"]
    assert len(read_split(tmp_path / "data.yaml", "val")[0]) == 2


def test_a_single_file_is_also_found_by_its_own_name(shapes_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(shapes_folder / "images")
    shutil.copy(shapes_folder / "train.json", tmp_path / "result.json")
    assert splits_of(tmp_path) == ["train"]
    assert len(read_split(tmp_path, "result")[0]) == len(read_split(tmp_path, "train")[0]) == 4


def test_lists_of_sbd_in_any_case(sbd: Path) -> None:
    root = sbd / "benchmark_RELEASE" / "dataset"
    (root / "train.txt").rename(root / "Train.txt")
    assert splits_of(sbd) == ["train", "val"]
    assert [p.path.stem for p in read_split(sbd, "train")[0].images] == ["otter"]


def test_splits_one_level_too_deep_are_not_merged(masks_apart: Path) -> None:
    for folder, name in (("images", "otter.jpg"), ("masks", "otter.png")):
        for split in ("train", "val"):
            (masks_apart / folder / "siteA" / split).mkdir(parents=True)
            shutil.copy(masks_apart / folder / name, masks_apart / folder / "siteA" / split)
    with pytest.raises(DataError, match="siteA"):
        splits_of(masks_apart)
