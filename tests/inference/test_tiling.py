"""Tiles: they cover the image, and their seams do not show in the result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fakes import FakeLoaded, coloured
from instancefcn.errors import ConfigError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.inference.predictor import Predictor
from instancefcn.inference.tiling import (
    COVERED,
    OVERLAP,
    _common,
    _cut_by,
    _is_echo,
    _Piece,
    merge_tiles,
    segment_tiled,
    tile_boxes,
)
from instancefcn.instances import Instances
from instancefcn.models.instance_fcn import InstanceFCN

NAMES, IDS = ("even", "odd"), (1, 2)


def exact(images: Sequence[Tensor], score: float = 0.0) -> list[Instances]:
    """Finds every value of red but 0: one object each, exactly, of class even or odd."""
    results = []
    for image in images:
        values = [value for value in image[0].unique().tolist() if value]
        masks = CroppedMasks.from_dense(torch.stack([image[0] == v for v in values or [999]]))
        masks = masks[: len(values)]
        labels = torch.tensor([v % 2 for v in values], dtype=torch.int64)
        results.append(
            Instances(masks.tight_boxes(), torch.full((len(values),), 0.9), labels, masks, NAMES, IDS)
        )
    return results


@given(st.integers(1, 400), st.integers(1, 400), st.integers(32, 200))
def test_tiles_cover_the_image_and_overlap(height: int, width: int, size: int) -> None:
    boxes = tile_boxes(height, width, size)
    covered = torch.zeros(height, width, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        assert (x2 - x1, y2 - y1) == (min(size, width), min(size, height))
        covered[y1:y2, x1:x2] = True
    assert bool(covered.all())
    columns = sorted({(box[0], box[2]) for box in boxes})
    for (_, right), (left, _) in pairwise(columns):
        assert right - left >= int(size * OVERLAP)


def test_tiles_of_a_known_image() -> None:
    assert tile_boxes(100, 250, 100) == [(0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100)]
    assert tile_boxes(60, 80, 100) == [(0, 0, 80, 60)]
    with pytest.raises(ConfigError, match="at least 32 pixels"):
        tile_boxes(100, 100, 10)


@given(
    st.lists(
        st.tuples(st.integers(0, 230), st.integers(0, 190), st.integers(1, 250), st.integers(1, 200)),
        max_size=12,
    ),
    st.integers(32, 120),
    st.integers(1, 3),
)
@settings(max_examples=20, deadline=None)
@example([(6, 170, 144, 19), (0, 0, 1, 1), (11, 172, 139, 17)], 32, 1)  # one around another, boxes alike
def test_a_mosaic_of_tiles_gives_what_the_whole_image_gives(
    rectangles: list[tuple[int, int, int, int]], size: int, batch_size: int
) -> None:
    """Objects of every size, some larger than a tile, some of a pixel: none twice, none cut."""
    image = torch.zeros(3, 200, 250, dtype=torch.uint8)
    for number, (x, y, width, height) in enumerate(rectangles):
        image[0, y : y + height, x : x + width] = number + 1
    (expected,) = exact([image])
    # What later rectangles cut in two is one object here, though no tile may see how its parts hang together.
    expected = expected[torch.tensor([_connected(mask) for mask in expected.dense_masks()], dtype=torch.bool)]
    found = segment_tiled(exact, image, size, 0.5, batch_size)
    have = {
        (int(label), mask.numpy().tobytes())
        for label, mask in zip(found.labels, found.dense_masks(), strict=True)
    }
    for label, mask, box in zip(expected.labels, expected.dense_masks(), expected.boxes, strict=True):
        assert (int(label), mask.numpy().tobytes()) in have
        assert box.tolist() in found.boxes.tolist()
    if len(expected) == len({value for value in image[0].flatten().tolist() if value}):
        assert len(found) == len(expected)


def _connected(mask: Tensor) -> bool:
    from instancefcn.geometry.contours import trace_contours

    return len(trace_contours(mask.numpy())) == 1


def test_touching_objects_of_one_class_stay_two() -> None:
    image = torch.zeros(3, 60, 200, dtype=torch.uint8)
    image[0, 10:50, 20:95], image[0, 10:50, 95:180] = 2, 4
    found = segment_tiled(exact, image, 100, 0.5)
    assert sorted(found.boxes.tolist()) == [[20, 10, 95, 50], [95, 10, 180, 50]]
    assert sorted(found.masks.areas().tolist()) == [75 * 40, 85 * 40]


def instances(size: tuple[int, int], *objects: tuple[float, int, tuple[int, int, int, int]]) -> Instances:
    """(score, label, rectangle) each, best first."""
    dense = torch.zeros(len(objects), *size, dtype=torch.bool)
    for mask, (_, _, (x1, y1, x2, y2)) in zip(dense, objects, strict=True):
        mask[y1:y2, x1:x2] = True
    masks = CroppedMasks.from_dense(dense)
    scores = torch.tensor([one[0] for one in objects], dtype=torch.float32)
    labels = torch.tensor([one[1] for one in objects], dtype=torch.int64)
    return Instances(masks.tight_boxes(), scores, labels, masks, NAMES, IDS)


SIZE, LEFT, RIGHT = (100, 150), (0, 0, 100, 100), (50, 0, 150, 100)
"""An image of two tiles that share the columns 50 to 100."""


def merged(
    left: list[tuple[float, int, tuple[int, int, int, int]]],
    right: list[tuple[float, int, tuple[int, int, int, int]]],
) -> Instances:
    """Objects as (score, label, rectangle in the tile)."""
    return merge_tiles([instances((100, 100), *left), instances((100, 100), *right)], [LEFT, RIGHT], SIZE)


def test_an_object_seen_whole_by_one_tile_is_not_changed_by_the_other() -> None:
    # The right tile sees only the part beyond its edge, and draws it a little too large.
    found = merged([(0.8, 0, (30, 20, 80, 60))], [(0.9, 0, (0, 18, 33, 62))])
    assert found.boxes.tolist() == [[30, 20, 80, 60]]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_pieces_that_differ_are_united() -> None:
    found = merged([(0.8, 0, (10, 20, 100, 60))], [(0.9, 0, (0, 25, 90, 60))])
    assert found.boxes.tolist() == [[10, 20, 140, 60]]
    assert int(found.masks.areas()) == 90 * 40 + 40 * 35


def test_a_sliver_at_the_edge_belongs_to_the_object_that_covers_it() -> None:
    # A poor piece: its mask agrees with little of the object, but lies inside it and is cut off.
    found = merged([(0.8, 0, (10, 10, 90, 90))], [(0.6, 0, (0, 40, 12, 60))])
    assert found.boxes.tolist() == [[10, 10, 90, 90]]
    assert int(found.masks.areas()) == 6400


def test_a_small_object_in_front_of_a_large_one_stays() -> None:
    found = merged([(0.8, 0, (10, 10, 90, 90))], [(0.6, 0, (15, 40, 25, 60))])
    assert len(found) == 2


def test_what_a_tile_makes_of_a_part_of_an_object_that_it_cuts_is_dropped() -> None:
    cut, part, whole = (0, 20, 40, 60), (10, 25, 30, 40), (30, 20, 90, 60)
    assert len(merged([(0.9, 0, whole)], [(0.8, 0, cut), (0.6, 0, part)])) == 1
    # As good as the object, of another class, or beside an object that is not cut, it stays.
    assert len(merged([(0.7, 0, whole)], [(0.8, 0, part), (0.6, 0, cut)])) == 2
    assert len(merged([(0.9, 0, whole)], [(0.8, 0, cut), (0.6, 1, part)])) == 2
    assert (
        len(merged([(0.9, 0, (60, 20, 90, 60))], [(0.8, 0, (10, 20, 40, 60)), (0.6, 0, (12, 25, 24, 40))]))
        == 2
    )


def plain_is_echo(group: list[_Piece], groups: list[list[_Piece]]) -> bool:
    """The definition: one piece, beside a piece of another group of its class that its tile cuts, and mostly
    covered by a better whole view of that group from another tile.
    """
    if len(group) > 1:
        return False
    (one,) = group
    return any(
        other is not group
        and other[0].label == one.label
        and any(not p.whole and p.tile == one.tile and not p.apart(one) for p in other)
        and any(
            p.whole
            and p.tile != one.tile
            and p.score > one.score
            and _common(one.rect, one.crop, p.rect, p.crop) >= COVERED * int(one.crop.sum())
            for p in other
        )
        for other in groups
    )


def test_echoes_are_found_by_looking_only_at_what_the_same_tile_cuts() -> None:
    draw = random.Random(0)

    def piece(label: int) -> _Piece:
        x, y, width, height = (*draw.choices(range(6), k=2), *draw.choices(range(3, 12), k=2))
        crop = torch.rand(height, width, generator=generator) < 0.9
        rect = [x, y, x + width, y + height]
        whole, score = draw.random() < 0.5, draw.random()
        return _Piece(draw.randint(0, 2), whole, score, label, torch.tensor(rect), rect, crop.to(torch.uint8))

    generator = torch.Generator().manual_seed(0)
    echoes = singles = 0
    for _ in range(40):
        labels = [draw.randint(0, 1) for _ in range(20)]
        groups = [[piece(label) for _ in range(draw.choice((1, 1, 3, 4)))] for label in labels]
        cut = _cut_by(groups)
        for (tile, label), those in cut.items():
            assert those == [
                group
                for group in groups
                if group[0].label == label and any(p.tile == tile and not p.whole for p in group)
            ]
        expected = [plain_is_echo(group, groups) for group in groups]
        assert [_is_echo(group, cut) for group in groups] == expected
        echoes += sum(expected)
        singles += sum(len(group) == 1 for group in groups)
    assert 0.1 < echoes / singles < 0.9


def test_classes_do_not_mix() -> None:
    assert len(merged([(0.8, 0, (60, 10, 90, 90))], [(0.6, 1, (10, 10, 40, 90))])) == 2


def test_two_legs_become_one_object_where_a_tile_sees_the_body() -> None:
    body = torch.zeros(100, 100, dtype=torch.bool)
    body[10:90, 20:80] = True
    body[30:70, 0:40] = False
    body[10:30, 0:20] = body[70:90, 0:20] = True
    masks = CroppedMasks.from_dense(body[None])
    right = Instances(masks.tight_boxes(), torch.tensor([0.9]), torch.tensor([0]), masks, NAMES, IDS)
    left = instances((100, 100), (0.8, 0, (20, 10, 100, 30)), (0.7, 0, (20, 70, 100, 90)))
    found = merge_tiles([left, right], [LEFT, RIGHT], SIZE)
    assert found.boxes.tolist() == [[20, 10, 130, 90]]


def test_what_one_tile_tells_apart_stays_apart() -> None:
    # Two proposals of the left tile, one inside the other, each with its like at the right.
    outer, inner = (60, 10, 90, 90), (60, 10, 90, 60)
    found = merged(
        [(0.9, 0, outer), (0.8, 0, inner)], [(0.9, 0, (10, 10, 40, 90)), (0.8, 0, (10, 10, 40, 60))]
    )
    assert found.boxes.tolist() == [list(map(float, outer)), list(map(float, inner))]


def test_pieces_may_score_less_than_the_object() -> None:
    def run(images: Sequence[Tensor], score: float) -> list[Instances]:
        assert score == 0.25
        return [
            found[:1]
            if float(found.boxes[0, 0]) > 0
            else Instances(found.boxes, torch.full((1,), 0.3), found.labels, found.masks, NAMES, IDS)
            for found in exact(images)
        ]

    image = torch.zeros(3, 40, 160, dtype=torch.uint8)
    image[0, 10:30, 20:140] = 2
    found = segment_tiled(run, image, 100, 0.5)
    assert found.boxes.tolist() == [[20, 10, 140, 30]]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_a_predictor_by_tiles() -> None:
    """Through preprocessing and network: the colour network sees every tile at its own size."""
    predictor = Predictor(FakeLoaded(), "cpu")  # type: ignore[arg-type]
    image = coloured(300, 200)
    found = predictor(image, tile=96)
    assert found.names == ["red", "green"]
    assert found.image_size == (200, 300)
    torch.testing.assert_close(
        found.boxes, torch.tensor([(20.0, 10.0, 50.0, 30.0), (270.0, 40.0, 300.0, 70.0)]), atol=1.0, rtol=0
    )
    assert all(shape == (3, 64, 64) for call in predictor.network.calls for shape in call)
    assert [one.names for one in predictor([image, coloured()], tile=200)] == [["red", "green"]] * 2


class Crowd(nn.Module):
    """Finds in every image a square of 2 pixels in each of its cells of 8 pixels, row by row."""

    def forward(
        self, images: list[Tensor], image_sizes: list[tuple[int, int]], min_score: float
    ) -> list[Instances]:
        results = []
        for height, width in image_sizes:
            corners = [(x, y) for y in range(3, height, 8) for x in range(3, width, 8)]
            masks = CroppedMasks.from_crops([torch.ones(2, 2)] * len(corners), corners, (height, width))
            scores = torch.full((len(corners),), 0.9)
            labels = torch.zeros(len(corners), dtype=torch.int64)
            results.append(Instances(masks.tight_boxes(), scores, labels, masks, NAMES, IDS))
        return results


class CrowdOfProposals(InstanceFCN):
    def __init__(self) -> None:
        nn.Module.__init__(self)

    forward = Crowd.forward


@pytest.mark.parametrize(
    ("network", "objects"),
    [
        (Crowd(), 12 * 20),
        # Of each tile's rows of 12 the first 8 and a third of the ninth; the tiles share 4 columns.
        (CrowdOfProposals(), 8 * 20 + 2 * 4),
    ],
    ids=["objects", "proposals"],
)
def test_a_tile_may_hold_as_many_objects_as_the_network_finds(network: nn.Module, objects: int) -> None:
    """Two tiles of 144 objects each; of proposals a hundred of each take part."""
    predictor = Predictor(FakeLoaded(network), "cpu")  # type: ignore[arg-type]
    image = torch.zeros(3, 96, 160, dtype=torch.uint8)
    assert len(predictor(image, tile=96)) == objects
    assert len(predictor(image[:, :, :96], tile=96)) == 144


def test_a_mosaic_of_photographs_gives_what_each_gives_alone() -> None:
    """The bundled model: seams of tiles run through the animals, and each comes out once and whole."""
    from importlib.resources import files

    from instancefcn.images.decoding import read_image
    from instancefcn.inference.predictor import load

    folder = files("instancefcn") / "assets" / "demo"
    images = [read_image(str(folder / f"{name}.jpg"))[:, :426] for name in ("tiger", "otter", "deer")]
    model = load("fcis-animals7", device="cpu")
    alone = [one for one in model.run(images, 0.5) if len(one) == 1]
    assert len(alone) == 3
    found = segment_tiled(model.run, torch.cat(images, 2), 560, 0.5)
    assert sorted(found.names) == ["deer", "otter", "tiger"]
    for number, one in enumerate(alone):
        mask = found.masks.paste(found.names.index(one.names[0]))[:, 640 * number : 640 * (number + 1)]
        own = one.masks.paste(0)
        assert float((mask & own).sum() / (mask | own).sum()) > 0.85
