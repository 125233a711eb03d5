"""The network whole: what trains, what the losses are, what comes out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from instancefcn.geometry import boxes as box_ops
from instancefcn.instances import Instances
from instancefcn.models import zoo
from instancefcn.models.fcis import DELTA_STD, FCIS
from instancefcn.models.head import ClassMaps, HeadSpec
from instancefcn.models.rpn import AnchorSpec
from instancefcn.models.sampling import RoITargets, SamplingSpec
from instancefcn.models.targets import Target
from instancefcn.ops import reference
from tiny import target, tiny_spec

LOSSES = {"rpn_class", "rpn_box", "class", "box", "mask"}


def network(classes: int = 2, **changes: Any) -> FCIS:
    torch.manual_seed(0)
    return zoo.build(replace(tiny_spec(), **changes), classes)


def head(**changes: Any) -> dict[str, HeadSpec]:
    return {"head": replace(tiny_spec().head, **changes)}


def random_images(*sizes: tuple[int, int]) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=random) for size in sizes]


def train(net: FCIS, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
    """Losses after a backward pass; fails unless all is finite and reaches every trainable parameter."""
    losses: dict[str, Tensor] = net.train()(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert losses.keys() == LOSSES
    assert all(loss.dim() == 0 and bool(loss.isfinite()) for loss in losses.values())
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    return losses


OBJECTS = target([(10, 10, 50, 60), (64, 30, 120, 90)], [0, 1], (96, 128))
NOTHING = target([], [], (64, 80))


# -- training
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        head(k=1),
        head(joint=False),
        head(mask_size=14),
        {"sampling": SamplingSpec(method="ohem", rois=16)},
        {"sampling": SamplingSpec(method="random", rois=64, fill=True)},
        {"rpn_level": 4},
        head(fused=True),
        head(fused=True, stride=8),
        {**head(fused=True, stride=8), "rpn_level": 0, "anchors": AnchorSpec((3.0, 6.0), stride=8)},
    ],
    ids=[
        "plain",
        "k=1",
        "separate maps",
        "14 cells",
        "ohem",
        "filled",
        "proposals from C4",
        "fused levels",
        "stride 8",
        "all at stride 8",
    ],
)
def test_every_parameter_trains(changes: dict[str, Any]) -> None:
    net = network(**changes)
    losses = train(net, random_images((96, 128), (64, 80)), [OBJECTS, NOTHING])
    assert all(loss.item() > 0 for loss in losses.values())
    assert all(bool(p.grad.any()) for p in net.maps.parameters() if p.grad is not None)


@pytest.mark.parametrize("method", ["random", "ohem"])
def test_images_without_objects_train(method: str) -> None:
    net = network(sampling=SamplingSpec(method=method, rois=16))  # type: ignore[arg-type]
    losses = train(net, random_images((64, 80), (80, 64)), [NOTHING, NOTHING])
    assert losses["rpn_class"].item() > 0
    assert losses["class"].item() > 0
    assert [losses[name].item() for name in ("rpn_box", "box", "mask")] == [0, 0, 0]


@pytest.mark.parametrize("inside_only", [True, False])
def test_tiny_images_train(inside_only: bool) -> None:
    net = network(rpn=replace(tiny_spec().rpn, inside_only=inside_only))
    objects = [target([(2, 3, 15, 16)], [1], (17, 17)), target([(0, 0, 1, 1)], [0], (1, 19))]
    train(net, random_images((17, 17), (1, 19)), objects)


@pytest.mark.parametrize("method", ["random", "ohem"])
def test_an_image_full_of_a_crowd_trains(method: str) -> None:
    net = network(sampling=SamplingSpec(method=method, rois=16))  # type: ignore[arg-type]
    crowd = target([], [], (64, 80), crowd=[(0, 0, 80, 64)])
    losses = train(net, random_images((64, 80)), [crowd])
    assert losses["class"].item() == 0  # nothing is known to be background


def test_training_needs_targets() -> None:
    net = network().train()
    for targets in (None, [OBJECTS]):
        with pytest.raises(ValueError, match="one target for each image"):
            net(random_images((64, 80), (64, 80)), targets)


def test_frozen_parts_stay() -> None:
    net = zoo.build(replace(tiny_spec(), frozen=("conv_stem", "blocks.0")), 2)
    images = random_images((64, 80))
    net.train()(images, [NOTHING])["class"].backward()
    frozen = [
        p
        for name, p in net.named_parameters()
        if name.startswith(("backbone.body.conv_stem", "backbone.body.blocks.0"))
    ]
    assert frozen
    assert all(p.grad is None for p in frozen)


def constant_maps(
    net: FCIS, values: list[tuple[float, float]], deltas: list[float], n: int = 1
) -> tuple[ClassMaps, Tensor]:
    """Maps [n, k, k, 2, C + 1, 4, 4] with (outside, inside) `values` of every class, and box maps, the same
    everywhere.
    """
    k = net.head.k
    bias = torch.tensor(values).t().expand(k, k, 2, len(values)).flatten()
    return (
        ClassMaps(torch.zeros(n, 1, 4, 4), torch.zeros(len(bias), 1, 1, 1), bias, k, net.head.joint),
        torch.tensor(deltas)[None, None, None, :, None, None].expand(n, k, k, 4, 4, 4).contiguous(),
    )


# Background scores max(0, 1) = 1, the class max(3, -1) = 3; its mask logit is -1 - 3 = -4 everywhere.
VALUES, DELTAS = [(0.0, 1.0), (3.0, -1.0)], [0.5, 0.0, 0.0, 3.0]
SAMPLE = RoITargets(
    rois=torch.tensor([[0.0, 0.0, 32.0, 32.0], [16.0, 16.0, 64.0, 64.0], [0.0, 0.0, 16.0, 16.0]]),
    labels=torch.tensor([1, 0, -1]),
    matched=torch.tensor([0, 0, 0]),
)
# The object is the first RoI itself, filled: no deltas wanted, all cells 1.
OBJECT = target([(0, 0, 32, 32)], [0], (64, 64))
CLASS_OF_OBJECT, CLASS_OF_BACKGROUND = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
BOX, MASK = 0.5 * 0.5**2 + (3 - 0.5), math.log1p(math.exp(4))


@pytest.mark.parametrize("images_in_batch", [1, 2])
def test_losses_are_those_computed_by_hand(images_in_batch: int) -> None:
    net = network(1, sampling=SamplingSpec(method="random", rois=128))
    n = images_in_batch
    maps, box_maps = constant_maps(net, VALUES, DELTAS, n)
    nothing = RoITargets(SAMPLE.rois[1:2], SAMPLE.labels[1:2], SAMPLE.matched[1:2])
    losses = net.losses(
        maps,
        box_maps,
        [SAMPLE, nothing][:n],
        [OBJECT, target([], [], (64, 64))][:n],
    )
    classes = (CLASS_OF_OBJECT + n * CLASS_OF_BACKGROUND) / (1 + n)
    assert losses["class"].item() == pytest.approx(classes, rel=1e-5)
    assert losses["box"].item() == pytest.approx(BOX / (128 * n), rel=1e-5)
    assert losses["mask"].item() == pytest.approx(10 * MASK / (128 * n), rel=1e-5)


def test_hard_examples_count_alone() -> None:
    maps, box_maps = constant_maps(network(1), VALUES, DELTAS)

    def losses(rois: int, **of_head: Any) -> dict[str, float]:
        net = network(1, sampling=SamplingSpec(method="ohem", rois=rois), **head(**of_head))
        return {name: loss.item() for name, loss in net.losses(maps, box_maps, [SAMPLE], [OBJECT]).items()}

    # The object costs more (class, box and mask together); both count when there is room; what is to be
    # ignored never does.
    assert losses(1) == pytest.approx({"class": CLASS_OF_OBJECT, "box": BOX, "mask": 10 * MASK}, rel=1e-5)
    both = (CLASS_OF_OBJECT + CLASS_OF_BACKGROUND) / 2
    for rois in (2, 3):
        assert losses(rois) == pytest.approx(
            {"class": both, "box": BOX / rois, "mask": 10 * MASK / rois}, rel=1e-5
        )
    assert losses(1, mask_weight=1.0)["mask"] == pytest.approx(MASK, rel=1e-5)


# -- reading
# ----------------------------------------------------------------------------------------------------


def test_maps_have_the_operators_layout() -> None:
    net = network(3, **head(k=5))
    levels = [torch.zeros(2, channels, 4, 6) for channels in net.backbone.channels]
    maps, box_maps = net.maps(levels)
    assert maps.whole is not None
    assert maps.whole.shape == (2, 5, 5, 2, 4, 4, 6)
    assert box_maps.shape == (2, 5, 5, 4, 4, 6)
    assert net.maps.scores.out_channels == 2 * 5**2 * 4
    assert net.maps.deltas.out_channels == 4 * 5**2


@pytest.mark.parametrize(("stride", "cells"), [(16, (4, 5)), (8, (7, 9))])
def test_maps_have_the_cells_of_their_stride(stride: int, cells: tuple[int, int]) -> None:
    net = network(**head(fused=True, stride=stride), rpn_level=0, anchors=AnchorSpec((3.0,), stride=stride))
    batch, _ = net.collate(random_images((56, 70)))
    features = net.backbone(batch)
    maps, box_maps = net.maps(features)
    assert maps.features.shape[2:] == box_maps.shape[4:] == cells
    assert net.proposal_features(features, maps) is maps.features


@pytest.mark.parametrize("changes", [{"stride": 8}, {"stride": 4, "fused": True}])
def test_an_unsupported_stride_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"is {changes['stride']}"):
        HeadSpec(**changes)


def test_separate_maps_share_nothing() -> None:
    net = network(1, **head(joint=False))
    maps, _ = constant_maps(net, VALUES, DELTAS)
    rois = box_ops.to_rois(SAMPLE.rois, 0)
    assert net.class_logits(maps, rois)[0].tolist() == pytest.approx([0, 3])  # the first maps alone
    assert net.masks(maps, rois, torch.tensor([1, 1, 1])).unique().tolist() == pytest.approx(
        [-1]
    )  # the second alone


def test_images_are_normalised_then_padded_with_zeros() -> None:
    net = network()
    batch, sizes = net.collate([torch.full((3, 4, 6), 0.7), torch.full((3, 5, 2), 0.2)])
    assert sizes == [(4, 6), (5, 2)]
    assert batch.shape == (2, 3, 5, 6)
    mean, std = net.backbone.mean.flatten(), net.backbone.std.flatten()
    torch.testing.assert_close(batch[0, :, 3, 5], (0.7 - mean) / std)
    torch.testing.assert_close(batch[1, :, 4, 1], (0.2 - mean) / std)
    assert not batch[0, :, 4].any()
    assert not batch[1, :, :, 2:].any()


# -- inference
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lively() -> FCIS:
    """A network in evaluation mode whose random answers vary over the image."""
    net = network()
    for layer, std in (
        (net.maps.scores, 1.0),
        (net.maps.deltas, 0.2),
        (net.maps.reduce.lateral[0], 1.0),
        (net.rpn.logits, 1.0),
    ):
        torch.nn.init.normal_(layer.weight, std=std)
    return net.eval()


def assert_equal(found: Instances, expected: Instances) -> None:
    assert len(found) == len(expected) > 0
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
    differ = (found.dense_masks() != expected.dense_masks()).float().mean()
    assert differ.item() < 1e-3


def test_refined_boxes_are_scored_on_the_same_maps(lively: FCIS, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[ClassMaps, Tensor]] = []
    original = FCIS.class_logits

    def spy(self: FCIS, maps: ClassMaps, rois: Tensor) -> Tensor:
        seen.append((maps, rois))
        return original(self, maps, rois)

    monkeypatch.setattr(FCIS, "class_logits", spy)
    images = random_images((64, 96), (96, 64))
    with torch.no_grad():
        lively(images)
        features = lively.backbone(lively.collate(images)[0])
        maps, box_maps = lively.maps(features)
    ((scored, rois),) = seen
    torch.testing.assert_close(scored.whole, maps.whole)
    first, second = (half.flatten(0, 1) for half in rois.unflatten(0, (2, -1)).chunk(2, 1))
    assert torch.equal(first[:, 0], second[:, 0])
    assert first[:, 0].unique().tolist() == [0, 1]
    deltas = reference.ps_average(box_maps, first, 16).float() * torch.tensor(DELTA_STD)
    for i, size in enumerate([(64, 96), (96, 64)]):
        own = first[:, 0] == i
        refined = box_ops.clip(box_ops.decode(first[own, 1:], deltas[own]), size)
        torch.testing.assert_close(second[own, 1:], refined, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(first, second, atol=1.0)


def test_windows_that_became_too_small_are_no_instances(
    lively: FCIS, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, sizes = lively.collate(random_images((64, 96)))
    before = lively.score_windows(batch, sizes).boxes
    sides = before[..., 2:] - before[..., :2]
    limit = float(sides.amin(-1).median())
    monkeypatch.setattr(lively.rpn, "spec", replace(lively.rpn.spec, min_size=limit))
    maps, box_maps, *_ = lively.convolve(batch)
    proposals = before[:, : before.shape[1] // 2]
    windows = lively.refine_and_score(maps, box_maps, proposals, sizes)
    large = sides.amin(-1) >= limit
    assert 0 < int(large.sum()) < large.numel()
    assert torch.equal(windows.boxes[large], before[large])
    assert not windows.boxes[~large].any()
    (found,) = lively.vote_instances(windows, sizes, sizes, 0.0, 1000)
    assert len(found) > 0
    rows = {tuple(box) for box in windows.boxes[large].tolist()}
    monkeypatch.setattr(lively, "head", replace(lively.head, extent="box"))
    (own,) = lively.vote_instances(windows, sizes, sizes, 0.0, 1000)
    assert {tuple(box) for box in own.boxes.tolist()} <= rows


def test_one_pass_scores_the_proposals_alone(lively: FCIS, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, sizes = lively.collate(random_images((64, 96)))
    both = lively.score_windows(batch, sizes)
    monkeypatch.setattr(lively, "head", replace(lively.head, passes=1))
    once = lively.score_windows(batch, sizes)
    half = both.boxes.shape[1] // 2
    assert once.boxes.shape[1] == half
    torch.testing.assert_close(once.boxes, both.boxes[:, :half])
    torch.testing.assert_close(once.probabilities, both.probabilities[:, :half])


def test_without_voting_masks_are_the_survivors_own(lively: FCIS, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images((64, 96))
    (voted,) = lively(images)
    monkeypatch.setattr(lively, "head", replace(lively.head, voting=False, extent="box"))
    batch, sizes = lively.collate(images)
    windows = lively.score_windows(batch, sizes)
    (found,) = lively(images)
    assert found.scores[0] == voted.scores[0]
    row = (windows.probabilities[0, :, found.labels[0] + 1] == found.scores[0]).nonzero()[0]
    box = windows.boxes[0, row]
    own = lively.masks(windows.maps, box_ops.to_rois(box, 0), found.labels[:1] + 1).sigmoid()[0]
    steps = [
        ((torch.arange(side) + 0.5) - box[0, i]) / (box[0, 2 + i] - box[0, i])
        for i, side in ((0, 96), (1, 64))
    ]
    x, y = torch.meshgrid(steps[0], steps[1], indexing="xy")
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    grid = torch.stack((x, y), -1)[None] * 2 - 1
    read = torch.nn.functional.grid_sample(own[None, None], grid, padding_mode="border", align_corners=False)
    expected = (read[0, 0] >= 0.4) & inside
    differ = (found.masks.paste(0) != expected).sum()
    assert expected.any()
    assert int(differ) <= 2, "a pixel at the threshold may round either way"


@pytest.mark.parametrize("passes", [0, 3])
def test_other_passes_are_refused(passes: int) -> None:
    with pytest.raises(ValueError, match="passes"):
        HeadSpec(passes=passes)


def test_instances_lie_in_the_image(lively: FCIS) -> None:
    for size, result in zip([(96, 128), (50, 33)], lively(random_images((96, 128), (50, 33))), strict=True):
        assert result.image_size == size
        assert 0 < len(result) <= 100
        assert result.class_names == ("class 0", "class 1")
        assert bool((result.boxes[:, :2] >= 0).all())
        assert bool((result.boxes[:, 2] <= size[1]).all())
        assert bool((result.boxes[:, 3] <= size[0]).all())
        assert bool((result.masks.areas() > 0).all())
        assert torch.equal(result.boxes, result.masks.tight_boxes())


def test_a_batch_gives_what_its_images_give(lively: FCIS) -> None:
    images = random_images((64, 96), (64, 96), (64, 96))
    for image, found in zip(images, lively(images), strict=True):
        assert_equal(found, lively([image])[0])


def test_smaller_images_in_a_batch_have_the_same_proposals() -> None:
    """Padding must not compete: with score and box maps that say the same everywhere, an image's results do
    not depend on it.
    """
    net = network().eval()
    for layer in (net.rpn.logits, net.rpn.deltas, net.maps.scores, net.maps.deltas):
        torch.nn.init.zeros_(layer.weight)
    torch.nn.init.normal_(net.maps.scores.bias)
    small, large = random_images((50, 40), (128, 128))
    assert_equal(net([small, large])[0], net([small])[0])


def test_results_are_wanted_in_the_original_images_pixels(lively: FCIS) -> None:
    images = random_images((64, 96))
    (own,) = lively(images)
    (original,) = lively(images, image_sizes=[(128, 288)])
    assert original.image_size == (128, 288)
    assert torch.equal(original.labels, own.labels)
    torch.testing.assert_close(original.scores, own.scores)
    # The same masks, read at more points: edges move by a pixel at most, areas grow sixfold.
    moved = (original.boxes / torch.tensor([3.0, 2.0, 3.0, 2.0]) - own.boxes).abs()
    assert moved.max().item() <= 1
    ratio = original.masks.areas().sum() / own.masks.areas().sum()
    assert ratio.item() == pytest.approx(6, rel=0.1)


def test_score_and_number_of_instances_are_limited(lively: FCIS) -> None:
    images = random_images((64, 96))
    (every,) = lively(images)
    (few,) = lively(images, max_instances=3)
    assert few.scores.tolist() == every.scores[:3].tolist()
    bar = every.scores[len(every) // 2].item()
    (good,) = lively(images, min_score=bar)
    assert good.scores.min().item() >= bar
    (none,) = lively(images, min_score=1.0)
    assert len(none) == 0
    assert none.image_size == (64, 96)
    with pytest.raises(ValueError, match="max_instances must be at least 1, got 0"):
        lively(images, max_instances=0)


def test_images_too_small_for_a_proposal_give_nothing(lively: FCIS) -> None:
    (found,) = lively(random_images((1, 1)))
    assert len(found) == 0
    assert found.image_size == (1, 1)


# -- optimisation
# -----------------------------------------------------------------------------------------------


def test_parameter_groups() -> None:
    net = zoo.build(replace(tiny_spec(), frozen=("conv_stem",)), 2)
    groups = net.parameter_groups()
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decays = {id(p): group["decay"] for group in groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (3.0 if name.startswith("maps.reduce") else 1.0), name
            assert decays[id(parameter)] == (not name.endswith("bias")), name


def test_a_limit_that_is_reached_is_said_and_classes_do_not_compete(lively: FCIS) -> None:
    image = torch.rand((3, 96, 128), generator=torch.Generator().manual_seed(1))
    (everything,) = lively([image], min_score=0.01)
    assert everything.limit_reached is None
    most = len(everything) // 2
    (some,) = lively([image], min_score=0.01, max_instances=most)
    assert some.limit_reached == most
    assert torch.equal(some.boxes, everything.boxes[:most])
    label = int(everything.labels[-1])
    (own,) = lively([image], min_score=0.01, classes=[label])
    assert_equal(own, everything[everything.labels == label])


def test_a_larger_limit_has_more_proposals(lively: FCIS) -> None:
    batch, sizes = lively.collate([torch.rand((3, 96, 128))])
    usual = lively.score_windows(batch, sizes).boxes.shape[1]
    assert usual == 2 * lively.rpn.spec.after_nms
    assert lively.score_windows(batch, sizes, 2.5).boxes.shape[1] == round(2.5 * usual)
    seen: list[float] = []
    network = copy.copy(lively)
    network.score_windows = lambda *args: seen.append(args[2]) or lively.score_windows(*args)  # type: ignore
    for limit in (None, 10, network.max_instances, 3 * network.max_instances):
        network([torch.rand((3, 64, 64))], max_instances=limit)
    assert seen == [1.0, 1.0, 1.0, 3.0]
