"""From what is known of an object in a box to its mask.

Known are the network's mask logits, where in its tight box an object tends to be, how alike its colours are,
and what a person has clicked. Each gives a logit for each pixel. With weights fitted to annotated images
(`tools/fit_prompts.py`), their sum is a calibrated probability. The mask is the one with the highest expected
IoU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.inference.prompts.colours import colour_logits, colours_of, group_colours
from instancefcn.inference.prompts.views import Box, Evidence

Point = tuple[float, float]

MARGIN = 0.3
"""The surroundings of a box that are looked at, as a share of the geometric mean of its sides."""
MAX_SIDE = 160
"""A larger region is computed at a lower resolution, and its logits are enlarged."""
PRIOR = (1.3, -0.65, 0.16, -1.17)
"""Weights of 1, u^2 + v^2, (u v)^2 and max(|u|, |v|)^8 at (u, v), which is -1 and 1 at the box's sides."""
BIAS = 0.4
"""Instead of them where there is no tight box."""
SPARE = 0.15
"""What such a box is enlarged by on every side, as a share of its sides."""
COLOUR = 0.55
"""Weight of the colour logits."""
CERTAIN = 4.0
"""Logit of a clicked pixel."""
LIMIT = 2.0
"""The threshold lies within -LIMIT and LIMIT, so that clicked pixels stay on their side of it."""
CLICK_REACH = 0.15
"""Standard deviation of a click's reach, as a share of the geometric mean of the box's sides."""
CLICK_COLOUR = 0.15
"""Standard deviation of the difference in colour that a click reaches across."""


@dataclass(frozen=True, eq=False)
class Region:
    """A box with its surroundings, on a grid of at most `MAX_SIDE` points along each side.

    Attributes:
        rect: x1, y1, x2, y2, whole pixels of the image.
        x, y: float32 [w], [h]: coordinates of the points in the image.
        colours: float32 [h, w, 3]: see `colours_of`.
        groups: int64 [h, w]: see `group_colours`.
    """

    rect: tuple[int, int, int, int]
    x: Tensor
    y: Tensor
    colours: Tensor
    groups: Tensor

    def index(self, point: Point) -> tuple[int, int]:
        """Row and column of the point of the grid that is nearest to a point of the image."""
        x1, y1, x2, y2 = self.rect
        row = int((point[1] - y1) / (y2 - y1) * len(self.y))
        column = int((point[0] - x1) / (x2 - x1) * len(self.x))
        return min(max(row, 0), len(self.y) - 1), min(max(column, 0), len(self.x) - 1)


def mask_in_box(
    image: Tensor, box: Box, evidence: Evidence, positive: Sequence[Point], negative: Sequence[Point]
) -> tuple[CroppedMasks, float]:
    """The mask of the object in a box, and its expected IoU.

    Args:
        image: uint8 [3, H, W].
        box: in pixels of the image, inside it; holds the positive clicks.
        evidence: the network's.
        positive, negative: clicks in pixels of the image.
    """
    region = region_around(image, box)
    inside = inside_box(region, box)
    known = evidence.weight * evidence.at(region.x, region.y) + prior_logits(region, box)
    clicks = [(point, CERTAIN) for point in positive] + [(point, -CERTAIN) for point in negative]
    first = with_clicks(known, region, clicks, box)
    logits = known + COLOUR * colour_logits(region.groups, first.sigmoid() * inside)
    logits = with_clicks(logits, region, clicks, box)
    threshold, expected = best_threshold(logits[inside])
    return _at_image_size(logits - threshold, region, box, image, positive, negative), expected


def mask_of_window(image: Tensor, box: Box, evidence: Evidence) -> CroppedMasks:
    """The mask of an object that a window of the network holds. The box around what the network sees of it is
    only about right, so it tells nothing of its own.
    """
    spare_x, spare_y = SPARE * (box[2] - box[0]), SPARE * (box[3] - box[1])
    height, width = image.shape[1:]
    wide = (
        max(0.0, box[0] - spare_x),
        max(0.0, box[1] - spare_y),
        min(float(width), box[2] + spare_x),
        min(float(height), box[3] + spare_y),
    )
    region = region_around(image, wide)
    inside = inside_box(region, wide)
    known = evidence.weight * evidence.at(region.x, region.y) + BIAS
    logits = known + COLOUR * colour_logits(region.groups, known.sigmoid() * inside)
    threshold, _ = best_threshold(logits[inside])
    return _at_image_size(logits - threshold, region, wide, image, [], [])


def enlarged(box: Box, clicks: Sequence[Point]) -> Box:
    """The smallest box around a box and the pixels of clicks."""
    xs, ys = [int(x) for x, _ in clicks], [int(y) for _, y in clicks]
    return (
        float(min([box[0], *xs])),
        float(min([box[1], *ys])),
        float(max([box[2], *(x + 1 for x in xs)])),
        float(max([box[3], *(y + 1 for y in ys)])),
    )


