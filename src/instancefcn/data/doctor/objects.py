"""Checks of single annotations: drawable, inside the image, and with agreeing outline, box and area."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from instancefcn.data.doctor.checked_data import Box, CheckedData, Finding
from instancefcn.data.image_checks import TOLERANCE
from instancefcn.errors import Problem
from instancefcn.geometry.containment import inner_polygon
from instancefcn.geometry.self_crossing import MAX_POINTS, crossing

BOX_PIXELS, BOX_SHARE = 3.0, 0.05
"""A box disagrees with its mask if an edge is off by more than this many pixels and this share of the larger
side."""
AREA_SHARE = 0.1
"""An area disagrees with its mask if it differs by more than this share and by more than 16 pixels."""


def duplicate_ids(data: CheckedData) -> Iterator[Finding]:
    """Ids that two images, or two annotations, of a split share."""
    for split in data.splits:
        images = split.dataset.images
        kinds = {
            "image": [p.id for p in images],
            "annotation": [a.id for p in images for a in p.annotations],
        }
        for kind, ids in kinds.items():
            for id_, times in Counter(ids).items():
                if times > 1:
                    what = f"{kind} {id_}: this id is used {times} times: give every {kind} its own id"
                    yield split.finding("duplicate-id", "error", what)


def labels(data: CheckedData) -> Iterator[Finding]:
    """Labels without a class."""
    for split in data.splits:
        count = len(split.dataset.class_names)
        for image in split.dataset.images:
            for annotation in image.annotations:
                if not 0 <= annotation.label < count:
                    what = f"label {annotation.label} is unknown: use 0 to {count - 1}, or add a class"
                    yield split.finding("unknown-category", "error", what, image, annotation)


def drawable(data: CheckedData, check: str) -> Iterator[Finding]:
    """Annotations that cannot be drawn because of the problem `check`."""
    for split in data.splits:
        for image, shapes in zip(split.dataset.images, split.shapes, strict=True):
            for annotation, shape in zip(image.annotations, shapes, strict=True):
                if isinstance(shape.problem, Problem) and shape.problem.check == check:
                    yield split.finding(check, "error", shape.problem, image, annotation)


def polygon_points(data: CheckedData) -> Iterator[Finding]:
    """Polygons of fewer than three points."""
    return drawable(data, "polygon-points")


def outlines(data: CheckedData) -> Iterator[Finding]:
    """Outlines that are missing or damaged."""
    return drawable(data, "outline")


def out_of_bounds(data: CheckedData) -> Iterator[Finding]:
    """Outlines and boxes outside the image; a little outside is only a warning."""
    yield from drawable(data, "out-of-bounds")
    for split in data.splits:
        for image, annotation, _ in split.objects:
            if isinstance(annotation.segmentation, list):
                xs = [x for polygon in annotation.segmentation for x in polygon[0::2]]
                ys = [y for polygon in annotation.segmentation for y in polygon[1::2]]
                over = max(-min(xs), -min(ys), max(xs) - image.width, max(ys) - image.height)
                if over > TOLERANCE:
                    what = (
                        f"the outline reaches {over:.0f} pixels outside the {image.width} x "
                        f"{image.height} image, where it is cut off: redraw it if it is shifted"
                    )
                    yield split.finding("out-of-bounds", "warning", what, image, annotation)


def zero_area(data: CheckedData) -> Iterator[Finding]:
    """Boxes without area (errors), and outlines without a pixel (warnings)."""
    yield from drawable(data, "zero-area")
    for split in data.splits:
        for image, annotation, shape in split.objects:
            if shape.area == 0:
                what = "the outline covers no pixel and is not trained on: redraw or remove it"
                yield split.finding("zero-area", "warning", what, image, annotation)


def self_intersection(data: CheckedData) -> Iterator[Finding]:
    """Polygons that cross themselves."""
    for split in data.splits:
        for image, annotation, _ in split.objects:
            if not isinstance(annotation.segmentation, list):
                continue
            for number, polygon in enumerate(annotation.segmentation):
                if len(polygon) > 2 * MAX_POINTS:
                    length = len(polygon) // 2
                    what = f"polygon {number} has {length} points, at most {MAX_POINTS} are checked"
                    yield split.finding("self-intersection", "note", what, image, annotation)
                elif at := crossing(polygon):
                    what = (
                        f"polygon {number} crosses itself near ({at[0]:.0f}, {at[1]:.0f}), so loops may "
                        "become holes: redraw it, or draw two polygons"
                    )
                    yield split.finding("self-intersection", "warning", what, image, annotation)


def filled_holes(data: CheckedData) -> Iterator[Finding]:
    """Polygons inside another polygon of the same object, which do not cut a hole."""
    for split in data.splits:
        for image, annotation, _ in split.objects:
            if isinstance(annotation.segmentation, list) and (
                found := inner_polygon(annotation.segmentation)
            ):
                what = (
                    f"polygon {found[0]} lies inside polygon {found[1]} and is filled, because an object "
                    "covers all of its polygons: if it is a hole, store the object as an RLE mask"
                )
                yield split.finding("filled-hole", "warning", what, image, annotation)


def box_against_mask(data: CheckedData) -> Iterator[Finding]:
    """Boxes that disagree with their masks."""
    for split in data.splits:
        for image, annotation, shape in split.objects:
            if shape.area and not boxes_agree(annotation.box, shape.box):
                what = (
                    f"the box {_corners(annotation.box)} (x1, y1, x2, y2) differs from that of the outline, "
                    f"{_corners(shape.box)}: correct the wrong one (training uses the outline)"
                )
                yield split.finding("box-mask", "warning", what, image, annotation)


def boxes_agree(stated: Box, drawn: Box) -> bool:
    """Whether all edges of two boxes are close together, relative to the size of the second."""
    side = max(drawn[2] - drawn[0], drawn[3] - drawn[1])
    farthest = max(abs(a - b) for a, b in zip(stated, drawn, strict=True))
    return farthest <= max(BOX_PIXELS, BOX_SHARE * side)


def area_against_mask(data: CheckedData) -> Iterator[Finding]:
    """Areas that disagree with their masks."""
    for split in data.splits:
        for image, annotation, shape in split.objects:
            if shape.area and not areas_agree(annotation.area, shape.area):
                x1, y1, x2, y2 = annotation.box
                of_box = " (of the box)" if areas_agree(annotation.area, (x2 - x1) * (y2 - y1)) else ""
                what = (
                    f"the area is {annotation.area:.0f}{of_box}, but the outline covers {shape.area} pixels: "
                    "correct it, because AP by object size uses the area"
                )
                yield split.finding("area-mask", "note", what, image, annotation)


def areas_agree(stated: float, drawn: float) -> bool:
    """Whether two areas in pixels are nearly equal, relative to the second."""
    return abs(stated - drawn) <= max(16.0, AREA_SHARE * drawn)


def duplicate_objects(data: CheckedData) -> Iterator[Finding]:
    """Annotations that repeat an earlier one: same image, class and outline."""
    for split in data.splits:
        seen: dict[tuple[int, int, str], int] = {}
        for image, annotation, _ in split.objects:
            key = (id(image), annotation.label, json.dumps(annotation.segmentation))
            first = seen.setdefault(key, annotation.id)
            if first != annotation.id:
                what = f"has the class and outline of annotation {first}: remove one of the two"
                yield split.finding("duplicate-object", "warning", what, image, annotation)


def _corners(box: Box) -> str:
    return "[" + ", ".join(f"{value:.0f}" for value in box) + "]"
