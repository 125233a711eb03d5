"""Writing results: all kinds, with overlays and COCO files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from instancefcn.files import writable, write_json
from instancefcn.images.download import is_url
from instancefcn.images.drawing import draw
from instancefcn.inference.coco_source import Id
from instancefcn.inference.result_formats import (
    CutOuts,
    LabelMap,
    LabelMe,
    ResultItem,
    Table,
    Writer,
    YoloLabels,
    relative_path,
    write_png,
)
from instancefcn.inference.sources import OVERLAY_SUFFIX
from instancefcn.instances import Instances

COCO_SUFFIX = ".coco.json"
SUMMARY_NAME = "predictions.json"
DETECTIONS_NAME = "detections.json"
"""All results as COCO's tools load them (`loadRes`), with the ids of a dataset."""


def write_overlay(
    out: Path, name: str, image: Tensor, instances: Instances, *, labels: bool = True, fill: bool = True
) -> Path:
    """Write `out/name.overlay.png`: the image, uint8 [3, H, W] RGB, with the instances drawn on it."""
    drawn = draw(image, instances, labels=labels, fill=fill)
    return write_png(out / f"{name}{OVERLAY_SUFFIX}", drawn)


def write_coco_results(out: Path, name: str, image_id: Id, instances: Instances) -> Path:
    """Write `out/name.coco.json`: a list of COCO results (category id, box, score, RLE mask), best first."""
    path = out / f"{name}{COCO_SUFFIX}"
    write_json(path, instances.to_coco(image_id), indent=None)
    return path


def prediction(name: str | None, instances: Instances) -> dict[str, Any]:
    """The results of one image as JSON values, as `instancefcn predict --json` and the HTTP API give them.

    Args:
        name: of the image file.
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
        "limit_reached": instances.limit_reached,
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
    """All results of one call as one COCO dataset: images, categories, annotations with scores.

    Any COCO reader opens it, to correct what was found and to train on it. File names are paths below the
    common folder of all images, which `info.folder` names; URLs are unchanged.

    Args:
        class_names, category_ids: the model's.
    """

    def __init__(self, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.images: dict[Id, dict[str, Any]] = {}
        self.results: dict[Id, list[dict[str, Any]]] = {}
        self.categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(category_ids, class_names, strict=True)
        ]

    def add(self, image_id: Id, source: Path | str, instances: Instances, frame: int | None = None) -> None:
        """Note the results of one image, or of one frame (from 0) of a video. Called in any order."""
        height, width = instances.image_size
        image: dict[str, Any] = {"id": image_id, "file_name": str(source), "width": width, "height": height}
        if instances.limit_reached is not None:
            image["limit_reached"] = instances.limit_reached
        self.images[image_id] = image if frame is None else {**image, "frame": frame}
        self.results[image_id] = [
            {**result, "area": area, "iscrowd": 0}
            for result, area in zip(
                instances.to_coco(image_id), instances.masks.areas().tolist(), strict=True
            )
        ]

    def detections(self) -> list[dict[str, Any]]:
        """All results as COCO results."""
        left_out = ("area", "iscrowd")
        return [
            {key: value for key, value in result.items() if key not in left_out}
            for image_id in self.ids()
            for result in self.results[image_id]
        ]

    def ids(self) -> list[Id]:
        """The ids of the images in the order of the files: numbers before text."""
        return sorted(self.images, key=lambda image_id: (isinstance(image_id, str), image_id))

    def write(self, out: Path, name: str = SUMMARY_NAME) -> Path:
        """Write `out/predictions.json`, or a file of another name. Annotations are numbered from 1."""
        path = out / name
        ids = self.ids()
        results = (result for image_id in ids for result in self.results[image_id])
        folder, names = below_one_folder([self.images[image_id]["file_name"] for image_id in ids])
        whole = {
            "info": {"folder": relative_path(folder, out)},
            "images": [
                {**self.images[image_id], "file_name": name}
                for image_id, name in zip(ids, names, strict=True)
            ],
            "categories": self.categories,
            "annotations": [{"id": number, **result} for number, result in enumerate(results, start=1)],
        }
        write_json(path, whole, indent=None)
        return path


def below_one_folder(sources: Sequence[str]) -> tuple[Path, list[str]]:
    """The innermost folder that holds all files, and their paths from there, with slashes. Files on several
    drives keep their whole paths, and URLs are unchanged.
    """
    whole = [source if is_url(source) else os.path.abspath(source) for source in sources]
    try:
        folder = Path(os.path.commonpath([os.path.dirname(path) for path in whole if not is_url(path)]))
    except ValueError:  # no files, or several drives
        return Path.cwd(), whole
    return folder, [path if is_url(path) else Path(path).relative_to(folder).as_posix() for path in whole]


class Overlays(Writer):
    """`NAME.overlay.png`: the image with the objects drawn on it, named."""

    def write(self, item: ResultItem) -> list[Path]:
        return [write_overlay(self.out, item.name, item.image, item.instances)]


class Outlines(Writer):
    """`NAME.overlay.png` with outlines alone: the masks of a hundred proposals would hide the image."""

    def write(self, item: ResultItem) -> list[Path]:
        return [write_overlay(self.out, item.name, item.image, item.instances, labels=False, fill=False)]


class CocoResults(Writer):
    """`NAME.coco.json`, COCO results of one image, and `predictions.json`, all of them as a dataset.

    Args:
        image_ids: by the index of the image; `detections.json`, all results as one list, is written too. None
            for the index plus one.
    """

    def __init__(
        self,
        out: Path,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        image_ids: Sequence[Id] | None = None,
    ) -> None:
        super().__init__(out, class_names, category_ids)
        self.summary, self.image_ids = CocoSummary(class_names, category_ids), image_ids

    def image_id(self, number: int) -> Id:
        return number + 1 if self.image_ids is None else self.image_ids[number]

    def write(self, item: ResultItem) -> list[Path]:
        return [write_coco_results(self.out, item.name, self.image_id(item.number), item.instances)]

    def collect(
        self, number: int, source: Path | str, instances: Instances, frame: int | None = None
    ) -> None:
        self.summary.add(self.image_id(number), source, instances)

    def finish(self) -> list[Path]:
        files = [self.summary.write(self.out)]
        if self.image_ids is not None:
            files.append(self.out / DETECTIONS_NAME)
            write_json(files[-1], self.summary.detections(), indent=None)
        return files


WRITERS: dict[str, type[Writer]] = {
    "overlay": Overlays,
    "coco": CocoResults,
    "yolo": YoloLabels,
    "labelme": LabelMe,
    "cutouts": CutOuts,
    "labelmap": LabelMap,
    "csv": Table,
}
"""All kinds, for images."""


def write_item(writers: Sequence[Writer], item: ResultItem) -> list[Path]:
    """Write the results of one image, of all kinds; return the files. Raises OutputError."""
    with writable():
        files = [path for writer in writers for path in writer.write(item)]
    for writer in writers:
        writer.collect(item.number, item.source, item.instances, item.frame)
    return files


def finish(writers: Sequence[Writer]) -> list[Path]:
    """Write the files that belong to all images; return them. Raises OutputError."""
    with writable():
        return [path for writer in writers for path in writer.finish()]
