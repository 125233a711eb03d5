"""A small clean dataset, and at least one change that makes it fail each check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Content = dict[str, Any]
WIDTH, HEIGHT = 160, 120


@dataclass
class Sick:
    """The dataset's folder and the contents of its two files, to be changed and written."""

    folder: Path
    train: Content
    val: Content

    def image(self, name: str) -> Path:
        return self.folder / "images" / name

    def write(self) -> Path:
        for name in ("train", "val"):
            (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))
        return self.folder


def clean(folder: Path) -> Sick:
    """4 train and 2 val images of 12 rectangles each, of two classes in turn."""
    (folder / "images").mkdir(parents=True)
    contents = []
    for split, count in (("train", 4), ("val", 2)):
        images, annotations = [], []
        for number in range(count):
            name = f"{split}{number}.png"
            blocks = np.random.default_rng([number, count]).integers(0, 256, (12, 16, 3), np.uint8)
            image = Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            image.save(folder / "images" / name)
            images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for place in range(12):
                x, y = 5 + 40 * (place % 4), 8 + 38 * (place // 4)
                id_ = len(annotations) + 1
                annotations.append(
                    {"id": id_, "image_id": number, **rectangle(x, y, 28, 24), "category_id": 1 + id_ % 2}
                )
        categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "ring"}]
        contents.append({"images": images, "annotations": annotations, "categories": categories})
    return Sick(folder, *contents)


def rectangle(x: float, y: float, w: float, h: float) -> Content:
    """Outline, box and area."""
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {"segmentation": outline, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}


def first(**fields: Any) -> Callable[[Sick], None]:
    """Change fields of train's first annotation."""
    return lambda sick: sick.train["annotations"][0].update(fields)


def _turned(orientation: int) -> Callable[[Sick], None]:
    def apply(sick: Sick) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(sick.image("val0.png")) as image:
            image.save(sick.image("val0.png"), exif=exif)

    return apply


def _animate(sick: Sick) -> None:
    with Image.open(sick.image("val0.png")) as image:
        frames = [image.convert("RGB"), Image.new("RGB", image.size)]
    frames[0].save(sick.image("val0.png"), save_all=True, append_images=frames[1:])


def _truncate(sick: Sick) -> None:
    path = sick.image("val0.png")
    path.write_bytes(path.read_bytes()[:900])


def _categories(change: Callable[[list[Content]], Any], splits: str = "both") -> Callable[[Sick], None]:
    def apply(sick: Sick) -> None:
        change(sick.val["categories"])
        if splits == "both":
            change(sick.train["categories"])

    return apply


def _again(sick: Sick) -> None:
    sick.train["annotations"].append({**sick.train["annotations"][0], "id": 900})


def _copy(source: str, target: str) -> Callable[[Sick], None]:
    return lambda sick: shutil.copy(sick.image(source), sick.image(target))


def _resave(source: str, target: str) -> Callable[[Sick], None]:
    """The same image, slightly brighter and compressed."""

    def apply(sick: Sick) -> None:
        with Image.open(sick.image(source)) as image:
            image.point(lambda v: round(v * 0.9 + 20)).save(sick.image(target), "JPEG", quality=60)

    return apply


def _few(sick: Sick) -> None:
    _categories(lambda list_: list_.append({"id": 3, "name": "rare"}))(sick)
    sick.train["annotations"][0]["category_id"] = 3


def _tiny(sick: Sick) -> None:
    for annotation in sick.train["annotations"][:6]:
        annotation.update(rectangle(*annotation["bbox"][:2], 4, 4))


def _in_parts(sick: Sick) -> None:
    """Every rectangle of train becomes three."""
    for annotation in sick.train["annotations"]:
        x, y, _, height = annotation["bbox"]
        parts = [rectangle(x + shift, y, 8, height) for shift in (0, 10, 20)]
        outline = [polygon for part in parts for polygon in part["segmentation"]]
        annotation.update(segmentation=outline, area=3 * 8 * height)


def _without_train_objects(sick: Sick) -> None:
    sick.train["annotations"] = []


def _without_val_objects(sick: Sick) -> None:
    sick.val["annotations"] = [a for a in sick.val["annotations"] if a["image_id"]]


def _one_val_image(sick: Sick) -> None:
    sick.image(sick.val["images"].pop()["file_name"]).unlink()
    sick.val["annotations"] = sick.val["annotations"][:12]


