"""Join COCO-format folders into one: images linked under new names, categories joined by name.

    python tools/merge_coco.py OUT FOLDER... [--splits train val] [--objects]

For training on several data sets at once; `--objects` makes one class "object" of all categories, for general
weights. OUT must not exist. Images are hard links where the file system allows it, else copies.

An image record with `"coverage": "some"` says that prominent objects of the image are not annotated. The
whole of such an image becomes a region to ignore: its objects teach, its background does not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from instancefcn.files import link_or_copy, write_json

OBJECT = "object"


def category_ids(documents: Iterable[dict[str, Any]]) -> dict[str, int]:
    """A number for every category of any document, from 1: splits must agree on them."""
    ids: dict[str, int] = {}
    for document in documents:
        for category in document["categories"]:
            ids.setdefault(category["name"], len(ids) + 1)
    return ids


def merge(documents: dict[Path, dict[str, Any]], images: Path, ids: dict[str, int]) -> dict[str, Any]:
    """One COCO document of those of one split by their folders, whose images it links into `images`.

    Args:
        ids: from `category_ids`; a category that is not among them is an `OBJECT`.
    """
    document: dict[str, Any] = {"images": [], "annotations": []}
    for folder, own in documents.items():
        names = {category["id"]: category["name"] for category in own["categories"]}
        first = len(document["images"])
        new_ids = {}
        for number, image in enumerate(own["images"], start=first + 1):
            new_ids[image["id"]] = number
            name = f"{folder.name}-{number}{Path(image['file_name']).suffix}"
            link_or_copy(folder / "images" / image["file_name"], images / name)
            document["images"].append({**image, "id": number, "file_name": name})
        annotations = [
            {
                **annotation,
                "image_id": new_ids[annotation["image_id"]],
                "category_id": ids.get(names[annotation["category_id"]]) or ids[OBJECT],
            }
            for annotation in own["annotations"]
        ]
        partial = [image for image in document["images"][first:] if image.get("coverage") == "some"]
        annotations += [whole_image_ignored(image, min(ids.values())) for image in partial]
        for number, annotation in enumerate(annotations, start=len(document["annotations"]) + 1):
            document["annotations"].append({**annotation, "id": number})
    document["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    return document


def whole_image_ignored(image: dict[str, Any], category: int) -> dict[str, Any]:
    """A crowd region over all of an image, as uncompressed RLE."""
    height, width = image["height"], image["width"]
    return {
        "image_id": image["id"],
        "category_id": category,
        "iscrowd": 1,
        "bbox": [0, 0, width, height],
        "area": height * width,
        "segmentation": {"size": [height, width], "counts": [0, height * width]},
    }


def main() -> None:
    """Read all folders, then link and write split by split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--objects", action="store_true", help='one class, "object"')
    arguments = parser.parse_args()
    images = arguments.out / "images"
    images.mkdir(parents=True)
    folders, splits = arguments.folders, arguments.splits
    read = {
        split: {f: json.loads((f / f"{split}.json").read_text(encoding="utf-8")) for f in folders}
        for split in splits
    }
    names = category_ids(read[split][folder] for folder in folders for split in splits)
    ids = {OBJECT: 1} if arguments.objects else names
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
