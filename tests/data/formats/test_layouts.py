"""Folders and YAML files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from instancefcn.data.formats.layouts import open_dataset, open_datasets, splits_of
from instancefcn.errors import DataError


def test_folder(shapes_folder: Path) -> None:
    train, val = open_datasets(shapes_folder, ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert train.name == f"{shapes_folder.name}/train"
    assert train.class_names == ("circle", "square", "triangle")
    assert train.category_ids == (3, 7, 11)
    assert len(open_dataset(str(shapes_folder), "val")) == 2


def test_yaml(shapes_folder: Path, tmp_path: Path) -> None:
    entry = f"{{annotations: {shapes_folder}/val.json, images: {shapes_folder}/images}}"
    (tmp_path / "data.yaml").write_text(f"test: {entry}\n")
    assert len(open_dataset(tmp_path / "data.yaml", "test")) == 2
    shutil.copytree(shapes_folder, tmp_path / "inner")
    (tmp_path / "data.yml").write_text("val:\n  annotations: inner/val.json\n  images: inner/images\n")
    assert len(open_dataset(tmp_path / "data.yml", "val")) == 2


def test_yaml_whose_splits_are_numbers(shapes_folder: Path, tmp_path: Path) -> None:
    entry = f"{{annotations: {shapes_folder}/val.json, images: {shapes_folder}/images}}"
    (tmp_path / "data.yaml").write_text(f"2017: {entry}\n")
    assert splits_of(tmp_path / "data.yaml") == ["2017"]
    assert len(open_dataset(tmp_path / "data.yaml", "2017")) == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train: 3", "data.yaml: train "),
        ("train: {annotations: a.json}", "data.yaml: train "),
        ("train: {annotations: a.json, images: b, root: c}", "root"),
        ("val: {annotations: a.json, images: b}", "'train'"),
        ("- a", "data.yaml"),
        ("", "data.yaml"),
        ("{", "data.yaml"),
        ("train: {annotations: a.json, images: b}", "a.json"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=re.escape(named)):
        open_dataset(tmp_path / "data.yaml", "train")


def test_missing_files_list_what_was_found(shapes_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.json.*train, val"):
        open_dataset(shapes_folder, "test")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "none"))):
        open_dataset(tmp_path / "none", "train")
    (tmp_path / "photos").mkdir()
    shutil.copy(shapes_folder / "train.json", tmp_path)
    with pytest.raises(DataError, match=r"images/.*photos"):
        open_dataset(tmp_path, "train")
    with pytest.raises(DataError, match=r"train\.json"):
        open_dataset(tmp_path / "train.json", "train")


def test_problems_of_all_splits_together(shapes_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes_folder, tmp_path / "data")
    for split in ("train", "val"):
        (tmp_path / "data" / "images" / f"{split}_0000.png").unlink()
        file = tmp_path / "data" / f"{split}.json"
        content = json.loads(file.read_text())
        content["annotations"][-1]["category_id"] = 99
        file.write_text(json.dumps(content))
    (tmp_path / "data" / "images" / "val_0001.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_datasets(tmp_path / "data", ("train", "val"))
    assert len(caught.value.problems) == 5
    assert sum("train.json" in p for p in caught.value.problems) == 2
    assert sum("val.json" in p for p in caught.value.problems) == 2


def test_splits_must_have_the_same_classes(shapes_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes_folder, tmp_path / "data")
    file = tmp_path / "data" / "val.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "disc"
    content["categories"].append({"id": 12, "name": "star"})
    file.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        open_datasets(tmp_path / "data", ("train", "val"))
    assert len(caught.value.problems) == 2
    assert ["'disc'" in caught.value.problems[0], "'star'" in caught.value.problems[1]] == [True, True]
    assert len(open_dataset(tmp_path / "data", "val")) == 2
