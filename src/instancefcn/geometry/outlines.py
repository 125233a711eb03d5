"""Outlines (polygons or run lengths): checked, and drawn as COCO's mask API draws them."""

from __future__ import annotations

from typing import Any

from instancefcn.errors import Problem
from instancefcn.geometry.rle import box, run_lengths
from instancefcn.limits import MAX_DRAWN
from instancefcn.safe_text import shown

Polygons = list[list[float]]
"""Each x, y, x, y, .. in pixels."""
Segmentation = Polygons | dict[str, Any]
"""Polygons, or a COCO RLE: "size" [height, width] and "counts"."""

_MERGED = 32
"""RLEs merged at once: the mask API merges one after the other, each with all before it."""


def outline_problem(segmentation: object, height: int, width: int) -> Problem | None:
    """What is wrong with an outline for an image of this size, and how to fix it; None when it is valid."""
    if isinstance(segmentation, dict) and segmentation:
        problem = _rle_problem(segmentation, height, width)
        return None if problem is None else Problem(problem, "outline")
    # Tools write [], [[]] and {} for an object that has only a box.
    if not isinstance(segmentation, list) or not any(polygon not in ([], None) for polygon in segmentation):
        text = "has no outline: give it polygons or an RLE (boxes alone cannot train masks)"
        return Problem(text, "outline")
    for number, polygon in enumerate(segmentation):
        if found := _polygon_problem(polygon, height, width):
            return Problem(f"polygon {number} {found}: redraw or remove it", found.check)
    if _drawn(segmentation, height, width) > MAX_DRAWN:
        return Problem(
            f"its polygons' sides add up to more than {MAX_DRAWN:,} pixels: redraw or remove it",
            "outline",
        )
    xs = [x for polygon in segmentation for x in polygon[0::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= width or min(ys) >= height:
        return Problem(
            f"the polygons lie entirely outside the {width} x {height} image: "
            "redraw or remove them (were they drawn at another size?)",
            "out-of-bounds",
        )
    return None


def without_bad_polygons(segmentation: object, height: int, width: int) -> Segmentation | None:
    """The usable part of an outline: a valid one unchanged, otherwise its valid polygons; None when nothing
    is left.
    """
    if isinstance(segmentation, list):
        segmentation = [p for p in segmentation if not _polygon_problem(p, height, width)]
    if outline_problem(segmentation, height, width):
        return None
    assert isinstance(segmentation, list | dict)
    return segmentation


def _polygon_problem(polygon: object, height: int, width: int) -> Problem | None:
    if not isinstance(polygon, list) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in polygon
    ):
        return Problem("is not a list of numbers x, y, x, y, ..", "outline")
    if len(polygon) % 2:
        return Problem(f"has {len(polygon)} numbers, not pairs of x and y", "outline")
    if len(polygon) < 6:
        return Problem(f"has {len(polygon) // 2} points, at least 3 are needed", "polygon-points")
    # Unlike math.isfinite, comparisons take integers of any size; NaN fails every one.
    if not all(abs(v) < float("inf") for v in polygon):
        return Problem("has a coordinate that is not a finite number", "outline")
    # What leaves the image is cut off, but drawing needs memory in proportion to the outline's length.
    if not all(-width <= x <= 2 * width for x in polygon[0::2]) or not all(
        -height <= y <= 2 * height for y in polygon[1::2]
    ):
        return Problem(f"reaches far outside the {width} x {height} image", "out-of-bounds")
    return None


def _drawn(polygons: list[list[float]], height: int, width: int) -> float:
    """Pixels that drawing visits: the longer extent of each side, or an upper bound where that is enough. (No
    side is longer than three times the image.)
    """
    bound = sum(map(len, polygons)) / 2 * 3 * max(height, width)
    if bound <= MAX_DRAWN:
        return bound
    total = 0.0
    for polygon in polygons:
        xs, ys = polygon[0::2], polygon[1::2]
        total += sum(
            max(abs(x2 - x1), abs(y2 - y1))
            for x1, y1, x2, y2 in zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
        )
    return total


def _rle_problem(rle: dict[str, Any], height: int, width: int) -> str | None:
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or "counts" not in rle:
        return 'the RLE needs "size" [height, width] and "counts": write both'
    if list(size) != [height, width]:
        swapped = (
            " (height and width are swapped)" if list(size) == [width, height] != [height, width] else ""
        )
        return (
            f"the RLE has size {shown(list(size))}, the image [{height}, {width}] as [height, width]"
            f"{swapped}: encode the mask at the image's size"
        )
    try:
        total = int(run_lengths(rle["counts"]).sum())
    except ValueError as error:
        return f"the RLE is damaged ({error}): encode it again"
    if total != height * width:
        return f"the RLE covers {total} pixels, the image has {height * width}: encode it again"
    return None


def normalised(segmentation: Segmentation, height: int, width: int) -> Segmentation:
    """The outline as `Annotation` stores it: polygons unchanged, an RLE with its counts as a string."""
    if isinstance(segmentation, list):
        return segmentation
    counts = segmentation["counts"]
    if isinstance(counts, list):
        from faster_coco_eval.core import mask as coco_mask

        counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return {
        "size": [height, width],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE of an outline; several polygons are merged."""
    if isinstance(segmentation, dict):
        rle = normalised(segmentation, height, width)
        assert isinstance(rle, dict)
        return rle
    from faster_coco_eval.core import mask as coco_mask

    return united(coco_mask.frPyObjects(segmentation, height, width), height, width)


def united(rles: list[dict[str, Any]], height: int, width: int) -> dict[str, Any]:
    """One RLE with the pixels of several, all of an image of this size."""
    from faster_coco_eval.core import mask as coco_mask

    while len(rles) > 1:
        rles = [coco_mask.merge(rles[i : i + _MERGED]) for i in range(0, len(rles), _MERGED)]
    counts = rles[0]["counts"]
    return {
        "size": [height, width],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def extent(segmentation: Segmentation, height: int, width: int) -> tuple[float, float, float, float]:
    """The box x1, y1, x2, y2 around the points of valid polygons or the pixels of an RLE, clipped to the
    image.
    """
    if isinstance(segmentation, dict):
        x1, y1, x2, y2 = box(segmentation["counts"], height)
        return float(x1), float(y1), float(x2), float(y2)
    xs = [min(max(float(x), 0.0), float(width)) for polygon in segmentation for x in polygon[0::2]]
    ys = [min(max(float(y), 0.0), float(height)) for polygon in segmentation for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)
