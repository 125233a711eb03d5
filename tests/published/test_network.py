"""The published network: sizes, resizing, and the official code's rules said again in its own terms.

The official boxes end with their last pixel: sides are x2 - x1 + 1. The restatements below keep to that, in
plain loops; ours are half-open, so theirs is (x1, y1, x2 - 1, y2 - 1). How close the ChainerCV form is to
ChainerCV is in test_parity.py.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from instancefcn.errors import CheckpointError, ConfigError
from instancefcn.export import graph_of
from instancefcn.inference.explain import explain
from instancefcn.models import zoo
from instancefcn.models.head import Classes
from instancefcn.models.starting_weights import start_from
from instancefcn.published.caffe_resnet import CaffeResNet101
from instancefcn.published.checkpoint import load_any_checkpoint
from instancefcn.published.network import CHAINERCV, MXNET, Published, PublishedFCIS, PublishedSpec
from instancefcn.published.resizing import published_size, resize_published

CLASSES = Classes(("cat", "dog", "hen"), (1, 2, 3))
SIZE = (75, 130)
"""Of the input: neither side is a multiple of 16."""
END = torch.tensor([0, 0, 1, 1])


@pytest.fixture(scope="module")
def network() -> PublishedFCIS:
    """With random weights, for the official rules."""
    torch.manual_seed(0)
    return PublishedFCIS(PublishedSpec(MXNET, (1, 2, 4), 4.0), CLASSES).eval()


@pytest.fixture
def chainercv(network: PublishedFCIS, monkeypatch: pytest.MonkeyPatch) -> PublishedFCIS:
    """The same network with ChainerCV's rules (its anchors apart)."""
    monkeypatch.setattr(network, "published", CHAINERCV)
    return network


# -- size of the input
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "truncated", "rounded"),
    [
        ((480, 640), (600, 800), (600, 800)),
        ((333, 500), (600, 900), (600, 901)),
        ((500, 333), (900, 600), (901, 600)),
        ((281, 400), (599, 854), (600, 854)),
        ((291, 300), (599, 618), (600, 619)),
        ((600, 1000), (600, 1000), (600, 1000)),
        ((3000, 1000), (1000, 333), (1000, 333)),
        ((1200, 2001), (599, 1000), (600, 1000)),  # 1000.5 rounds to even, so it is not too long
        ((1, 3000), (1, 1000), (1, 1000)),
    ],
)
def test_size_of_the_input(
    image: tuple[int, int], truncated: tuple[int, int], rounded: tuple[int, int]
) -> None:
    assert published_size(*image, 600, 1000, rounded=False) == truncated
    assert published_size(*image, 600, 1000, rounded=True) == rounded


def test_truncation_makes_many_long_sides_one_short() -> None:
    """Of the lengths 600 to 2999, 279 become 999 instead of 1000 (counted in ChainerCV)."""
    sides = [published_size(100, long, 600, 1000, rounded=False)[1] for long in range(600, 3000)]
    assert sides.count(999) == 279
    assert set(sides) == {999, 1000}
    assert {published_size(100, long, 600, 1000, rounded=True)[1] for long in range(600, 3000)} == {1000}


def test_resizing_reads_two_neighbours_and_smooths_nothing() -> None:
    image = torch.tensor([[[0, 100]]], dtype=torch.uint8).expand(3, 2, 2)
    larger = resize_published(image, 4, 10, rounded=False) * 255
    torch.testing.assert_close(larger[0, 1], torch.tensor([0.0, 25.0, 75.0, 100.0]))
    stripes = torch.tensor([0, 0, 0, 240, 0, 0, 0, 240], dtype=torch.uint8).expand(3, 8, 8)
    smaller = resize_published(stripes, 2, 10, rounded=False)
    assert float(smaller.max()) == 0  # it looks between the second and the third of four


def test_official_colours_are_whole_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=generator)
    smooth, levels = (resize_published(image, 27, 1000, rounded) * 255 for rounded in (False, True))
    assert torch.equal(levels, levels.round())
    # By the scale 1.35 as it is, not by 27 / 20 and 40 / 30: the widths differ by half a pixel.
    assert smooth.shape == levels.shape == (3, 27, 40)
    assert float((smooth - levels)[:, :, 0].abs().max()) <= 1


