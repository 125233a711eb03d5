"""InstanceFCN: assembling, training, proposals."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from instancefcn.models import zoo
from instancefcn.models.backbone import AtrousVGG
from instancefcn.models.instance_fcn import InstanceFCN, ProposalSpec, on_map, tight_cells
from instancefcn.models.windows import WindowSpec, label_windows, sample_windows, window_boxes
from tiny import target, tiny_proposals


def network(**head: object) -> InstanceFCN:
    torch.manual_seed(0)
    spec = tiny_proposals()
    return zoo.build(replace(spec, head=replace(spec.head, **head)))


# -- assembling


def paired(inside: Tensor) -> Tensor:
    """Maps [k, k, h, w] in the layout of the network: [1, k, k, 2, 1, h, w]."""
    maps = inside[None, :, :, None]
    return torch.stack((torch.zeros_like(maps), maps), dim=3)


def test_assembling_by_hand() -> None:
    """Figure 2 of the paper, with 3 x 3 parts and a window of 3 x 3 cells: each cell is copied from the map
    of its own part. Map (i, j) holds 100 i + 10 j at every cell, plus 1000 y + 10000 x of the cell.
    """
    part = 100.0 * torch.arange(3)[:, None] + 10.0 * torch.arange(3)[None]
    position = 1000.0 * torch.arange(5)[:, None] + 10000.0 * torch.arange(6)[None]
    net = network(k=3)
    net.windows = WindowSpec(cells=3)
    maps = paired(part[:, :, None, None] + position)
    window = window_boxes(torch.tensor([2 * 6 + 3]), 6, net.windows)  # around row 2, column 3
    assert net.assemble(maps, window)[0].tolist() == [
        [1000 + 20000 + 0, 1000 + 30000 + 10, 1000 + 40000 + 20],
        [2000 + 20000 + 100, 2000 + 30000 + 110, 2000 + 40000 + 120],
        [3000 + 20000 + 200, 3000 + 30000 + 210, 3000 + 40000 + 220],
    ]


def test_parts_of_a_window_of_21_cells() -> None:
    """With k = 5 a part is 4.2 cells wide: 4, 4, 5, 4 and 4 cells have their centres in one."""
    net = network(k=5)
    maps = paired(torch.arange(5.0)[None, :, None, None].expand(5, 5, 21, 21))
    (mask,) = net.assemble(maps, torch.tensor([[0.0, 0, 168, 168]]))
    assert mask[0].tolist() == [0] * 4 + [1] * 4 + [2] * 5 + [3] * 4 + [4] * 4


def blob(height: int, width: int, y: int, x: int) -> tuple[Tensor, Tensor]:
    """Maps and logits of an object of 6 x 8 cells whose window is centred on the cell (y, x)."""
    inside = torch.full((5, 5, height, width), -8.0)
    inside[:, :, y - 3 : y + 3, x - 4 : x + 4] = 8.0
    logits = torch.full((height, width), -9.0)
    logits[y, x] = 4.0
    return paired(inside), logits


def test_an_object_moved_by_one_cell_moves_its_proposal_by_exactly_one_cell() -> None:
    net = network(levels=1)
    size = (240, 320)
    found = []
    for y, x in ((14, 20), (15, 20), (14, 21)):
        candidates = net.candidates([blob(30, 40, y, x)], size, size, 0.5)
        assert candidates.scores.tolist() == [pytest.approx(0.98201, abs=1e-5)]
        found.append(net.finish(candidates, size, 10))
    for moved, shift in zip(found[1:], ([0, 8, 0, 8], [8, 0, 8, 0]), strict=True):
        assert torch.equal(moved.boxes, found[0].boxes + torch.tensor(shift, dtype=torch.float32))
        assert torch.equal(moved.masks.crop(0), found[0].masks.crop(0))
    # 6 x 8 cells, and one pixel more: from cell to cell the probability falls from 1 to 0 over 8 pixels, and
    # at the first pixel outside it is 1 - 4.5 / 8 > 0.4.
    assert found[0].boxes.tolist() == [[16 * 8 - 1, 11 * 8 - 1, 24 * 8 + 1, 17 * 8 + 1]]


@pytest.mark.parametrize(("y", "x"), [(3, 4), (3, 36), (27, 4), (27, 36)])
def test_windows_over_the_border(y: int, x: int) -> None:
    """An object in a corner of the image: its window leaves the image, its mask does not."""
    net = network(levels=1)
    candidates = net.candidates([blob(30, 40, y, x)], (240, 320), (240, 320), 0.5)
    found = net.finish(candidates, (240, 320), 10)
    x1, y1, x2, y2 = (x - 4) * 8 - 1, (y - 3) * 8 - 1, (x + 4) * 8 + 1, (y + 3) * 8 + 1
    assert found.boxes.tolist() == [[max(x1, 0), max(y1, 0), min(x2, 320), min(y2, 240)]]
    assert candidates.windows.tolist() == [[x * 8 + 4 - 84, y * 8 + 4 - 84, x * 8 + 4 + 84, y * 8 + 4 + 84]]


def test_levels_share_one_list_and_speak_in_the_pixels_of_the_image() -> None:
    """The same object on the second level is 1.5 times as large in the image."""
    net = network(levels=2)
    weak = blob(30, 40, 14, 20)[0], torch.full((30, 40), -9.0)
    candidates = net.candidates([weak, blob(20, 27, 10, 13)], (240, 320), (480, 640), 0.5)
    # The second level is 160 x 213 pixels, the image 480 x 640: 3 and 3.005 times as large.
    scale = 640 / 213
    assert candidates.windows.tolist() == [pytest.approx([24 * scale, 0, 192 * scale, 168 * 3])]
    (box,) = net.finish(candidates, (480, 640), 10).boxes.tolist()
    assert box == pytest.approx([9 * 8 * scale, 7 * 8 * 3, 17 * 8 * scale, 13 * 8 * 3], abs=3)


def test_near_duplicates_go_and_the_best_stay() -> None:
    net = network(levels=1)
    maps, logits = blob(30, 40, 14, 20)
    logits[14, 21], logits[15, 20] = 5.0, 3.0  # other windows on the same object
    candidates = net.candidates([(maps, logits)], (240, 320), (240, 320), 0.5)
    assert len(candidates.scores) == 3
    found = net.finish(candidates, (240, 320), 10)
    assert found.scores.tolist() == [pytest.approx(0.99331, abs=1e-5)]
    net.spec = replace(net.spec, nms_iou=1.0)
    assert len(net.finish(candidates, (240, 320), 10)) == 3
    assert len(net.finish(candidates, (240, 320), 2)) == 2


def test_windows_without_a_mask_are_no_proposals() -> None:
    net = network(levels=1)
    nothing = paired(torch.full((5, 5, 30, 40), -5.0)), blob(30, 40, 14, 20)[1]
    candidates = net.candidates([nothing], (240, 320), (240, 320), 0.5)
    assert len(candidates.scores) == 1
    assert len(net.finish(candidates, (240, 320), 10)) == 0


def test_boxes_around_cells() -> None:
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    masks[2, 3, 0] = True
    square = torch.zeros(3, 5, 5, dtype=torch.bool)
    square[:, :4] = masks
    boxes, any_cell = tight_cells(square)
    assert boxes[[0, 2]].tolist() == [[2, 1, 5, 3], [0, 3, 1, 4]]
    assert any_cell.tolist() == [True, False, True]


# -- the network


def test_an_image_smaller_than_the_window() -> None:
    net = network().eval()
    (found,) = net([torch.rand(3, 40, 56)], image_sizes=[(80, 112)])
    assert found.image_size == (80, 112)
    assert bool((found.boxes[:, 2:] <= torch.tensor([112, 80])).all())
    assert found.class_names == ("object",)


def test_maps_and_logits_cover_the_image() -> None:
    for size in ((64, 80), (65, 81), (119, 7)):
        maps, logits = network().score_maps(torch.rand(3, *size))
        assert logits.shape == (-(-size[0] // 8), -(-size[1] // 8))
        assert maps.shape == (1, 3, 3, 2, 1, *logits.shape)
        assert not maps[:, :, :, 0].any()


def test_every_parameter_trains_and_images_without_objects_do_too() -> None:
    net = network().train()
    images = [torch.rand(3, 180, 200), torch.rand(3, 64, 72)]
    targets = [target([(50, 40, 146, 120)], [5], (180, 200)), target([], [], (64, 72))]
    losses = net(images, targets)
    assert losses.keys() == {"objectness", "mask"}
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            assert bool(parameter.grad.any()), name
    nothing = net(images[1:], targets[1:])
    assert nothing["mask"].item() == 0
    torch.stack(list(nothing.values())).sum().backward()  # the mask's graph is whole although nothing counts


def test_losses_are_those_computed_by_hand() -> None:
    """Filters of zeros: every window has the objectness of a bias, and every cell the logit of its part. An
    object of 7 x 12 cells near the upper left corner, so that its windows leave the image; then an image
    of a crowd, whose windows are not used, and one without anything.
    """
    net = network().train()
    net.windows = replace(net.windows, samples=40)
    k, cells, width = net.spec.k, net.windows.cells, 25
    for layer in (net.maps, net.objectness):
        torch.nn.init.zeros_(layer.weight)
    bias = torch.linspace(-1, 2, k * k).view(k, k)
    with torch.no_grad():
        net.maps.bias.copy_(bias.flatten())
        net.objectness.bias.fill_(0.7)
    x1, y1, x2, y2 = box = (16, 8, 112, 64)
    size = (184, 8 * width)
    targets = [target([box], [0], size), target([], [], size, crowd=[(0, 0, 200, 184)]), target([], [], size)]
    drawn = [torch.Generator().manual_seed(i) for i in range(3)]
    losses = net([torch.rand(3, *size)] * 3, targets, generators=drawn)

    labels, _ = label_windows(23, width, targets[0], net.windows)
    positive, negative = sample_windows(labels, net.windows, torch.Generator().manual_seed(0))
    assert 0 < len(positive) < 20
    assert len(positive) + len(negative) == 40
    entropies = []
    for row, column in ((int(i) // width, int(i) % width) for i in positive):
        for a, b in product(range(cells), repeat=2):
            y, x = row - cells // 2 + a, column - cells // 2 + b
            if 0 <= y < 23 and 0 <= x < width:
                inside = y1 <= 8 * y < y2 and x1 <= 8 * x < x2
                logit = float(bias[(2 * a + 1) * k // (2 * cells), (2 * b + 1) * k // (2 * cells)])
                entropies.append(math.log1p(math.exp(-logit if inside else logit)))
    assert len(entropies) < len(positive) * cells**2
    assert losses["mask"].item() == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)
    # 40 windows of the first image, none of the second, 40 of the third.
    right, wrong = len(positive), len(negative) + 40
    expected = (right * math.log1p(math.exp(-0.7)) + wrong * math.log1p(math.exp(0.7))) / 80
    assert losses["objectness"].item() == pytest.approx(expected, rel=1e-5)


def test_cells_outside_the_image() -> None:
    """A window over the upper left corner: 12 rows and 11 columns of it lie on the map."""
    window = torch.tensor([[-80.0, -72.0, 88.0, 96.0]])
    seen = on_map(window, 30, 40, 21)[0]
    assert seen.sum() == 12 * 11
    assert bool(seen[9:, 10:].all())


def test_training_needs_targets() -> None:
    with pytest.raises(ValueError, match="one target for each image"):
        network().train()([torch.rand(3, 64, 64)])


def test_memory_does_not_grow_with_the_number_of_positions() -> None:
    """Only the best windows are assembled, however many there are."""
    net = network(levels=1, before_nms=7)
    candidates = net.candidates([blob(60, 70, 14, 20)], (480, 560), (480, 560), 0.0)
    assert candidates.masks.shape == (7, 21, 21)


# -- VGG


@pytest.mark.parametrize("size", [(64, 64), (65, 79), (40, 33)])
def test_the_atrous_vgg_has_stride_8(size: tuple[int, int]) -> None:
    net = AtrousVGG(frozen=("features.0.",)).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, *size)).shape == (1, 512, -(-size[0] // 8), -(-size[1] // 8))
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == [
        "body.features.0.weight",
        "body.features.0.bias",
    ]


def test_the_papers_network() -> None:
    net = zoo.build("instancefcn_vgg16")
    assert net.spec == ProposalSpec(channels=512, k=5, levels=6, step=1.5)
    assert net.windows.cells == 21
    own = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("features."))
    reduce, maps = 512 * 512 + 512, 512 * 25 * 9 + 25
    hidden, objectness = 512 * 512 * 9 + 512, 512 + 1
    assert own == reduce + maps + hidden + objectness
    body = sum(p.numel() for p in net.features.parameters())
    assert body == 14_714_688  # the 13 convolutions of VGG-16
