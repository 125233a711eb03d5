"""Large images by overlapping tiles, whose instances become one result: no object twice, none cut.

Two neighbouring tiles share a zone. Both see an object that reaches into the zone, at least in part, and
inside the zone both should see the same of it. So instances are compared by their masks inside it alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from instancefcn.errors import ConfigError, ImageError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.large import LargeImage
from instancefcn.instances import Instances
from instancefcn.limits import MAX_TILES

MIN_TILE = 32
OVERLAP = 0.25
"""Minimum overlap of neighbours, as a fraction of a tile's side."""
SAME_IOU = 0.5
"""Instances of two tiles are one object when the IoU of their masks in the shared zone reaches this."""
COVERED = 0.6
"""They also are when its tile's edge cuts one and the other covers this fraction of it in the zone."""
WHOLE = 0.8
"""An instance that no edge cuts stands for its group if it has this fraction of the group's pixels."""
NEAR = 0.02
"""A mask or box is cut when it comes this near to its tile's edge, as a fraction of the tile's side."""
DUPLICATE_IOU = 0.8
"""Of two merged instances whose boxes' IoU exceeds this, and whose masks overlap, the better remains."""
PER_TILE = 100
"""Maximum proposals of a tile: an object has many, and neighbouring tiles compare all of theirs."""
PIECES = 0.5
"""Pieces of objects score less than whole ones: tiles use the score threshold times this."""

Box = tuple[int, int, int, int]


def tile_boxes(height: int, width: int, size: int) -> list[Box]:
    """x1, y1, x2, y2 of the tiles of an image, in its pixels, row by row. All have the side `size` (less only
    where the image is smaller), are evenly spread, and overlap by at least a quarter of it.

    Raises:
        ConfigError: tiles of less than 32 pixels.
    """
    if size < MIN_TILE:
        raise ConfigError(f"a tile needs at least {MIN_TILE} pixels along each side, got {size}")
    return [
        (x, y, min(x + size, width), min(y + size, height))
        for y in _starts(height, size)
        for x in _starts(width, size)
    ]


