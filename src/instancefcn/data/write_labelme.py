"""Writing LabelMe folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instancefcn.data.dataset import Annotation, Dataset, Picture
from instancefcn.data.labelme import CROWD, encode_mask
from instancefcn.data.target import Losses, Target
from instancefcn.errors import DataError
from instancefcn.geometry.rle import decode_crop
from instancefcn.geometry.tracing import trace_pixel_edges

VERSION = "5.5.0"
"""The version of LabelMe whose files these are like."""


def write_labelme(splits: Mapping[str, Dataset], target: Target) -> None:
    """Write a folder for every split, with a JSON file beside each picture.

    Parts of an object share a group_id, crowds bear the flag "crowd"; masks with holes become shapes of the
    kind "mask", other masks polygons along the edges of their pixels.

    Raises:
        DataError: several splits, none of which is train or val: they would be read back as one.
    """
    if not splits.keys() & {"train", "val"}:
        if len(splits) > 1:
            raise DataError(
                f"LabelMe knows splits by the folders train/ and val/; these are {', '.join(splits)}, and "
                "would be read as one: name them in a YAML file (train: {..}, val: {..}) and convert that, "
                "or rename them"
            )
        target.losses.note("names of splits: one that is not val is read as train", of="splits")
    class_names = next(iter(splits.values())).class_names
    used: set[int] = set()
    for split, dataset in splits.items():
        for name, picture in zip(target.names[split], dataset.pictures, strict=True):
            path = target.place(picture, name, split)
            shapes: list[dict[str, Any]] = []
            for group, annotation in enumerate(picture.annotations, start=1):
                found = _shapes(annotation, class_names[annotation.label], group, picture, target.losses)
                used |= {annotation.label} if found else set()
                shapes += found
            content: dict[str, Any] = {
                "version": VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": path.name,
                "imageData": None,
                "imageHeight": picture.height,
                "imageWidth": picture.width,
            }
            target.write(Path(split, f"{name}.json"), json.dumps(content, indent=2, allow_nan=False))
    target.losses.note("classes without an object were left out", len(class_names) - len(used), "classes")
    same = len(class_names) - len(set(class_names))
    target.losses.note("classes that share a name became one", same, "classes")
    kept = [class_names[label] for label in sorted(used)]
    moved = sum(a != b for a, b in zip(kept, sorted(kept), strict=True))
    target.losses.note("order of the classes: it follows their names", moved, "classes")


def _shapes(a: Annotation, label: str, group: int, picture: Picture, losses: Losses) -> list[dict[str, Any]]:
    """The shapes of one object, its parts in `group`."""
    rings = a.segmentation
    extra: dict[str, Any] = {}
    kind = "polygon"
    if isinstance(rings, dict):
        crop, (x, y) = decode_crop(rings["counts"], picture.height)
        rings, holes = trace_pixel_edges(crop.numpy(), (x, y))
        if not rings:
            losses.note("outlines without a pixel were left out")
        elif holes:
            kind, extra = "mask", {"mask": encode_mask(crop.numpy())}
            rings = [[x, y, x + crop.shape[1] - 1, y + crop.shape[0] - 1]]  # its last pixel
        else:
            losses.note("run-length masks became polygons along the edges of the same pixels")
    return [
        {
            "label": label,
            "points": [list(point) for point in zip(ring[0::2], ring[1::2], strict=True)],
            "group_id": group if len(rings) > 1 else None,
            "description": "",
            "shape_type": kind,
            "flags": {CROWD: True} if a.crowd else {},
            **extra,
        }
        for ring in rings
    ]