def test_cells_of_the_map() -> None:
    with torch.device("meta"):
        backbone = CaffeResNet101()
        for pixels, cells in ((600, 38), (800, 50), (900, 57), (1000, 63), (3, 1)):
            c4, c5 = backbone(torch.empty(1, 3, pixels, 32))
            assert c4.shape == (1, 1024, cells, 2)
            assert c5.shape == (1, 2048, cells, 2)


def test_parameters_are_the_published_ones() -> None:
    """51,856,392 for VOC, counted in ChainerCV with the normalisations' scales and shifts."""
    with torch.device("meta"):
        spec = PublishedSpec(CHAINERCV, (8, 16, 32), 16.0)
        net = PublishedFCIS(spec, Classes(tuple(map(str, range(20))), tuple(range(20))))
    left_out = 9 * (512 + 1) + 49 * 4 * (1024 + 1)  # background's logits and boxes
    norms = sum(buffer.numel() for name, buffer in net.named_buffers() if name.endswith(("scale", "shift")))
    assert sum(parameter.numel() for parameter in net.parameters()) + norms == 51_856_392 - left_out


# -- the official rules
# ---------------------------------------------------------------------------------------------------


def official_anchors(rows: int, columns: int, scales: tuple[int, ...]) -> list[list[float]]:
    """Inclusive corners, centres 7.5 from each cell's corner; shapes 23 x 12, 16 x 16 and 11 x 22."""
    return [
        [
            x + 7.5 - (w * s - 1) / 2,
            y + 7.5 - (h * s - 1) / 2,
            x + 7.5 + (w * s - 1) / 2,
            y + 7.5 + (h * s - 1) / 2,
        ]
        for y in range(0, 16 * rows, 16)
        for x in range(0, 16 * columns, 16)
        for w, h in ((23, 12), (16, 16), (11, 22))
        for s in scales
    ]


def official_decode(box: list[float], delta: list[float], size: tuple[int, int]) -> list[float]:
    """Deltas applied to one inclusive box, clipped to the last pixel."""
    w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
    cx, cy = box[0] + (w - 1) / 2 + delta[0] * w, box[1] + (h - 1) / 2 + delta[1] * h
    w, h = w * math.exp(delta[2]), h * math.exp(delta[3])
    found = [cx - (w - 1) / 2, cy - (h - 1) / 2, cx + (w - 1) / 2, cy + (h - 1) / 2]
    return [min(max(side, 0), size[1 - i % 2] - 1) for i, side in enumerate(found)]