def _starts(length: int, size: int) -> list[int]:
    if length <= size:
        return [0]
    step = size - int(size * OVERLAP)
    count = -(-(length - size) // step) + 1
    return [round(number * (length - size) / (count - 1)) for number in range(count)]


def segment_tiled(
    run: Callable[[Sequence[Tensor], float], list[Instances]],
    image: Tensor | LargeImage,
    size: int,
    score: float,
    batch_size: int = 1,
    per_tile: int | None = None,
    whole: Instances | None = None,
) -> Instances:
    """Segment an image tile by tile and merge what is found.

    Args:
        run: segments a batch of images uint8 [3, h, w] with a minimum score, as `Predictor.run` does.
        image: uint8 [3, H, W], or an image on the disk, which is read tile by tile.
        size: side of a tile in pixels. An object should fit into three quarters of it to be seen whole at
            least once; a larger one is assembled from pieces.
        score: only merged instances with at least this score are returned.
        batch_size: tiles that run at once.
        per_tile: where there are several tiles, maximum number of instances of each, the best; None for all.
        whole: what was found in the whole image, which tells of objects that are too large for a tile.

    Returns:
        instances in the pixels of the whole image, best first.

    Raises:
        ConfigError: tiles of less than 32 pixels.
        ImageError: there would be more than MAX_TILES, or a part of an image on the disk is damaged.
    """
    height, width = (image.height, image.width) if isinstance(image, LargeImage) else tuple(image.shape[1:])
    boxes = tile_boxes(height, width, size)
    if len(boxes) > MAX_TILES:
        raise ImageError(
            f"tiles of {size} pixels cut an image of {width} x {height} into {len(boxes):,}, and at most "
            f"{MAX_TILES:,} are supported: choose larger tiles"
        )
    if len(boxes) == 1:
        return run([_part(image, boxes[0])], score)[0]
    found: list[Instances] = []
    for first in range(0, len(boxes), batch_size):
        tiles = [_part(image, box) for box in boxes[first : first + batch_size]]
        found += [one[:per_tile] for one in run(tiles, score * PIECES)]
    if whole is not None:
        sides = (whole.boxes[:, 2:] - whole.boxes[:, :2]).amax(1)
        found.insert(0, whole[sides > size * (1 - OVERLAP)])
        boxes.insert(0, (0, 0, width, height))
    return merge_tiles(found, boxes, (height, width)).filter(score)


def _part(image: Tensor | LargeImage, box: Box) -> Tensor:
    x1, y1, x2, y2 = box
    return image.crop(*box) if isinstance(image, LargeImage) else image[:, y1:y2, x1:x2]


@dataclass(frozen=True, eq=False)
class _Tile:
    """What one tile shows, in the pixels of the whole image.

    Attributes:
        box: of the tile.
        first: index of its first instance among those of all tiles.
        instances: with masks of the image's size.
        cut: bool [N]: whether an instance reaches an edge of the tile that is not the image's.
    """

    box: Box
    first: int
    instances: Instances
    cut: Tensor


def merge_tiles(found: Sequence[Instances], boxes: Sequence[Box], image_size: tuple[int, int]) -> Instances:
    """One result from those of overlapping tiles.

    Instances of one class in two tiles are one object when their masks agree inside the zone that the tiles
    share, or when one is cut by its tile's edge and mostly covered by the other there. Instances of one tile
    that overlap each other remain separate: the network has separated them.

    Besides an object that it cuts, a tile may find a part of it as a separate object. Such an echo is dropped
    where another tile sees the object whole, with a higher score, and covers the part.

    A group of instances of one object becomes the best of them that no edge cuts, if it has nearly all of the
    group's pixels; otherwise the union of all of them.

    Args:
        found: instances of each tile, in the tile's pixels.
        boxes: the tiles, in the image's pixels, row by row; the whole image may come first.
        image_size: (height, width) of the image.
    """
    tiles: list[_Tile] = []
    for instances, box in zip(found, boxes, strict=True):
        first = tiles[-1].first + len(tiles[-1].instances) if tiles else 0
        tiles.append(_placed(instances, box, first, image_size))
    links = sorted((link for a, b in _neighbours(tiles) for link in _links(a, b)), key=lambda link: -link[0])
    pieces = [piece for number, tile in enumerate(tiles) for piece in _pieces(number, tile)]
    groups = _groups(pieces, links)
    cut = _cut_by(groups)
    merged = [_merged(group) for group in groups if not _is_echo(group, cut)]
    return _gathered(merged, found[0], image_size)


def _placed(instances: Instances, box: Box, first: int, image_size: tuple[int, int]) -> _Tile:
    x1, y1, x2, y2 = box
    shift = torch.tensor((x1, y1, x1, y1))
    masks = CroppedMasks(instances.masks.pixels, instances.masks.rects + shift, image_size)
    boxes = instances.boxes + shift
    tight = masks.tight_boxes()
    low, high = torch.minimum(boxes, tight), torch.maximum(boxes, tight)
    near = torch.tensor((x2 - x1, y2 - y1)) * NEAR
    edges = torch.tensor((x1 > 0, y1 > 0, x2 < image_size[1], y2 < image_size[0]))
    reached = torch.cat(
        (low[:, :2] <= torch.tensor((x1, y1)) + near, high[:, 2:] >= torch.tensor((x2, y2)) - near), 1
    )
    return _Tile(box, first, replace(instances, boxes=boxes, masks=masks), (reached & edges).any(1))


def _neighbours(tiles: Sequence[_Tile]) -> Iterator[tuple[_Tile, _Tile]]:
    """Pairs of tiles, given row by row, that may share a zone."""
    for number, tile in enumerate(tiles):
        for other in tiles[number + 1 :]:
            if other.box[1] >= tile.box[3]:
                break
            yield tile, other


def _links(a: _Tile, b: _Tile) -> Iterator[tuple[float, int, int]]:
    """(Certainty, instance of a, instance of b) for each pair that is one object."""
    x1, y1 = max(a.box[0], b.box[0]), max(a.box[1], b.box[1])
    x2, y2 = min(a.box[2], b.box[2]), min(a.box[3], b.box[3])
    if x1 >= x2 or y1 >= y2:
        return
    ours, theirs = (list(_in_zone(tile, (x1, y1, x2, y2))) for tile in (a, b))
    for one in ours:
        for other in theirs:
            if one.label != other.label or not (
                common := _common(one.rect, one.crop, other.rect, other.crop)
            ):
                continue
            iou = common / (one.area + other.area - common)
            cover = max(common / one.area if one.cut else 0.0, common / other.area if other.cut else 0.0)
            if iou >= SAME_IOU or cover >= COVERED:
                yield max(iou + (iou >= SAME_IOU), cover), one.number, other.number


@dataclass(frozen=True, eq=False)
class _Visible:
    """What an instance (its index among those of all tiles) has inside a zone that two tiles share."""

    number: int
    label: int
    cut: bool
    area: int
    rect: list[int]
    crop: Tensor


def _in_zone(tile: _Tile, zone: Box) -> Iterator[_Visible]:
    masks = tile.instances.masks.crop_to(*zone)
    cut, labels, rects = tile.cut.tolist(), tile.instances.labels.tolist(), masks.rects.tolist()
    for index, area in enumerate(masks.areas().tolist()):
        if area:
            yield _Visible(
                tile.first + index, labels[index], cut[index], area, rects[index], masks.crop(index)
            )


def _common(rect: list[int], crop: Tensor, other_rect: list[int], other_crop: Tensor) -> int:
    """The number of pixels that two masks share, each given inside its rectangle."""
    x1, y1 = max(rect[0], other_rect[0]), max(rect[1], other_rect[1])
    x2, y2 = min(rect[2], other_rect[2]), min(rect[3], other_rect[3])
    if x1 >= x2 or y1 >= y2:
        return 0
    one = crop[y1 - rect[1] : y2 - rect[1], x1 - rect[0] : x2 - rect[0]]
    other = other_crop[y1 - other_rect[1] : y2 - other_rect[1], x1 - other_rect[0] : x2 - other_rect[0]]
    return int(torch.count_nonzero(one & other))


@dataclass(frozen=True, eq=False)
class _Piece:
    """One instance of tile number `tile`; `whole` when no edge cuts it."""

    tile: int
    whole: bool
    score: float
    label: int
    box: Tensor
    rect: list[int]
    crop: Tensor

    def apart(self, other: _Piece) -> bool:
        """Whether the two may be pieces of one object: of different tiles, or without a common pixel."""
        return self.tile != other.tile or not _common(self.rect, self.crop, other.rect, other.crop)


def _pieces(number: int, tile: _Tile) -> Iterator[_Piece]:
    found = tile.instances
    columns = (tile.cut, found.scores, found.labels, found.masks.rects)
    rows = zip(*(column.tolist() for column in columns), found.boxes, strict=True)
    for index, (cut, score, label, rect, box) in enumerate(rows):
        yield _Piece(number, not cut, score, label, box, rect, found.masks.crop(index))


def _groups(pieces: Sequence[_Piece], links: Iterable[tuple[float, int, int]]) -> list[list[_Piece]]:
    """Group the pieces of each object, by the most certain links first."""
    groups = {number: [number] for number in range(len(pieces))}
    of = list(range(len(pieces)))
    for _, i, j in links:
        a, b = of[i], of[j]
        if a == b or not all(pieces[p].apart(pieces[q]) for p in groups[a] for q in groups[b]):
            continue
        for number in groups[b]:
            of[number] = a
        groups[a] += groups.pop(b)
    return [[pieces[number] for number in group] for group in groups.values()]


def _cut_by(groups: Iterable[list[_Piece]]) -> dict[tuple[int, int], list[list[_Piece]]]:
    """The groups with a piece that a tile cuts, by tile and label."""
    found: dict[tuple[int, int], list[list[_Piece]]] = defaultdict(list)
    for group in groups:
        for tile in {piece.tile for piece in group if not piece.whole}:
            found[tile, group[0].label].append(group)
    return found


def _is_echo(group: list[_Piece], cut: Mapping[tuple[int, int], list[list[_Piece]]]) -> bool:
    """Whether this is a part of an object that its tile cuts; `cut` is what `_cut_by` returns."""
    if len(group) > 1:
        return False
    one, area = group[0], int(group[0].crop.sum())
    for other in cut.get((one.tile, one.label), ()):
        if other is group or not any(not p.whole and p.tile == one.tile and not p.apart(one) for p in other):
            continue
        whole = [p for p in other if p.whole and p.tile != one.tile and p.score > one.score]
        if any(_common(one.rect, one.crop, p.rect, p.crop) >= COVERED * area for p in whole):
            return True
    return False


Merged = tuple[float, int, Tensor, Tensor, tuple[int, int]]
"""Score, label, box [4], mask [h, w] and its corner (x, y) of an object."""


def _merged(group: list[_Piece]) -> Merged:
    """An object from its pieces."""
    group = sorted(group, key=lambda piece: (not piece.whole, -piece.score))
    rects = [piece.rect for piece in group]
    x1, y1 = min(rect[0] for rect in rects), min(rect[1] for rect in rects)
    x2, y2 = max(rect[2] for rect in rects), max(rect[3] for rect in rects)
    union = torch.zeros((y2 - y1, x2 - x1), dtype=torch.uint8)
    for piece, (px1, py1, px2, py2) in zip(group, rects, strict=True):
        union[py1 - y1 : py2 - y1, px1 - x1 : px2 - x1] |= piece.crop
    score = max(piece.score for piece in group)
    best = group[0]
    if best.whole and int(best.crop.sum()) >= WHOLE * int(union.sum()):
        return score, best.label, best.box, best.crop, (best.rect[0], best.rect[1])
    boxes = torch.stack([piece.box for piece in group])
    box = torch.cat((boxes[:, :2].amin(0), boxes[:, 2:].amax(0)))
    return score, best.label, box, union, (x1, y1)


def _gathered(merged: list[Merged], like: Instances, image_size: tuple[int, int]) -> Instances:
    """The objects as instances, best first, without near-duplicates."""
    merged.sort(key=lambda one: -one[0])
    scores = torch.tensor([one[0] for one in merged], dtype=torch.float32)
    labels = torch.tensor([one[1] for one in merged], dtype=torch.int64)
    boxes = torch.stack([one[2] for one in merged]) if merged else torch.zeros((0, 4))
    masks = CroppedMasks.from_crops([one[3] for one in merged], [one[4] for one in merged], image_size)
    whole = Instances(boxes, scores, labels, masks, like.class_names, like.category_ids)
    kept = batched_nms(boxes, scores, labels, DUPLICATE_IOU)
    stays = torch.zeros(len(merged), dtype=torch.bool).index_fill_(0, kept, value=True)
    for i in (~stays).nonzero().flatten().tolist():
        alike = stays & (labels == labels[i])
        alike &= box_iou(boxes[i : i + 1], boxes)[0] > DUPLICATE_IOU
        # A frame and the object inside it share a box and no pixel.
        stays[i] = not any(_shared(merged[i], merged[j]) for j in alike.nonzero().flatten().tolist())
    return whole[stays]


def _shared(one: Merged, other: Merged) -> int:
    """Pixels that two merged instances have in common."""
    rects = [[x, y, x + int(crop.shape[1]), y + int(crop.shape[0])] for _, _, _, crop, (x, y) in (one, other)]
    return _common(rects[0], one[3], rects[1], other[3])
