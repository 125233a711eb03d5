"""Two bundled images with made-up objects in every format's published layout, not written by our writers."""

from __future__ import annotations

import base64
import io
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as oracle

PHOTOS = {"train": "otter", "val": "tiger"}
Masks = list[tuple[int, np.ndarray]]


SIZE = {"otter": (260, 280), "tiger": (270, 260)}
"""(height, width) that the images are cut to."""
_folder: list[Path] = []


@pytest.fixture(scope="session", autouse=True)
def small_photos(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Corners of the images, so that the tests are quick."""
    _folder.append(tmp_path_factory.mktemp("photos"))
    for name, (height, width) in SIZE.items():
        with Image.open(Path(str(files("instancefcn"))) / "assets" / "demo" / f"{name}.jpg") as image:
            image.crop((0, 0, width, height)).save(photo(name))


def photo(name: str) -> Path:
    return _folder[0] / f"{name}.jpg"


def size_of(name: str) -> tuple[int, int]:
    """(height, width)."""
    return SIZE[name]


def blocks(name: str) -> Masks:
    """Three objects that do not overlap, as (class 1, 2 or 3 of VOC, bool [H, W]): a square, a square with a
    hole, two squares."""
    masks: Masks = []
    for number, label in enumerate((3, 1, 3)):
        mask = np.zeros(size_of(name), dtype=bool)
        x = 20 + 90 * number
        mask[30:80, x : x + 40] = True
        if number == 1:
            mask[40:60, x + 10 : x + 20] = False
        if number == 2:
            mask[100:120, x : x + 15] = True
        masks.append((label, mask))
    return masks


def index_of(masks: Masks) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of objects and of classes, with a void border of one pixel at the first object's top."""
    objects = np.zeros(masks[0][1].shape, dtype=np.uint8)
    classes = objects.copy()
    for number, (label, mask) in enumerate(masks, start=1):
        objects[mask], classes[mask] = number, label
    objects[29, 20:60] = classes[29, 20:60] = 255
    return objects, classes


def save_palette(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette(list(range(256)) * 3)
    image.save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for split, name in PHOTOS.items():
        shutil.copy(photo(name), root / "JPEGImages")
        objects, classes = index_of(blocks(name))
        save_palette(objects, root / "SegmentationObject" / f"{name}.png")
        save_palette(classes, root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(f"{name}\n")
    both = "".join(f"{name}\n" for name in PHOTOS.values())
    (root / "ImageSets" / "Segmentation" / "trainval.txt").write_text(both)
    return tmp_path


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    io_ = pytest.importorskip("scipy.io", reason="SBD's .mat files need scipy")
    root = tmp_path / "benchmark_RELEASE" / "dataset"
    for folder in ("img", "inst", "cls"):
        (root / folder).mkdir(parents=True)
    for split, name in PHOTOS.items():
        shutil.copy(photo(name), root / "img")
        masks = blocks(name)
        objects, classes = (np.where(a == 255, 0, a).astype(np.uint8) for a in index_of(masks))
        labels = np.array([[label] for label, _ in masks], dtype=np.uint8)
        borders = np.empty((len(masks), 1), dtype=object)
        for number in range(len(masks)):
            borders[number, 0] = np.zeros((2, 2), dtype=bool)
        for kind, record in (
            ("inst", {"Segmentation": objects, "Boundaries": borders, "Categories": labels}),
            ("cls", {"Segmentation": classes, "Boundaries": borders, "CategoriesPresent": labels}),
        ):
            io_.savemat(root / kind / f"{name}.mat", {f"GT{kind}": record}, do_compression=True)
        (root / f"{split}.txt").write_text(f"{name}\n")
    return tmp_path


def yolo_line(label: int, points: list[tuple[float, float]], size: tuple[int, int]) -> str:
    return f"{label} " + " ".join(f"{x / size[1]:.6f} {y / size[0]:.6f}" for x, y in points)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """The first object of each image."""
    for split, name in PHOTOS.items():
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        shutil.copy(photo(name), tmp_path / "images" / split)
        line = yolo_line(2, [(20, 30), (60, 30), (60, 80), (20, 80)], size_of(name))
        (tmp_path / "labels" / split / f"{name}.txt").write_text(f"{line}\n")
    text = (
        f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames:\n  0: aeroplane\n  2: bird\nnc: 2\n"
    )
    (tmp_path / "data.yaml").write_text(text)
    return tmp_path


def shape(label: str, points: list[list[float]], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def labelme_shapes(name: str) -> list[dict[str, Any]]:
    """The objects of `blocks`: a rectangle, a mask, two polygons of one group."""
    crop = blocks(name)[1][1][30:80, 110:150]
    stream = io.BytesIO()
    Image.fromarray(crop.astype(np.uint8)).save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    return [
        shape("bird", [[60, 80], [20, 30]], "rectangle"),
        shape("aeroplane", [[110, 30], [149, 79]], "mask", mask=text),
        shape("bird", [[200, 30], [240, 30], [240, 80], [200, 80]], group_id=7),
        shape("bird", [[200, 100], [215, 100], [215, 120], [200, 120]], group_id=7),
    ]


@pytest.fixture
def labelme(tmp_path: Path) -> Path:
    for split, name in PHOTOS.items():
        (tmp_path / split).mkdir()
        shutil.copy(photo(name), tmp_path / split)
        height, width = size_of(name)
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": labelme_shapes(name),
            "imagePath": f"{name}.jpg",
            "imageData": base64.b64encode(photo(name).read_bytes()).decode(),
            "imageHeight": height,
            "imageWidth": width,
        }
        (tmp_path / split / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def masks_apart(tmp_path: Path) -> Path:
    """images/ and masks/: one mask of 8 bits, one of 16 bits."""
    (tmp_path / "images").mkdir()
    for name, kind, factor in (("otter", np.uint8, 1), ("tiger", np.uint16, 300)):
        shutil.copy(photo(name), tmp_path / "images")
        objects = np.where(index_of(blocks(name))[0] == 255, 0, index_of(blocks(name))[0])
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray((objects.astype(kind) * factor).astype(kind)).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


@pytest.fixture
def bowl(tmp_path: Path) -> Path:
    """One folder per image, one mask file per object."""
    for split, name in PHOTOS.items():
        place = tmp_path / split / name
        (place / "images").mkdir(parents=True)
        (place / "masks").mkdir()
        Image.open(photo(name)).convert("RGBA").save(place / "images" / f"{name}.png", compress_level=1)
        for number, (_, mask) in enumerate(blocks(name)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(place / "masks" / f"{number}.png")
    return tmp_path


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A COCO folder with everything that formats treat differently: ids, parts, a hole, a crowd, overlap,
    points outside the image, boxes and areas, a class without objects, two images of one name."""
    root = tmp_path / "rich"
    categories = [{"id": 9, "name": "zebra", "supercategory": "animal"}, {"id": 4, "name": "ant"}]
    categories.append({"id": 30, "name": "none"})
    for split, name in PHOTOS.items():
        height, width = size_of(name)
        (root / "images" / split).mkdir(parents=True)
        shutil.copy(photo(name), root / "images" / split / "same.jpg")
        ring = oracle.encode(np.asfortranarray(blocks(name)[1][1].astype(np.uint8)))
        ring = {"size": [height, width], "counts": ring["counts"].decode()}
        plain = oracle.encode(np.asfortranarray(blocks(name)[0][1].astype(np.uint8)))
        plain = {"size": [height, width], "counts": plain["counts"].decode()}
        outlines: list[Any] = [
            [[10.25, 150.5, 60.125, 155.75, 40.333333, 190.1]],
            [[200, 30, 240.5, 30, 240.5, 80], [200, 100, 215.7, 100, 215, 120]],
            ring,
            plain,
            [[-5, 200, 40, 205, 30, 240]],
            [[30, 160, 45, 160, 45, 175, 30, 175]],
            [[100, 200, 150, 200, 150, 250, 100, 250]],
        ]
        annotations = [
            {
                "id": 50 + 3 * number,
                "image_id": 77,
                "category_id": 4 if number % 2 else 9,
                "segmentation": outline,
                "iscrowd": int(number == 6),
            }
            for number, outline in enumerate(outlines)
        ]
        annotations[0] |= {"bbox": [10, 150, 51, 41], "area": 1234.5}
        image = {"id": 77, "file_name": f"{split}/same.jpg", "width": width, "height": height, "license": 1}
        content = {"images": [image], "annotations": annotations, "categories": categories, "info": {}}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root
