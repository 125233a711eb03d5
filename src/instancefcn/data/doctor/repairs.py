"""Repair one image's record and annotations, and note what was done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from instancefcn.data.dataset import Annotation, ImageRecord
from instancefcn.data.doctor.checked_data import shapes_of
from instancefcn.data.doctor.objects import areas_agree, boxes_agree
from instancefcn.data.image_checks import TOLERANCE, Inspection
from instancefcn.data.unusable import ignored_region
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.outlines import Segmentation, outline_problem
from instancefcn.geometry.rle import decode_crop

SAME_SHAPE = 0.01
"""Maximum relative difference of aspect ratio between an image and a resized version of it."""

Treatment = Literal["unchanged", "without EXIF rotation", "upright"]


@dataclass
class Repairs:
    """The repairs of one split, in order."""

    split: str
    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, check: str, what: str, image: ImageRecord | None = None, annotation: int | None = None
    ) -> None:
        """Note a repair: the check whose finding it fixes, and what was done to which image or annotation."""
        path = None if image is None else str(image.path)
        self.entries.append(
            {"check": check, "split": self.split, "image": path, "annotation": annotation, "what": what}
        )


def repaired(
    image: ImageRecord, inspection: Inspection, repairs: Repairs
) -> tuple[ImageRecord, Treatment] | None:
    """An image with everything repaired that can be, and the treatment of its file; None if it must go.

    What cannot be repaired does not change.
    """
    problem = inspection.problem
    treatment: Treatment = "unchanged"
    if problem is not None and inspection.size is None:
        gone = f"left out, with its {len(image.annotations)} annotations: {problem}"
        repairs.add(problem.check, gone, image)
        return None
    if problem is not None and problem.check == "exif-rotation":
        repairs.add("exif-rotation", "EXIF orientation removed: it was annotated unrotated", image)
        treatment = "without EXIF rotation"
    elif problem is not None:
        assert inspection.size is not None
        image = _resized(image, inspection.size, repairs)
    if inspection.turned and treatment == "unchanged" and inspection.size == (image.height, image.width):
        repairs.add("exif-rotation", "stored upright, without an EXIF orientation", image)
        treatment = "upright"
    annotations = _repaired_annotations(image, repairs)
    return None if annotations is None else (replace(image, annotations=tuple(annotations)), treatment)


def merge_records(
    results: Sequence[tuple[ImageRecord, Treatment] | None], repairs: Repairs
) -> tuple[ImageRecord, Treatment] | None:
    """One record made of all repaired records of one file, with each object once.

    None, for an image that is left out, if a record must go, or if one with annotations cannot be merged
    because its size or treatment differs from the first: its objects would become background.
    """
    records = [result for result in results if result is not None]
    if len(records) < len(results):
        for image, _ in records:
            what = f"left out, with its {len(image.annotations)} annotations"
            repairs.add("duplicate-image", f"{what}: another record of this file is left out", image)
        return None
    first, treatment = records[0]
    annotations = list(first.annotations)
    seen = {_identity(annotation) for annotation in annotations}
    for image, other in records[1:]:
        if (image.height, image.width, other) != (first.height, first.width, treatment):
            what = f"left out, with its {len(image.annotations)} annotations"
            repairs.add("duplicate-image", f"{what}: another record of this file has another size", image)
            if not image.annotations:
                continue
            what = f"left out, with its {len(annotations)} annotations"
            repairs.add("duplicate-image", f"{what}: its records differ, and each has objects", first)
            return None
        new = [annotation for annotation in image.annotations if _identity(annotation) not in seen]
        seen.update(map(_identity, new))
        annotations += new
        what = f"merged into the first record of this file, which gains {len(new)} annotations"
        repeated = len(image.annotations) - len(new)
        repairs.add("duplicate-image", f"{what}; {repeated} were repeated" if repeated else what, image)
    return replace(first, annotations=tuple(annotations)), treatment


def _identity(annotation: Annotation) -> tuple[int, str]:
    """What two annotations of the same object have in common: class and outline."""
    return annotation.label, json.dumps(annotation.segmentation)


def _resized(image: ImageRecord, size: tuple[int, int], repairs: Repairs) -> ImageRecord:
    """The image with its real size, if its annotations can be scaled to it or already fit it."""
    height, width = size
    was = f"{image.width} x {image.height}"
    ratio = (width * image.height) / (height * image.width)
    sound = all(outline_problem(a.segmentation, image.height, image.width) is None for a in image.annotations)
    if abs(ratio - 1) < SAME_SHAPE and sound:
        x, y = width / image.width, height / image.height
        annotations = tuple(_scaled(a, image, size) for a in image.annotations)
        what = f"record corrected from {was} to {width} x {height}, annotations scaled by {x:.4g} and {y:.4g}"
    elif all(_fits(a, height, width) for a in image.annotations):
        annotations = image.annotations
        what = f"record corrected from {was} to {width} x {height}, annotations unchanged because they fit"
    else:
        return image
    repairs.add("size-mismatch", what, image)
    return replace(image, height=height, width=width, annotations=annotations)


def _fits(annotation: Annotation, height: int, width: int) -> bool:
    if not isinstance(annotation.segmentation, list):
        return False  # an RLE only fits an image of its size
    xs = [x for polygon in annotation.segmentation for x in polygon[0::2]]
    ys = [y for polygon in annotation.segmentation for y in polygon[1::2]]
    inside = min(xs) >= -TOLERANCE and min(ys) >= -TOLERANCE
    return inside and max(xs) <= width + TOLERANCE and max(ys) <= height + TOLERANCE


def _scaled(annotation: Annotation, image: ImageRecord, size: tuple[int, int]) -> Annotation:
    height, width = size
    x, y = width / image.width, height / image.height
    outline: Segmentation
    if isinstance(annotation.segmentation, list):
        outline = [
            [round(value * (y if i % 2 else x), 2) for i, value in enumerate(polygon)]
            for polygon in annotation.segmentation
        ]
    else:
        crop, corner = decode_crop(annotation.segmentation["counts"], image.height)
        one = CroppedMasks.from_crops([crop], [corner], (image.height, image.width))
        scaled = Image.fromarray(one.paste(0).byte().numpy()).resize(
            (width, height), Image.Resampling.NEAREST
        )
        outline = CroppedMasks.from_dense(torch.from_numpy(np.array(scaled))[None]).rles()[0]
    x1, y1, x2, y2 = annotation.box
    box = (x1 * x, y1 * y, x2 * x, y2 * y)
    return replace(annotation, segmentation=outline, box=box, area=annotation.area * x * y)


def _repaired_annotations(image: ImageRecord, repairs: Repairs) -> list[Annotation] | None:
    """The annotations, repaired; None if the image must go, because an object cannot be drawn."""
    kept: list[Annotation] = []
    seen: set[tuple[int, str]] = set()
    for annotation in image.annotations:
        key = _identity(annotation)
        changed = _clipped(annotation, image, repairs)
        (shape,) = shapes_of(replace(image, annotations=(changed,)))
        if shape.problem is not None:
            region = ignored_region(
                annotation.id, annotation.label, annotation.box, image.height, image.width
            )
            if region is None:
                what = f"image left out, with its {len(image.annotations)} annotations: {shape.problem}"
                repairs.add(shape.problem.check, what, image, annotation.id)
                return None
            what = f"made an ignored region (iscrowd 1): {shape.problem}"
            repairs.add(shape.problem.check, what, image, annotation.id)
            kept.append(region)
        elif shape.area == 0:
            repairs.add("zero-area", "left out: its outline covers no pixel", image, annotation.id)
        elif key in seen:
            repairs.add("duplicate-object", "left out: repeats another annotation", image, annotation.id)
        else:
            seen.add(key)
            if not boxes_agree(changed.box, shape.box):
                repairs.add("box-mask", "box computed from the outline", image, annotation.id)
                changed = replace(changed, box=shape.box)
            if not areas_agree(changed.area, shape.area):
                what = f"area corrected from {changed.area:.0f} to the outline's {shape.area}"
                repairs.add("area-mask", what, image, annotation.id)
                changed = replace(changed, area=float(shape.area))
            kept.append(changed)
    return kept


def _clipped(annotation: Annotation, image: ImageRecord, repairs: Repairs) -> Annotation:
    """The annotation with its polygons and box cut off at the image's edges."""
    polygons = annotation.segmentation
    if not isinstance(polygons, list) or outline_problem(polygons, image.height, image.width):
        return annotation
    if _fits(annotation, image.height, image.width):
        return annotation
    cut = [clip_polygon(polygon, image.height, image.width) for polygon in polygons]
    cut = [polygon for polygon in cut if len(polygon) >= 6]
    if not cut:
        return annotation
    repairs.add("out-of-bounds", "outline cut off at the image's edges", image, annotation.id)
    x1, y1, x2, y2 = annotation.box
    width, height = float(image.width), float(image.height)
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
    return replace(annotation, segmentation=cut, box=box)


def clip_polygon(polygon: Sequence[float], height: int, width: int) -> list[float]:
    """The part of a polygon x, y, x, y, .. inside an image; empty if there is none.

    The polygon is cut along one edge of the image after another (Sutherland-Hodgman). Separated parts stay
    joined by lines along the edge, which cover no pixel.
    """
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, limit, sign in ((0, 0.0, 1), (0, float(width), -1), (1, 0.0, 1), (1, float(height), -1)):
        cut: list[tuple[float, float]] = []
        for a, b in zip(points, points[1:] + points[:1], strict=True):
            inside_a, inside_b = sign * (a[axis] - limit) >= 0, sign * (b[axis] - limit) >= 0
            if inside_a:
                cut.append(a)
            if inside_a != inside_b:
                share = (limit - a[axis]) / (b[axis] - a[axis])
                other = a[1 - axis] + share * (b[1 - axis] - a[1 - axis])
                cut.append((limit, other) if axis == 0 else (other, limit))
        points = cut
    return [round(value, 2) for point in points for value in point]
