"""From pixels to outlines along their edges, and from several outlines to one, without changing a pixel.

COCO's rasteriser fills a polygon by the even-odd rule. A line that is walked forth and back therefore leaves
no trace, so parts and holes can hang together by such lines; and a polygon along the edges of pixels gives
exactly these pixels.
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
    """The outlines of pixels, along their edges.

    Args:
        crop: [h, w], 0 or 1.
        corner: x, y of its upper left corner in the picture.

    Returns:
        outlines of the parts, clockwise as seen (pixels that touch at a corner alone are two parts), and of
        the holes, anticlockwise.
    """
    padded = np.pad(crop.astype(np.int8), 1)
    # The object lies at the right hand of every edge: tops (+1) run right, bottoms left; left sides (+1) run
    # up, right sides down.
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
    """Take the ring with this edge out of the edges. Where two rings meet at a point, turn right: so each
    part keeps to itself.
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
    """Runs of equal values other than 0 in the rows: (row, start, stop, value)."""
    padded = np.pad(edges, ((0, 0), (1, 1)))
    rows, places = np.nonzero(np.diff(padded, axis=1))
    values = padded[rows, places + 1]  # from each change on
    begins = np.flatnonzero(values)
    stops = places[begins + 1]  # the next change ends the run; a row's last change is to 0
    return list(
        zip(
            rows[begins].tolist(),
            places[begins].tolist(),
            stops.tolist(),
            values[begins].tolist(),
            strict=True,
        )
    )


def join_to_one(rings: Sequence[FlatRing]) -> FlatRing:
    """One outline from several, each tied to an earlier one by a line that is walked forth and back."""
    corners = [np.array(ring, dtype=np.float64).reshape(-1, 2) for ring in rings]
    return [float(v) for v in contours.join_rings(corners).reshape(-1)]


@dataclass(frozen=True)
class OneOutline:
    """An object as a single polygon inside the picture, with the same pixels.

    Attributes:
        ring: the polygon.
        parts, holes: how many outlines it was joined from.
        redrawn: the points are not the annotation's own (an RLE, parts that overlap, points off the picture).
    """

    ring: FlatRing
    parts: int = 1
    holes: int = 0
    redrawn: bool = False


def one_outline(segmentation: Segmentation, height: int, width: int) -> OneOutline | None:
    """A (valid) outline as one polygon; None for one without pixels that is no single polygon itself.

    Raises:
        DataError: more than MAX_RINGS parts and holes, as in a mask of noise.
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
            f"has {len(parts) + len(holes):,} parts and holes, at most {MAX_RINGS:,} are joined "
            "to one outline: choose a format that holds masks (coco, voc, labelme)"
        )
    return OneOutline(join_to_one([*parts, *holes]), len(parts), len(holes), redrawn=True)
