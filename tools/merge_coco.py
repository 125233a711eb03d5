"""Join COCO-format folders into one: images linked under new names, categories joined by name.

    python tools/merge_coco.py OUT FOLDER... [--splits train val]

For training on several data sets at once. OUT must not exist. Images are hard links where the file system
allows it, else copies.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from instancefcn.files import link_or_copy, write_json


def category_ids(documents: Iterable[dict[str, Any]]) -> dict[str, int]:
    """A number for every category of any document, from 1: splits must agree on them."""
    ids: dict[str, int] = {}
    for document in documents:
        for category in document["categories"]:
            ids.setdefault(category["name"], len(ids) + 1)
    return ids


def merge(documents: dict[Path, dict[str, Any]], images: Path, ids: dict[str, int]) -> dict[str, Any]:
    """One COCO document of those of one split by their folders, whose images it links into `images`; `ids`
    from `category_ids`.
    """
    document: dict[str, Any] = {"images": [], "annotations": []}
    for folder, own in documents.items():
        names = {category["id"]: category["name"] for category in own["categories"]}
        first_image, first_annotation = len(document["images"]), len(document["annotations"])
        place = {}
        for number, image in enumerate(own["images"], start=first_image + 1):
            place[image["id"]] = number
            name = f"{folder.name}-{number}{Path(image['file_name']).suffix}"
            link_or_copy(folder / "images" / image["file_name"], images / name)
            document["images"].append({**image, "id": number, "file_name": name})
        for number, annotation in enumerate(own["annotations"], start=first_annotation + 1):
            document["annotations"].append(
                {
                    **annotation,
                    "id": number,
                    "image_id": place[annotation["image_id"]],
                    "category_id": ids[names[annotation["category_id"]]],
                }
            )
    document["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    arguments = parser.parse_args()
    images = arguments.out / "images"
    images.mkdir(parents=True)
    folders, splits = arguments.folders, arguments.splits
    read = {
        split: {f: json.loads((f / f"{split}.json").read_text(encoding="utf-8")) for f in folders}
        for split in splits
    }
    ids = category_ids(read[split][folder] for folder in folders for split in splits)
    for split, documents in read.items():
        folder = images / split
        folder.mkdir()
        document = merge(documents, folder, ids)
        for image in document["images"]:
            image["file_name"] = f"{split}/{image['file_name']}"
        write_json(arguments.out / f"{split}.json", document)
        print(f"{split}: {len(document['images'])} images, {len(document['annotations'])} objects")


if __name__ == "__main__":
    main()
