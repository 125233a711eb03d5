"""Masks to polygons along pixel edges, and several polygons to one, without changing a pixel.

COCO's rasteriser fills a polygon by the even-odd rule. A polygon along the edges of pixels therefore gives
exactly these pixels, and a line walked forth and back leaves no trace: such lines connect parts and holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instancefcn.errors import DataError
from instancefcn.geometry import contours
from instancefcn.geometry.outlines import Segmentation, to_rle
from instancefcn.geometry.rle import decode_crop
from instancefcn.limits import MAX_RINGS

FlatRing = list[float]
"""x, y, x, y, .. in pixels."""
_Edges = dict[tuple[int, int, int], int]


def trace_pixel_edges(
    crop: NDArray[np.uint8], corner: tuple[int, int] = (0, 0)
) -> tuple[list[FlatRing], list[FlatRing]]:
    """Trace the outlines of a mask along the edges of its pixels.

    Args:
        crop: [h, w], 0 or 1.
        corner: x, y of its upper left corner in the image.

    Returns:
        The outlines of the parts, clockwise on screen, and those of the holes, anticlockwise. Pixels that
        touch only at a corner are two parts.
    """
    padded = np.pad(crop.astype(np.int8), 1)
    # The object lies to the right of every edge: tops (+1) run right, bottoms left; left sides (+1) run up,
    # right sides down.
    across: _Edges = {}
    for y, x1, x2, sign in _runs(np.diff(padded, axis=0)[:, 1:-1]):
        across[(x1, y, 1) if sign > 0 else (x2, y, -1)] = x2 if sign > 0 else x1
    along: _Edges = {}
    for x, y1, y2, sign in _runs(np.diff(padded, axis=1)[1:-1].T):
        along[(x, y2, 1) if sign > 0 else (x, y1, -1)] = y1 if sign > 0 else y2
    parts: list[FlatRing] = []
    holes: list[FlatRing] = []
    while across:
        ring = _walk(next(iter(across)), across, along)
        xs, ys = np.array(ring[0::2]), np.array(ring[1::2])
        clockwise = float(np.sum(xs * np.roll(ys, -1) - np.roll(xs, -1) * ys)) > 0
        moved = [float(v + corner[i & 1]) for i, v in enumerate(ring)]
        (parts if clockwise else holes).append(moved)
    return parts, holes


def _walk(start: tuple[int, int, int], across: _Edges, along: _Edges) -> list[int]:
    """Remove the ring with this edge from the edges, and return it. Where two rings meet at a point, turn
    right, which keeps the parts separate.
    """
    ring: list[int] = []
    here = start
    while not ring or here != start:
        x, y, way = here
        ring += (x, y)
        x = across.pop(here)
        ring += (x, y)
        turn = -way if (x, y, -way) in along else way
        y = along.pop((x, y, turn))
        back = (x, y, turn)
        here = back if back in across or back == start else (x, y, -turn)
    return ring


def _runs(edges: NDArray[np.int8]) -> list[tuple[int, int, int, int]]:
    """Runs of equal nonzero values in the rows: (row, start, stop, value)."""
    padded = np.pad(edges, ((0, 0), (1, 1)))
    rows, changes = np.nonzero(np.diff(padded, axis=1))
    values = padded[rows, changes + 1]  # after each change
    begins = np.flatnonzero(values)
    stops = changes[begins + 1]  # the next change ends the run; a row's last change is to 0
    return list(
        zip(
            rows[begins].tolist(),
            changes[begins].tolist(),
            stops.tolist(),
            values[begins].tolist(),
            strict=True,
        )
    )


def join_to_one(rings: Sequence[FlatRing]) -> FlatRing:
    """Join several outlines into one: see `contours.join_rings`."""
    corners = [np.array(ring, dtype=np.float64).reshape(-1, 2) for ring in rings]
    return [float(v) for v in contours.join_rings(corners).reshape(-1)]


@dataclass(frozen=True)
class OneOutline:
    """An object as a single polygon inside the image, with the same pixels.

    Attributes:
        ring: the polygon.
        parts, holes: how many outlines it was joined from.
        redrawn: the points are not those of the annotation (an RLE, overlapping parts, points outside the
            image).
    """

    ring: FlatRing
    parts: int = 1
    holes: int = 0
    redrawn: bool = False


def one_outline(segmentation: Segmentation, height: int, width: int) -> OneOutline | None:
    """A valid outline as one polygon; None when it covers no pixel and is not a single polygon already.

    Raises:
        DataError: it has more than MAX_RINGS parts and holes, as a mask of noise does.
    """
    rle = to_rle(segmentation, height, width)
    if isinstance(segmentation, list) and all(
        0 <= v <= (height if i & 1 else width) for polygon in segmentation for i, v in enumerate(polygon)
    ):
        ring = join_to_one(segmentation) if len(segmentation) > 1 else segmentation[0]
        if len(segmentation) == 1 or to_rle([ring], height, width) == rle:
            return OneOutline(ring, parts=len(segmentation))
    crop, corner = decode_crop(rle["counts"], height)
    parts, holes = trace_pixel_edges(crop.numpy(), corner)
    if not parts:
        return None
    if len(parts) + len(holes) > MAX_RINGS:
        raise DataError(
            f"has {len(parts) + len(holes):,} parts and holes, at most {MAX_RINGS:,} can be joined "
            "into one outline: choose a format that stores masks (coco, voc, labelme)"
        )
    return OneOutline(join_to_one([*parts, *holes]), len(parts), len(holes), redrawn=True)