def inclusive_iou(a: list[float], b: list[float]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    area = max(w, 0) * max(h, 0)
    return area / ((a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - area)


def test_official_anchors(network: PublishedFCIS) -> None:
    expected = torch.tensor(official_anchors(5, 9, (1, 2, 4)))
    torch.testing.assert_close(network.anchors.grid(5, 9) - END, expected)


def test_official_proposals(network: PublishedFCIS) -> None:
    """Only whole cells propose (4 x 8 of 5 x 9), the minimum side is in pixels of the input, and the best of
    what overlaps stays.
    """
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5 * 9 * 9, generator=generator)
    deltas = torch.randn((5 * 9 * 9, 4), generator=generator) * 0.4
    anchors = official_anchors(5, 9, (1, 2, 4))
    boxes = [official_decode(a, d, SIZE) for a, d in zip(anchors, deltas.tolist(), strict=True)]
    cell = [(i // 81, i // 9 % 9) for i in range(len(boxes))]
    kept: list[list[float]] = []
    for i in logits.argsort(descending=True).tolist():
        box = boxes[i]
        whole = cell[i][0] < SIZE[0] // 16 and cell[i][1] < SIZE[1] // 16
        large = box[2] - box[0] + 1 >= 4 and box[3] - box[1] + 1 >= 4
        if whole and large and all(inclusive_iou(box, k) <= 0.7 for k in kept):
            kept.append(box)
    found = network.proposals(logits, deltas, (5, 9), SIZE, scale=3.0)
    assert 20 < len(kept) < 300
    torch.testing.assert_close(found - END, torch.tensor(kept), rtol=0, atol=1e-3)


def test_chainercvs_proposals_come_from_all_cells_and_are_large_in_the_image(
    chainercv: PublishedFCIS,
) -> None:
    logits = torch.full((5 * 9 * 9,), -1.0)
    logits[-9:] = torch.arange(9.0)  # the last cell
    found = chainercv.proposals(logits, torch.zeros((405, 4)), (5, 9), SIZE, scale=1.0)
    assert found[0, 2:].tolist() == [SIZE[1], SIZE[0]]
    tall = chainercv.proposals(logits, torch.zeros((405, 4)), (5, 9), SIZE, scale=11.0)
    assert float((tall[:, 2:] - tall[:, :2]).min()) >= 44


def random_maps(network: PublishedFCIS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn((1, 7, 7, 8, 5, 9), generator=generator)
    return scores, torch.randn((1, 7, 7, 4, 5, 9), generator=generator)


def test_official_windows_have_whole_pixels_and_the_mask_of_the_best_class(network: PublishedFCIS) -> None:
    scores, boxes = random_maps(network)
    window = [10.3, 20.6, 90.7, 68.4]  # inclusive
    logits, masks, deltas = network.read((scores, boxes), torch.tensor([window]) + END)
    x1, y1, x2, y2 = 10 / 16, 21 / 16, 92 / 16, 69 / 16  # rounded, and one on the end
    pooled = np.zeros((8, 21, 21))
    coded = np.zeros((4, 21, 21))
    for a in range(21):
        for b in range(21):
            rows = slice(math.floor(y1 + a * (y2 - y1) / 21), math.ceil(y1 + (a + 1) * (y2 - y1) / 21))
            columns = slice(math.floor(x1 + b * (x2 - x1) / 21), math.ceil(x1 + (b + 1) * (x2 - x1) / 21))
            pooled[:, a, b] = scores[0, a // 3, b // 3, :, rows, columns].mean((1, 2))
            coded[:, a, b] = boxes[0, a // 3, b // 3, :, rows, columns].mean((1, 2))
    outside, inside = pooled[:4], pooled[4:]
    expected = np.maximum(outside, inside).mean((1, 2))
    np.testing.assert_allclose(logits[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(deltas[0].numpy(), coded.mean((1, 2)), rtol=1e-4, atol=1e-5)
    best = 1 + int(expected[1:].argmax())
    probability = np.exp(inside[best]) / (np.exp(inside[best]) + np.exp(outside[best]))
    np.testing.assert_allclose(masks[0].numpy(), probability, rtol=1e-4, atol=1e-5)


def test_chainercvs_windows_are_not_rounded_and_may_have_backgrounds_mask(chainercv: PublishedFCIS) -> None:
    scores = torch.zeros((1, 7, 7, 8, 5, 9))
    scores[:, :, :, 4] = 2.0  # background's inside maps
    scores[:, :, :, 5] = 1.0
    box = torch.tensor([[16.0, 16.0, 31.4, 31.4]])  # just inside one cell; rounding does not change that
    _, masks, _ = chainercv.read((scores, torch.zeros((1, 7, 7, 4, 5, 9))), box)
    torch.testing.assert_close(masks, torch.full((1, 21, 21), 2.0).sigmoid())


def test_official_windows_are_refined_by_adding_one(network: PublishedFCIS) -> None:
    maps = random_maps(network)
    proposals = torch.tensor([[10.0, 20.0, 60.0, 70.0], [0.0, 0.0, 130.0, 75.0], [30.0, 30.0, 33.0, 60.0]])
    boxes, probabilities, masks = network.windows(maps, proposals, SIZE)
    _, _, deltas = network.read(maps, proposals)
    stds = (0.2, 0.2, 0.5, 0.5)
    refined = [
        official_decode(box, [d * s for d, s in zip(delta, stds, strict=True)], SIZE)
        for box, delta in zip((proposals - END).tolist(), deltas.tolist(), strict=True)
    ]
    large = [b for b in (proposals - END).tolist() + refined if min(b[2] - b[0], b[3] - b[1]) + 1 >= 4]
    assert len(large) < 6  # one is too narrow
    torch.testing.assert_close(boxes - END, torch.tensor(large).to(boxes), rtol=1e-5, atol=1e-4)
    assert len(masks) == len(large)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(large)))


def test_official_boxes_are_scaled_by_their_last_pixel(network: PublishedFCIS) -> None:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 70.0], [100.0, 60.0, 130.0, 75.0]])
    found = network.to_image(boxes, 1.5, (50, 86)) - END
    expected = [[10 / 1.5, 20 / 1.5, 59 / 1.5, 69 / 1.5], [100 / 1.5, 60 / 1.5, 85.0, 49.0]]
    torch.testing.assert_close(found, torch.tensor(expected))
    # The scale is that of before the sides were rounded.
    assert network.scale((600, 901), (333, 500)) == 600 / 333


def test_chainercvs_boxes_are_scaled_by_the_widths(chainercv: PublishedFCIS) -> None:
    assert chainercv.scale((599, 854), (281, 400)) == 854 / 400
    found = chainercv.to_image(torch.tensor([[10.0, 20.0, 60.0, 75.0]]), 2.0, (36, 65))
    assert found.tolist() == [[5.0, 10.0, 30.0, 36.0]]


def test_official_results_of_a_single_row_are_dropped(network: PublishedFCIS) -> None:
    masks = torch.zeros((2, 21, 21))
    masks[0] = 1.0
    masks[1, 10] = 1.0  # one row of 21 on 21 pixels
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [40.0, 0.0, 61.0, 21.0]])
    probabilities = torch.tensor([[0.1, 0.8, 0.1, 0.0], [0.1, 0.7, 0.2, 0.0]])
    found = network.vote(boxes, probabilities, masks, (40, 80), 0.3, 100)
    assert found.labels.tolist() == [0]
    assert found.boxes.tolist() == [[0.0, 0.0, 20.0, 20.0]]


# -- the whole
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [CHAINERCV, MXNET], ids=["chainercv", "mxnet"])
def test_images_of_any_shape_give_instances(published: Published) -> None:
    torch.manual_seed(0)
    net = PublishedFCIS(PublishedSpec(published, (1, 2), 2.0), CLASSES).eval()
    images = [torch.rand(3, *size) for size in ((40, 70), (1, 1), (2, 90), (90, 1), (64, 64))]
    sizes = [(20, 35), (1, 1), (2, 90), (90, 1), (64, 64)]
    results = net(images, image_sizes=sizes)
    assert [found.image_size for found in results] == sizes
    assert len(results[0]) > 0
    for found, (height, width) in zip(results, sizes, strict=True):
        assert bool(((found.boxes >= 0) & (found.boxes <= torch.tensor([width, height] * 2))).all())
    alone = net([images[0]], image_sizes=sizes[:1])[0]
    assert torch.equal(alone.scores, results[0].scores)
    assert torch.equal(alone.masks.dense(), results[0].masks.dense())


