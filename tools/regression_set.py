"""Make tests/data_sets, the images on which tests/test_accuracy.py measures the bundled models.

    python tools/regression_set.py DATA

DATA holds `animals7` and `nuclei` (docs/datasets.md). Image files are copied as they are and
renamed. Only images whose own licence is known to allow it are chosen: tests/data_sets/ATTRIBUTION.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from instancefcn.files import write_json

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "tests" / "data_sets"
ANIMALS = {
    "deer": ("2c7111fb07c12cdd", "93f84a69a6742894", "a9baa6267801ca2a"),
    "otter": ("4925db061a389ab4", "604eb43b2aa02494", "910279b321209127"),
    "tiger": ("0b0dec096146999f", "21a9a556841f7966", "5427d81773e2b00f", "a89b7ff2add0163b"),
    "turtle": ("1afc0f8f04bd6f25", "2a94e357eb1b73f8", "5c33ef328bef23a7", "5cfcb7a716a0c16a"),
}
"""Ids, of the kind that Open Images uses, in the file names of `animals7`'s validation split."""
NUCLEI = (
    "05040e2e959c3f56",
    "2bf594e9d06f78b4",
    "5ba4facefc949c92",
    "75120baa6abcbfe7",
    "7c318172e976ae5a",
    "a0de55384fada5cb",
    "aa47f0b303b1d525",
    "ac8169a0debed115",
    "c00ae67f72816dae",
    "d6a880b1f6056f30",
    "e50ac10d1dce6496",
    "feffce59a1a3eb0a",
)


class Writer:
    """Collects images and annotations of one COCO folder."""

    def __init__(self, folder: Path, categories: list[dict[str, Any]]) -> None:
        self.folder, self.categories = folder, categories
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "images").mkdir(parents=True)

    def add(self, source: Path, content: dict[str, Any], record: dict[str, Any], name: str) -> None:
        """Copy an image and its annotations of the classes that this folder has."""
        names = {category["id"]: category["name"] for category in content["categories"]}
        own = {category["name"]: category["id"] for category in self.categories}
        path = source / "images" / record["file_name"]
        shutil.copyfile(path, self.folder / "images" / f"{name}{path.suffix}")
        number = len(self.images) + 1
        self.images.append(
            {
                "id": number,
                "file_name": f"{name}{path.suffix}",
                "width": record["width"],
                "height": record["height"],
                "source": f"{source.name}/{record['file_name']}",
            }
        )
        for annotation in content["annotations"]:
            kind = names[annotation["category_id"]]
            if annotation["image_id"] == record["id"] and kind in own:
                copied = {key: annotation[key] for key in ("bbox", "area", "iscrowd", "segmentation")}
                place = {"id": len(self.annotations) + 1, "image_id": number, "category_id": own[kind]}
                self.annotations.append(place | copied)

    def write(self, split: str, every: int = 1) -> None:
        """SPLIT.json with all images, or with every second, third, ... of them."""
        images = self.images[::every]
        ids = {image["id"] for image in images}
        annotations = [a for a in self.annotations if a["image_id"] in ids]
        content = {"images": images, "annotations": annotations, "categories": self.categories}
        write_json(self.folder / f"{split}.json", content, indent=None)


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "val.json").read_text(encoding="utf-8"))
    return content


def write_animals(animals7: Path, target: Path) -> None:
    own = read(animals7)
    writer = Writer(target, [{"id": c["id"], "name": c["name"]} for c in own["categories"]])
    for kind, ids in ANIMALS.items():
        for number, id_ in enumerate(ids, start=1):
            (record,) = (i for i in own["images"] if i["file_name"].startswith(f"val_{id_}_"))
            writer.add(animals7, own, record, f"{kind}_{number}")
    writer.write("val")
    writer.write("half", every=2)  # for instancefcn-objects, which takes a second per image


def write_nuclei(nuclei: Path, target: Path) -> None:
    content = read(nuclei)
    writer = Writer(target, [{"id": 1, "name": "nucleus"}])
    for name in NUCLEI:
        (record,) = (i for i in content["images"] if i["file_name"] == f"{name}.png")
        writer.add(nuclei, content, record, name)
    writer.write("val")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    write_animals(data / "animals7", TARGET / "animals")
    write_nuclei(data / "nuclei", TARGET / "nuclei")
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(f"{TARGET.relative_to(ROOT)}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