def region_around(image: Tensor, box: Box) -> Region:
    """A box with its surroundings."""
    height, width = image.shape[1:]
    margin = max(2.0, MARGIN * math.sqrt((box[2] - box[0]) * (box[3] - box[1])))
    x1, y1 = max(0, int(box[0] - margin)), max(0, int(box[1] - margin))
    x2, y2 = min(width, math.ceil(box[2] + margin)), min(height, math.ceil(box[3] + margin))
    share = min(1.0, MAX_SIDE / max(x2 - x1, y2 - y1))
    columns, rows = max(1, round((x2 - x1) * share)), max(1, round((y2 - y1) * share))
    crop = image[:, y1:y2, x1:x2].float()[None].div_(255)
    colours = colours_of(F.adaptive_avg_pool2d(crop, (rows, columns))[0])
    x = x1 + (torch.arange(columns) + 0.5) * ((x2 - x1) / columns)
    y = y1 + (torch.arange(rows) + 0.5) * ((y2 - y1) / rows)
    return Region((x1, y1, x2, y2), x, y, colours, group_colours(colours))


def prior_logits(region: Region, box: Box) -> Tensor:
    """[h, w]: what the box alone tells. Objects fill the middle of their tight boxes, seldom the corners."""
    terms = zip(PRIOR, prior_terms(region, box), strict=True)
    return sum((weight * term for weight, term in terms), torch.zeros(()))


def prior_terms(region: Region, box: Box) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The terms of `PRIOR`, each broadcastable to [h, w]; points outside the box are as at its side."""
    u = (2 * (region.x - box[0]) / (box[2] - box[0]) - 1).clamp(-1, 1)[None]
    v = (2 * (region.y - box[1]) / (box[3] - box[1]) - 1).clamp(-1, 1)[:, None]
    return torch.ones_like(u), u**2 + v**2, (u * v) ** 2, torch.maximum(u.abs(), v.abs()) ** 8


def with_clicks(logits: Tensor, region: Region, clicks: Sequence[tuple[Point, float]], box: Box) -> Tensor:
    """Logits [h, w] that take given values at clicks.

    A Gaussian process: what the logits lack at the clicks is spread to near pixels of alike colours.
    """
    if not clicks:
        return logits
    rows, columns = zip(*(region.index(point) for point, _ in clicks), strict=True)
    reach = CLICK_REACH * math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    places = torch.stack(torch.meshgrid(region.y, region.x, indexing="ij"), 2) / reach
    points = torch.cat((places, region.colours / CLICK_COLOUR), 2)
    at = points[rows, columns]
    lacking = torch.tensor([value for _, value in clicks]) - logits[rows, columns]
    among = (-0.5 * torch.cdist(at, at) ** 2).exp() + 1e-3 * torch.eye(len(clicks))
    shares = torch.linalg.solve(among, lacking)
    return logits + ((-0.5 * torch.cdist(points.flatten(0, 1), at) ** 2).exp() @ shares).view_as(logits)


def best_threshold(logits: Tensor) -> tuple[float, float]:
    """The threshold of logits [P] with the highest expected IoU, and that IoU.

    Of the pixels above a threshold, their probabilities p are the expected intersection; those of all pixels
    and 1 - p of the pixels above it are the expected union.
    """
    ordered = logits.sort(descending=True).values.double()
    common = ordered.sigmoid().cumsum(0)
    count = torch.arange(1, len(ordered) + 1)
    expected = common / (common[-1] + count - common)
    best = int(expected.argmax())
    return min(max(float(ordered[best]), -LIMIT), LIMIT), float(expected[best])


def inside_box(region: Region, box: Box) -> Tensor:
    """bool [h, w]: the points of a region inside a box; at least the one nearest to its middle."""
    rows = (region.y >= box[1]) & (region.y < box[3])
    columns = (region.x >= box[0]) & (region.x < box[2])
    inside = rows[:, None] & columns[None]
    inside[region.index(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))] = True
    return inside


def _at_image_size(
    logits: Tensor,
    region: Region,
    box: Box,
    image: Tensor,
    positive: Sequence[Point],
    negative: Sequence[Point],
) -> CroppedMasks:
    """The mask where logits [h, w], read bilinearly at the image's pixels, reach 0: of the pixels inside the
    box, with those of positive clicks and without those of negative ones.
    """
    x1, y1, x2, y2 = region.rect
    mask = F.interpolate(logits[None, None], (y2 - y1, x2 - x1), mode="bilinear")[0, 0] >= 0
    for points, value in ((positive, True), (negative, False)):
        for x, y in points:
            if x1 <= x < x2 and y1 <= y < y2:
                mask[int(y) - y1, int(x) - x1] = value
    (left, right), (top, bottom) = _pixels(box[0], box[2]), _pixels(box[1], box[3])
    crop = mask[top - y1 : bottom - y1, left - x1 : right - x1]
    return CroppedMasks.from_crops([crop], [(left, top)], (image.shape[1], image.shape[2]))


def _pixels(low: float, high: float) -> tuple[int, int]:
    """The pixels whose centres lie in [low, high), half-open; without any, the one at its middle."""
    first, last = math.ceil(low - 0.5), math.ceil(high - 0.5)
    return (first, last) if first < last else (int((low + high) / 2), int((low + high) / 2) + 1)
