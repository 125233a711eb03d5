"""From polygons and run lengths to pixels, as COCO's mask API draws them.

COCO's RLE counts runs of 0 and 1 in turn, beginning with 0, down the columns. Compressed counts are a string:
each number (from the fourth on: its difference to the one two places before) is written in groups of five
bits, lowest first, one character a group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from instancefcn.data.dataset import Picture, Segmentation
from instancefcn.data.problem import Problem
from instancefcn.masks import CroppedMasks


def run_lengths(counts: object) -> NDArray[np.int64]:
    """The runs of an RLE's "counts": a list of whole numbers, or the compressed string.

    Raises:
        ValueError: not an RLE; the message says why.
    """
    if isinstance(counts, list):
        if not all(isinstance(c, int) and not isinstance(c, bool) and abs(c) < 2**40 for c in counts):
            raise ValueError("counts are not all whole numbers of a possible size")
        runs = np.array(counts, dtype=np.int64)
    elif isinstance(counts, str | bytes):
        runs = _decompress(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts)
    else:
        raise ValueError("counts are neither a list nor a string")
    if (runs < 0).any():
        raise ValueError("counts hold a negative run")
    return runs


def _decompress(text: bytes) -> NDArray[np.int64]:
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(groups) == 0:
        return groups
    if (groups < 0).any() or (groups > 63).any() or groups[-1] & 32:
        raise ValueError("counts are not a compressed RLE string")
    last = (groups & 32) == 0
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    place = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    if place.max() > 7:  # 8 groups hold 40 bits, more than any picture needs
        raise ValueError("counts hold a number beyond any picture's size")
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    negative = (groups[last] & 16) != 0
    values = np.where(negative, values - (np.int64(1) << (5 * (place[last] + 1))), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def outline_problem(segmentation: object, height: int, width: int) -> Problem | None:
    """What is wrong with an outline for a picture of this size, and how to mend it; None when nothing is."""
    if isinstance(segmentation, dict):
        problem = _rle_problem(segmentation, height, width)
        return None if problem is None else Problem(problem, "outline")
    if not isinstance(segmentation, list) or not segmentation:
        text = "has no outline: give it polygons or an RLE (boxes alone cannot train masks)"
        return Problem(text, "outline")
    for number, polygon in enumerate(segmentation):
        if found := _polygon_problem(polygon, height, width):
            return Problem(f"polygon {number} {found}: redraw or remove it", found.check)
    xs = [x for polygon in segmentation for x in polygon[0::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    if max(xs) <= 0 or max(ys) <= 0 or min(xs) >= width or min(ys) >= height:
        return Problem(
            f"the polygons lie wholly outside the {width} x {height} picture: "
            "redraw or remove them (were they drawn at another size?)",
            "out-of-bounds",
        )
    return None


def without_bad_polygons(segmentation: object, height: int, width: int) -> Segmentation | None:
    """What of an outline can be used: all of a sound one, the sound polygons of another, None when nothing
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
    # Comparisons, unlike math.isfinite, take whole numbers of any size; NaN fails every one of them.
    if not all(abs(v) < float("inf") for v in polygon):
        return Problem("has a coordinate that is not a finite number", "outline")
    # What leaves the picture is cut off, but drawing costs memory in proportion to the length of the outline.
    if not all(-width <= x <= 2 * width for x in polygon[0::2]) or not all(
        -height <= y <= 2 * height for y in polygon[1::2]
    ):
        return Problem(f"reaches far out of the {width} x {height} picture", "out-of-bounds")
    return None


def _rle_problem(rle: dict[str, Any], height: int, width: int) -> str | None:
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or "counts" not in rle:
        return 'the RLE needs "size" [height, width] and "counts": write both'
    if list(size) != [height, width]:
        swapped = (
            " (height and width are swapped)" if list(size) == [width, height] != [height, width] else ""
        )
        return (
            f"the RLE has size {list(size)}, the picture [{height}, {width}] as [height, width]{swapped}: "
            "encode the mask at the picture's size"
        )
    try:
        total = int(run_lengths(rle["counts"]).sum())
    except ValueError as error:
        return f"the RLE is damaged ({error}): encode it again"
    if total != height * width:
        return f"the RLE covers {total} pixels, the picture has {height * width}: encode it again"
    return None


def normalised(segmentation: Segmentation, height: int, width: int) -> Segmentation:
    """The outline as `Annotation` keeps it: polygons as they are, an RLE with its counts as a string."""
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
    """COCO's compressed RLE of an outline; the parts of several polygons are united."""
    if isinstance(segmentation, dict):
        rle = normalised(segmentation, height, width)
        assert isinstance(rle, dict)
        return rle
    from faster_coco_eval.core import mask as coco_mask

    merged = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def decode_crop(counts: object, height: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """The pixels of a valid RLE inside its tight box: uint8 [h, w], and the box's upper left corner (x, y).

    Only the columns of the object are expanded, so that a nucleus in a large micrograph costs what a nucleus
    costs.
    """
    runs = run_lengths(counts)
    ends = np.cumsum(runs)
    starts, stops = ends[0::2][: len(runs) // 2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if len(starts) == 0:
        return torch.zeros((0, 0), dtype=torch.uint8), (0, 0)
    x1, x2 = int(starts[0]) // height, -(-int(stops[-1]) // height)
    edges = np.stack((starts, stops), 1).reshape(-1) - x1 * height
    lengths = np.diff(edges, prepend=0, append=(x2 - x1) * height)
    flat = np.repeat((np.arange(len(lengths)) & 1).astype(np.uint8), lengths)
    columns = flat.reshape(x2 - x1, height)
    rows = np.flatnonzero(columns.any(0))
    y1, y2 = int(rows[0]), int(rows[-1]) + 1
    return torch.from_numpy(np.ascontiguousarray(columns[:, y1:y2].T)), (x1, y1)


def extent(segmentation: Segmentation, height: int, width: int) -> tuple[float, float, float, float]:
    """The box x1, y1, x2, y2 around the points of (valid) polygons, or around the pixels of an RLE; cut at
    the picture's edge.
    """
    if isinstance(segmentation, dict):
        crop, (x, y) = decode_crop(segmentation["counts"], height)
        return float(x), float(y), float(x + crop.shape[1]), float(y + crop.shape[0])
    xs = [min(max(float(x), 0.0), float(width)) for polygon in segmentation for x in polygon[0::2]]
    ys = [min(max(float(y), 0.0), float(height)) for polygon in segmentation for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def rasterize(picture: Picture) -> CroppedMasks:
    """The masks of a picture's annotations, crowds left out, in their order, equal to pycocotools' pixels.

    An outline thinner than a pixel may have no pixels at all: its mask has an empty rectangle.
    """
    crops, corners = [], []
    for annotation in picture.annotations:
        if not annotation.crowd:
            rle = to_rle(annotation.segmentation, picture.height, picture.width)
            crop, corner = decode_crop(rle["counts"], picture.height)
            crops.append(crop)
            corners.append(corner)
    return CroppedMasks.from_crops(crops, corners, (picture.height, picture.width))