def _brushed(sick: Sick) -> None:
    """A third of val's objects as a brush draws them: crowds whose run lengths are one region."""
    for annotation in sick.val["annotations"][::3]:
        x, y, w, h = map(int, annotation["bbox"])
        runs = [HEIGHT * x + y, *([h, HEIGHT - h] * (w - 1)), h]
        runs.append(WIDTH * HEIGHT - sum(runs))
        annotation.update(segmentation={"size": [HEIGHT, WIDTH], "counts": runs}, iscrowd=1)


BOW = {"segmentation": [[5, 8, 33, 32, 33, 8, 5, 32]], "bbox": [5, 8, 28, 24], "area": 336}
RING = [[5, 8, 33, 8, 33, 32, 5, 32], [12, 14, 12, 26, 26, 26, 26, 14]]
OVER = [[-9, 8, 33, 8, 33, 32, -9, 32]]
SLIVER = [[10.1, 10.1, 10.3, 10.1, 10.3, 10.2]]

# (check, severity, the change to the dataset, whether --fix repairs it)
SICK: list[tuple[str, str, Callable[[Sick], Any], bool]] = [
    ("format", "error", first(iscrowd=2), True),
    ("missing-image", "error", lambda sick: sick.image("val0.png").unlink(), True),
    ("unreadable-image", "error", _truncate, True),
    ("exif-rotation", "error", _turned(6), True),
    ("exif-rotation", "note", _turned(3), True),
    ("size-mismatch", "error", lambda sick: sick.val["images"][0].update(width=170), True),
    ("size-mismatch", "error", lambda sick: sick.val["images"][0].update(width=320, height=240), True),
    ("size-mismatch", "error", lambda sick: sick.image("val0.png").write_bytes(_small()), False),
    ("several-pages", "warning", _animate, False),
    ("duplicate-id", "error", first(id=2), True),
    ("unknown-category", "error", first(category_id=9), True),
    ("unknown-image", "error", first(image_id=77), True),
    ("outline", "error", first(segmentation=None), True),
    ("polygon-points", "error", first(segmentation=[[5, 8, 33, 32]]), True),
    ("out-of-bounds", "error", first(bbox=[500, 8, 28, 24]), True),
    ("out-of-bounds", "warning", first(segmentation=OVER, bbox=[0, 8, 33, 24], area=792), True),
    ("zero-area", "error", first(bbox=[5, 8, 0, 0]), True),
    ("zero-area", "warning", first(segmentation=SLIVER, bbox=[10, 10, 0.3, 0.2]), True),
    ("class-names", "error", _categories(lambda list_: list_[0].update(name="drop"), "val"), False),
    ("class-names", "error", _categories(lambda list_: list_.append({"id": 3, "name": "x"}), "val"), True),
    ("class-names", "warning", _categories(lambda list_: list_[1].update(name="Cell")), False),
    ("no-objects", "error", _without_train_objects, False),
    ("self-intersection", "warning", first(**BOW), False),
    ("filled-hole", "warning", first(segmentation=RING, area=672), False),
    ("box-mask", "warning", first(bbox=[5, 8, 40, 24]), True),
    ("area-mask", "note", first(area=5000), True),
    ("duplicate-object", "warning", _again, True),
    ("duplicate-image", "warning", _copy("train0.png", "train1.png"), True),
    ("near-duplicate", "warning", _resave("train0.png", "train1.png"), False),
    ("leak", "warning", _copy("train0.png", "val0.png"), True),
    ("near-leak", "warning", _resave("train0.png", "val0.png"), False),
    ("unused-category", "warning", _categories(lambda list_: list_.append({"id": 3, "name": "x"})), False),
    ("few-examples", "warning", _few, False),
    ("no-objects", "warning", lambda sick: sick.val["annotations"].clear(), False),
    ("class-names", "error", _categories(lambda list_: list_[1].update(name="cell")), False),
    ("single-image", "note", _one_val_image, False),
    ("empty-image", "note", _without_val_objects, False),
    ("crowd", "warning", _brushed, False),
    ("crowd", "note", lambda sick: sick.val["annotations"][0].update(iscrowd=1), False),
    ("object-size", "warning", _tiny, False),
    ("merged-objects", "warning", _in_parts, True),
    ("reading", "warning", lambda sick: sick.val["images"][0].update(file_name="C:\\mine\\val0.png"), True),
    ("unread-file", "note", lambda sick: (sick.folder / "images" / "a.heic").touch(), True),
    ("unread-file", "warning", lambda sick: (sick.folder / "more").symlink_to("nowhere"), True),
]


def _small() -> bytes:
    import io

    stream = io.BytesIO()
    blocks = np.random.default_rng(5).integers(0, 256, (70, 50, 3), np.uint8)
    Image.fromarray(blocks).save(stream, "PNG")
    return stream.getvalue()
