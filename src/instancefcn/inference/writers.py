"""Writing results: an overlay and COCO results for every picture, and one COCO file for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from instancefcn.data.paths import output_names as output_names  # offered here too
from instancefcn.files import atomic_write, write_json
from instancefcn.inference.drawing import draw
from instancefcn.inference.sources import OVERLAY_SUFFIX
from instancefcn.instances import Instances

COCO_SUFFIX = ".coco.json"
SUMMARY_NAME = "predictions.json"


def write_overlay(
    out: Path, name: str, picture: Tensor, instances: Instances, *, labels: bool = True
) -> Path:
    """Write `out/name.overlay.png`: the picture, uint8 [3, H, W] RGB, with the instances drawn on it."""
    path = out / f"{name}{OVERLAY_SUFFIX}"
    drawn = draw(picture, instances, labels=labels)
    with atomic_write(path) as temporary:
        # The default level takes four times as long and saves a tenth of the bytes of a photograph.
        drawn.save(temporary, format="PNG", compress_level=3)
    return path


def write_coco_results(out: Path, name: str, image_id: int, instances: Instances) -> Path:
    """Write `out/name.coco.json`: a list of COCO results (category id, box, score, RLE mask), best first."""
    path = out / f"{name}{COCO_SUFFIX}"
    write_json(path, instances.to_coco(image_id), indent=None)
    return path


def prediction(name: str | None, instances: Instances) -> dict[str, Any]:
    """One picture's results as JSON values, as `instancefcn predict --json` and the HTTP API give them.

    Args:
        name: of the picture's file.
        instances: what was found in it.
    """
    height, width = instances.image_size
    rows = zip(
        instances.names,
        instances.labels.tolist(),
        instances.scores.tolist(),
        instances.boxes.tolist(),
        instances.masks.areas().tolist(),
        instances.rles(),
        strict=True,
    )
    return {
        "file": name,
        "width": width,
        "height": height,
        "instances": [
            {
                "class": class_name,
                "category_id": instances.category_ids[label],
                "score": round(score, 6),
                "box": [round(side, 2) for side in box],
                "area": area,
                "segmentation": rle,
            }
            for class_name, label, score, box, area, rle in rows
        ],
    }


class CocoSummary:
    """All results of one call as one COCO data set: images, categories, annotations with scores.

    Any COCO reader opens it, to correct what was found and to train on it.

    Args:
        class_names, category_ids: the model's.
    """

    def __init__(self, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(category_ids, class_names, strict=True)
        ]

    def add(self, image_id: int, path: Path, instances: Instances) -> None:
        """Note one picture's results."""
        height, width = instances.image_size
        self.images.append({"id": image_id, "file_name": str(path), "width": width, "height": height})
        for result, area in zip(instances.to_coco(image_id), instances.masks.areas().tolist(), strict=True):
            number = len(self.annotations) + 1
            self.annotations.append({"id": number, **result, "area": area, "iscrowd": 0})

    def write(self, out: Path) -> Path:
        """Write `out/predictions.json`."""
        path = out / SUMMARY_NAME
        whole = {"images": self.images, "categories": self.categories, "annotations": self.annotations}
        write_json(path, whole, indent=None)
        return path
