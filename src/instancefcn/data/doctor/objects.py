"""Checks of single annotations: can it be drawn, is it inside, do outline, box and area agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from instancefcn.data.doctor.checked_data import Box, CheckedData, Finding
from instancefcn.data.image_checks import TOLERANCE
from instancefcn.errors import Problem
from instancefcn.geometry.self_crossing import MAX_POINTS, crossing

BOX_PIXELS, BOX_SHARE = 3.0, 0.05
"""A box disagrees with its mask when an edge is farther off than this many pixels and this share of the
larger side."""
AREA_SHARE = 0.1
"""A stated area disagrees with its mask when it differs by more than this share (and by 16 pixels)."""


def duplicate_ids(case: CheckedData) -> Iterator[Finding]:
    """Ids that two pictures, or two annotations, of a split share."""
    for split in case.splits:
        images = split.dataset.images
        kinds = {
            "image": [p.id for p in images],
            "annotation": [a.id for p in images for a in p.annotations],
        }
        for kind, ids in kinds.items():
            for id_, times in Counter(ids).items():
                if times > 1:
                    yield split.about(
                        "duplicate-id", "error", f"{kind} {id_}: this id is used more than once"
                    )


def labels(case: CheckedData) -> Iterator[Finding]:
    """Labels that are none of the classes."""
    for split in case.splits:
        count = len(split.dataset.class_names)
        for image in split.dataset.images:
            for annotation in image.annotations:
                if not 0 <= annotation.label < count:
                    what = f"label {annotation.label} is none of the {count} classes"
                    yield split.about("unknown-category", "error", what, image, annotation)


def drawable(case: CheckedData, check: str) -> Iterator[Finding]:
    """Annotations that cannot be drawn, for the reason that `check` names."""
    for split in case.splits:
        for image, shapes in zip(split.dataset.images, split.shapes, strict=True):
            for annotation, shape in zip(image.annotations, shapes, strict=True):
                if isinstance(shape.problem, Problem) and shape.problem.check == check:
                    yield split.about(check, "error", shape.problem, image, annotation)


def polygon_points(case: CheckedData) -> Iterator[Finding]:
    """Polygons of less than three points."""
    return drawable(case, "polygon-points")


def outlines(case: CheckedData) -> Iterator[Finding]:
    """Outlines that are missing or damaged."""
    return drawable(case, "outline")


def out_of_bounds(case: CheckedData) -> Iterator[Finding]:
    """Outlines and boxes outside the picture; a little outside is only a warning."""
    yield from drawable(case, "out-of-bounds")
    for split in case.splits:
        for image, annotation, _ in split.objects:
            if isinstance(annotation.segmentation, list):
                xs = [x for polygon in annotation.segmentation for x in polygon[0::2]]
                ys = [y for polygon in annotation.segmentation for y in polygon[1::2]]
                over = max(-min(xs), -min(ys), max(xs) - image.width, max(ys) - image.height)
                if over > TOLERANCE:
                    what = (
                        f"the outline reaches {over:.0f} pixels out of the {image.width} x "
                        f"{image.height} picture, where it is cut off: redraw it if it is shifted"
                    )
                    yield split.about("out-of-bounds", "warning", what, image, annotation)


def zero_area(case: CheckedData) -> Iterator[Finding]:
    """Boxes without area, and outlines without a pixel."""
    yield from drawable(case, "zero-area")
    for split in case.splits:
        for image, annotation, shape in split.objects:
            if shape.area == 0:
                what = "the outline covers no pixel, so nothing is learnt from it: redraw or remove it"
                yield split.about("zero-area", "warning", what, image, annotation)


def self_intersection(case: CheckedData) -> Iterator[Finding]:
    """Polygons that cross themselves."""
    for split in case.splits:
        for image, annotation, _ in split.objects:
            if not isinstance(annotation.segmentation, list):
                continue
            for number, polygon in enumerate(annotation.segmentation):
                if len(polygon) > 2 * MAX_POINTS:
                    length = len(polygon) // 2
                    what = f"polygon {number} has {length} points: crossings are sought up to {MAX_POINTS}"
                    yield split.about("self-intersection", "note", what, image, annotation)
                elif at := crossing(polygon):
                    what = (
                        f"polygon {number} crosses itself near ({at[0]:.0f}, {at[1]:.0f}), and its loops "
                        "may be holes: draw it again, or as two polygons"
                    )
                    yield split.about("self-intersection", "warning", what, image, annotation)


def box_against_mask(case: CheckedData) -> Iterator[Finding]:
    """Boxes that are not around their masks."""
    for split in case.splits:
        for image, annotation, shape in split.objects:
            if shape.area and not boxes_agree(annotation.box, shape.box):
                what = (
                    f"the box {_corners(annotation.box)} (x1, y1, x2, y2) is not around the outline, which "
                    f"spans {_corners(shape.box)}: which is right? Training goes by the outline"
                )
                yield split.about("box-mask", "warning", what, image, annotation)


def boxes_agree(stated: Box, drawn: Box) -> bool:
    """Whether the edges of two boxes lie close together, in the measure of the second."""
    side = max(drawn[2] - drawn[0], drawn[3] - drawn[1])
    farthest = max(abs(a - b) for a, b in zip(stated, drawn, strict=True))
    return farthest <= max(BOX_PIXELS, BOX_SHARE * side)


def area_against_mask(case: CheckedData) -> Iterator[Finding]:
    """Stated areas that are not the mask's."""
    for split in case.splits:
        for image, annotation, shape in split.objects:
            if shape.area and not areas_agree(annotation.area, shape.area):
                x1, y1, x2, y2 = annotation.box
                of_box = " (of the box)" if areas_agree(annotation.area, (x2 - x1) * (y2 - y1)) else ""
                what = (
                    f"the stated area is {annotation.area:.0f}{of_box}, the outline covers "
                    f"{shape.area} pixels: correct it, for AP by object size goes by the stated area"
                )
                yield split.about("area-mask", "note", what, image, annotation)


def areas_agree(stated: float, drawn: float) -> bool:
    """Whether two areas, in pixels, are nearly equal, in the measure of the second."""
    return abs(stated - drawn) <= max(16.0, AREA_SHARE * drawn)


def duplicate_objects(case: CheckedData) -> Iterator[Finding]:
    """Annotations that say the same as one before them: same picture, class and outline."""
    for split in case.splits:
        seen: dict[tuple[int, int, str], int] = {}
        for image, annotation, _ in split.objects:
            key = (id(image), annotation.label, json.dumps(annotation.segmentation))
            first = seen.setdefault(key, annotation.id)
            if first != annotation.id:
                what = f"is drawn like annotation {first}: remove one of the two"
                yield split.about("duplicate-object", "warning", what, image, annotation)


def _corners(box: Box) -> str:
    return "[" + ", ".join(f"{value:.0f}" for value in box) + "]"
