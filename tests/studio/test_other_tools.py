"""docs/label.md: labels that other tools export, in their exact layouts, and what they take back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes import IDS, NAMES, save_coloured
from instancefcn.data.conversion import convert
from instancefcn.data.formats.layouts import open_datasets, splits_of
from instancefcn.inference.writers import CocoSummary
from instancefcn.studio.labelling.opening import open_labels
from labelling import save_image
from served import Served

OUTLINE = [20.0, 20.0, 80.0, 20.0, 80.0, 70.0, 20.0, 70.0]


def coco(names: list[str], prefix: str = "", first: int = 1, **more: Any) -> dict[str, Any]:
    """One object in every image."""
    images = [
        {"id": first + i, "width": 200, "height": 150, "file_name": f"{prefix}{name}"}
        for i, name in enumerate(names)
    ]
    annotations = [
        {
            "id": first + i,
            "image_id": first + i,
            "category_id": first,
            "segmentation": [OUTLINE],
            "bbox": [20.0, 20.0, 60.0, 50.0],
            "ignore": 0,
            "iscrowd": 0,
            "area": 3000.0,
        }
        for i in range(len(names))
    ]
    return {
        "images": images,
        "categories": [{"id": first, "name": "cat"}],
        "annotations": annotations,
        **more,
    }


def label_studio(folder: Path) -> None:
    """COCO with Images: result.json beside images/; ids begin with 0."""
    names = [f"{i:08x}-{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        save_image(folder / "images" / name, [(20, 20, 80, 70), (100 + 9 * i, 30, 150, 110)])
    info = {"year": 2026, "version": "1.0", "contributor": "Label Studio"}
    (folder / "result.json").write_text(json.dumps(coco(names, "images/", 0, info=info)))


def cvat(folder: Path) -> None:
    """COCO 1.0 of a task: annotations/instances_default.json and images/default/."""
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        save_image(folder / "images" / "default" / name, [(20, 20, 80, 70), (100 + 9 * i, 30, 150, 110)])
    (folder / "annotations").mkdir()
    content = coco(names, licenses=[{"name": "", "id": 0, "url": ""}])
    for annotation in content["annotations"]:
        annotation["attributes"] = {"occluded": False}
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(content))


def labelme(folder: Path) -> None:
    """A JSON file beside each image."""
    for i in range(6):
        save_image(folder / f"{i}.png", [(20, 20, 80, 70), (100 + 9 * i, 30, 150, 110)])
        points = [[x, y] for x, y in zip(OUTLINE[0::2], OUTLINE[1::2], strict=True)]
        shape = {
            "label": "cat",
            "points": points,
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        file = {
            "version": "5.8.1",
            "flags": {},
            "shapes": [shape],
            "imagePath": f"{i}.png",
            "imageData": None,
            "imageHeight": 150,
            "imageWidth": 200,
        }
        (folder / f"{i}.json").write_text(json.dumps(file))


def roboflow(folder: Path) -> None:
    """COCO: a folder for each split, with _annotations.coco.json; class 0 is the group of the others."""
    for split, numbers in (("train", range(4)), ("valid", range(4, 6))):
        names = [f"{i}_png.rf.{i:032x}.png" for i in numbers]
        for i, name in zip(numbers, names, strict=True):
            save_image(folder / split / name, [(20, 20, 80, 70), (100 + 9 * i, 30, 150, 110)])
        content = coco(names)
        content["categories"] = [
            {"id": 0, "name": "cats", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "cats"},
        ]
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


TOOLS = {
    "label_studio": (label_studio, ["train"]),
    "cvat": (cvat, ["train"]),
    "labelme": (labelme, ["train"]),
    "roboflow": (roboflow, ["train", "val"]),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_exports_are_trained_on_and_corrected(tool: str, tmp_path: Path) -> None:
    write, splits = TOOLS[tool]
    data = tmp_path / "export"
    data.mkdir()
    write(data)
    assert splits_of(data) == splits
    if "val" not in splits:
        convert(data, tmp_path / "my-data", "coco", val_share=0.2)
        data = tmp_path / "my-data"
    train, val = open_datasets(data, ["train", "val"])
    assert (len(train), len(val)) == (5, 1) if "val" not in splits else (4, 2)
    assert "cat" in train.class_names
    assert all(image.annotations[0].area == 3000 for image in train.images)
    labels = open_labels(tmp_path / "export", tmp_path / "corrected", [])
    assert labels.store.labelled() == (6, 2 if tool == "roboflow" else 1, 6)
    assert len(labels.store.objects(1)) == 1
    labels.store.close()


def test_what_predict_wrote_is_corrected(tmp_path: Path) -> None:
    image = save_coloured(tmp_path / "photos" / "a.png")
    summary = CocoSummary(NAMES, IDS)
    predictor = Served().load()
    summary.add(1, image, predictor(image))
    summary.write(tmp_path / "results")
    data = tmp_path / "found.yaml"
    data.write_text("train: {annotations: results/predictions.json, images: photos}\n")
    labels = open_labels(data, None, [])
    assert labels.store.out == tmp_path / "found-labelled"
    assert labels.store.classes() == dict(zip(IDS, NAMES, strict=True))
    assert [row["class"] for _, row in labels.store.objects(1)] == list(IDS)
    labels.store.close()