def test_it_is_not_trained(network: PublishedFCIS) -> None:
    network.train()
    with pytest.raises(ConfigError, match="fcis_resnet101_published"):
        network([torch.zeros(3, 32, 32)])
    network.eval()
    with pytest.raises(ConfigError, match="fcis_resnet101_published"):
        zoo.build("fcis_resnet101_published", 20)
    with pytest.raises(CheckpointError, match="convert-weights"):
        load_any_checkpoint("fcis_resnet101_published")


def test_what_needs_another_network_says_so() -> None:
    with torch.device("meta"):
        net = PublishedFCIS(PublishedSpec(MXNET, (8, 16, 32), 16.0), CLASSES)
    predictor: Any = SimpleNamespace(network=net)
    with pytest.raises(ConfigError, match="fcis_resnet101"):
        graph_of(predictor, dynamic=False, instances=1)
    with pytest.raises(ConfigError, match="explain"):
        explain(predictor, torch.zeros((3, 8, 8), dtype=torch.uint8), predictor)
    with pytest.raises(ConfigError, match="init"):
        start_from(predictor, net)


def test_restated_overlap_is_ours() -> None:
    """With x2 + 1 for x2, the overlap of inclusive boxes is that of half-open ones."""
    a, b = [0.0, 0.0, 9.0, 9.0], [5.0, 3.0, 14.0, 9.0]
    ours = box_iou(torch.tensor([a]) + END, torch.tensor([b]) + END)
    assert float(ours) == pytest.approx(inclusive_iou(a, b))
