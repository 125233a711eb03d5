"""Anchors, proposals and the proposal network's training against hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from instancefcn.models import rpn as rpn_module
from instancefcn.models.rpn import (
    AnchorSpec,
    RegionProposalNetwork,
    RPNSpec,
    anchor_labels,
    covered_by,
    on_image,
    random_subset,
    rank,
    sample_anchors,
    thin,
)
from tiny import target

SQUARES = AnchorSpec(
    scales=(1.0,), ratios=(1.0,)
)  # one 16 px square a cell: anchors are the cells themselves
SPEC = RPNSpec(min_size=2.0, inside_only=False)


def network(spec: RPNSpec = SPEC, anchors: AnchorSpec = SQUARES) -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(3, anchors, spec)


def test_anchors_are_ratio_major_and_keep_their_area() -> None:
    base = AnchorSpec(scales=(1.0, 2.0), ratios=(0.25, 1.0)).base()
    # Ratio is height / width: 0.25 is 32 x 8 and 64 x 16.
    assert base.tolist() == [[-16, -4, 16, 4], [-32, -8, 32, 8], [-8, -8, 8, 8], [-16, -16, 16, 16]]
    assert len(AnchorSpec(scales=(4, 8, 16, 32))) == 12


def test_anchors_stand_on_the_cells_row_by_row() -> None:
    assert SQUARES.grid(2, 3).tolist() == [
        [0, 0, 16, 16],
        [16, 0, 32, 16],
        [32, 0, 48, 16],
        [0, 16, 16, 32],
        [16, 16, 32, 32],
        [32, 16, 48, 32],
    ]


def test_outputs_are_in_the_order_of_the_anchors() -> None:
    anchors = AnchorSpec(scales=(1.0, 2.0), ratios=(1.0,))
    rpn = network(anchors=anchors)
    logits, deltas = rpn(torch.randn(2, 3, 4, 5))
    assert logits.shape == (2, 40)
    assert deltas.shape == (2, 40, 4)
    # Zero weights leave the biases: anchor a of every cell has logit a and deltas 4 a .. 4 a + 3.
    for layer, count in ((rpn.logits, 2), (rpn.deltas, 8)):
        torch.nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.arange(count))
    logits, deltas = rpn(torch.randn(1, 3, 4, 5))
    assert logits[0].view(4, 5, 2).unique(dim=0).unique(dim=1).flatten().tolist() == [0, 1]
    assert deltas[0, 1::2].unique(dim=0).tolist() == [[4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((32, 48), 2, 3), ((33, 47), 3, 3), ((17, 16), 2, 1), ((1, 1), 1, 1), ((600, 800), 38, 50)],
)
def test_cells_that_an_image_touches_are_on_it(size: tuple[int, int], rows: int, columns: int) -> None:
    anchors = AnchorSpec(scales=(1.0, 8.0, 32.0))
    inside = on_image(anchors.grid(40, 60), size, anchors.stride).view(40, 60, 9)
    expected = torch.zeros(40, 60, 9, dtype=torch.bool)
    expected[:rows, :columns] = True
    assert torch.equal(inside, expected)


def make_proposals(scores: Tensor, candidates: Tensor, size: tuple[int, int], spec: RPNSpec) -> Tensor:
    """Of one image, without the padding, which must be zeros and come last."""
    found = thin(rank(scores, candidates, size, spec)[None], spec)[0]
    assert found.shape == (spec.after_nms, 4)
    count = int(found.any(1).sum())
    assert not found[count:].any()
    return found[:count]


def test_proposals_are_ranked_clipped_and_suppressed() -> None:
    candidates = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 8.0],  # IoU 0.8 with the first, which is better: suppressed
            [-5.0, 20.0, 10.0, 60.0],  # clipped
            [0.0, 0.0, 10.0, 6.0],  # IoU 0.6: stays
            [30.0, 5.0, 31.0, 25.0],  # one pixel wide: too small
            [39.0, 0.0, 60.0, 20.0],  # one pixel wide once clipped: too small
            [20.0, 20.0, 24.0, 24.0],
        ]
    )
    scores = torch.tensor([0.5, 0.4, 0.9, 0.3, 0.95, 0.95, torch.nan])
    found = make_proposals(scores, candidates, (30, 40), SPEC)
    assert found.tolist() == [[0, 20, 10, 30], [0, 0, 10, 10], [0, 0, 10, 6]]


def test_boxes_without_area_never_compete() -> None:
    """Clipped to a line or a point, with the highest scores and no smallest size: they would hide the others
    from the suppression, which counts those with area from the first.
    """
    candidates = torch.tensor([[50.0, 0.0, 60.0, 20.0], [5.0, -9.0, 9.0, 0.0], *SQUARES.grid(1, 2).tolist()])
    found = make_proposals(
        torch.tensor([4.0, 3.0, 2.0, 1.0]), candidates, (30, 40), RPNSpec(min_size=0.0, after_nms=4)
    )
    assert found.tolist() == [[0, 0, 16, 16], [16, 0, 32, 16]]


def test_the_numbers_before_and_after_suppression_are_kept() -> None:
    candidates = SQUARES.grid(1, 6)
    scores = torch.tensor([3.0, 5.0, 1.0, 4.0, 2.0, 0.0])
    assert make_proposals(scores, candidates, (16, 96), RPNSpec(before_nms=4))[:, 0].tolist() == [
        16,
        48,
        0,
        64,
    ]
    assert make_proposals(scores, candidates, (16, 96), RPNSpec(after_nms=2))[:, 0].tolist() == [16, 48]


def test_the_best_of_each_size_compete() -> None:
    """Anchors of 16 and 8 px in 4 cells. The large ones have the highest scores; of each size two remain."""
    candidates = AnchorSpec(scales=(1.0, 0.5), ratios=(1.0,)).grid(1, 4)
    scores = torch.tensor([9.0, 1.0, 8.0, 4.0, 7.0, 3.0, 6.0, 2.0])
    ranked = rank(scores, candidates, (16, 64), RPNSpec(min_size=2.0, before_nms=2), groups=2)
    assert ranked.tolist() == [[0, 0, 16, 16], [16, 0, 32, 16], [20, 4, 28, 12], [36, 4, 44, 12]]
    few = rank(scores, candidates, (16, 64), RPNSpec(min_size=2.0, before_nms=9), groups=2)
    assert len(few) == 8


def test_padding_proposes_nothing() -> None:
    rpn, anchors = network(), SQUARES.grid(2, 4)
    deltas = torch.zeros(8, 4)
    deltas[3, 0], deltas[7, 1] = -1.5, -1.0  # from the padding into the image, with the highest scores
    logits = torch.arange(8.0)
    padded, whole = rpn.proposals(logits.repeat(2, 1), deltas.repeat(2, 1, 1), anchors, [(16, 40), (32, 64)])
    assert padded[:4].tolist() == [[32, 0, 40, 16], [16, 0, 32, 16], [0, 0, 16, 16], [0, 0, 0, 0]]
    assert int(whole.any(1).sum()) == 8  # an image without padding beside it: all its anchors compete


def labelled(boxes: list[tuple[int, int, int, int]], spec: RPNSpec = SPEC) -> tuple[Tensor, Tensor]:
    """Labels and matches over 2 x 4 cells."""
    described = target(boxes, [0] * len(boxes), (32, 64))
    return anchor_labels(SQUARES.grid(2, 4), described, (32, 64), spec, 16)


@given(seed=st.integers(0, 2**31), objects=st.integers(1, 9), in_cache=st.sampled_from([1, 200, 10_000]))
def test_overlaps_are_those_of_the_whole_matrix(seed: int, objects: int, in_cache: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (objects, 2), generator=generator).float() * 4
    boxes = torch.cat((corners, corners + torch.randint(1, 9, (objects, 2), generator=generator) * 4), 1)
    anchors = AnchorSpec(scales=(0.5, 1.0), ratios=(0.5, 1.0, 2.0)).grid(4, 4)
    usable = torch.rand(len(anchors), generator=generator) < 0.8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rpn_module, "IN_CACHE", in_cache)
        best, matched, best_of_some = rpn_module._overlaps(anchors, usable, boxes)
    iou = box_iou(anchors, boxes).masked_fill(~usable[:, None], -1.0)
    assert torch.equal(best, iou.amax(1))
    assert torch.equal(iou.gather(1, matched[:, None])[:, 0], best)
    highest = iou.amax(0)
    assert torch.equal(best_of_some, ((iou == highest) & (highest > 0)).any(1))


def test_labels_of_anchors() -> None:
    # The first object fills cell 0 (IoU 1). The second covers 8 of 16 columns of cells 2 and 3 (IoU 1/3
    # each): best of that object, both. IoU of cell 1 with the first is 0. The third covers 3/4 of cell 4 (IoU
    # 0.75).
    labels, matched = labelled([(0, 0, 16, 16), (40, 0, 56, 16), (0, 16, 12, 32)])
    assert labels.tolist() == [1, 0, 1, 1, 1, 0, 0, 0]
    assert matched[labels == 1].tolist() == [0, 1, 1, 2]


def test_between_the_thresholds_an_anchor_is_not_used() -> None:
    # Cell 0 is the best (IoU 240/256), cell 4 overlaps by 112/416 = 0.27: background; with a lower bar it is
    # neither.
    labels, _ = labelled([(0, 1, 16, 23)])
    assert labels.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    labels, _ = labelled([(0, 1, 16, 23)], RPNSpec(inside_only=False, negative_iou=0.2))
    assert labels.tolist() == [1, 0, 0, 0, -1, 0, 0, 0]


def test_only_anchors_wholly_inside_are_trained() -> None:
    anchors = AnchorSpec(scales=(2.0,), ratios=(1.0,)).grid(3, 3)  # 32 px squares
    described = target([(0, 0, 32, 32)], [0], (48, 48))
    labels, _ = anchor_labels(anchors, described, (48, 48), RPNSpec(), 16)
    assert labels.tolist() == [-1, -1, -1, -1, 1, -1, -1, -1, -1]
    # Four anchors overlap by 24 x 24 px (IoU 0.39) and tie for the best; the next have an IoU of 0.10.
    labels, _ = anchor_labels(anchors, described, (48, 48), SPEC, 16)
    assert labels.tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_anchors_of_the_padding_are_not_trained() -> None:
    labels, _ = anchor_labels(SQUARES.grid(2, 4), target([(0, 0, 16, 16)], [0], (16, 40)), (16, 40), SPEC, 16)
    assert labels.tolist() == [1, 0, 0, -1, -1, -1, -1, -1]


def test_an_image_without_objects_is_all_background() -> None:
    labels, _ = labelled([])
    assert labels.tolist() == [0] * 8


def test_crowds_are_neither() -> None:
    described = target([(0, 0, 16, 16)], [0], (32, 64), crowd=[(0, 0, 24, 32)])
    labels, _ = anchor_labels(SQUARES.grid(2, 4), described, (32, 64), SPEC, 16)
    # Column 0 is covered wholly, column 1 by half; the object stays an object.
    assert labels.tolist() == [1, -1, 0, 0, -1, -1, 0, 0]


def test_covered_by_is_a_share_of_the_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 12.0, 12.0]])
    regions = torch.tensor([[2.0, 0.0, 100.0, 4.0], [0.0, 0.0, 1.0, 4.0]])
    assert covered_by(boxes, regions).tolist() == [0.5, 0.0]


def test_samples_hold_at_most_half_objects() -> None:
    labels = torch.tensor([1] * 10 + [0] * 20 + [-1] * 5)
    positive, negative = sample_anchors(labels, RPNSpec(samples=16))
    assert (len(positive), len(negative)) == (8, 8)
    assert bool((labels[positive] == 1).all())
    assert bool((labels[negative] == 0).all())
    positive, negative = sample_anchors(labels, RPNSpec(samples=100))
    assert (len(positive), len(negative)) == (10, 20)


def test_subsets_have_no_repetition_and_follow_the_seed() -> None:
    indices = torch.arange(100, 200)
    torch.manual_seed(3)
    first = random_subset(indices, 50)
    assert len(first.unique()) == 50
    assert set(first.tolist()) <= set(indices.tolist())
    torch.manual_seed(3)
    assert torch.equal(random_subset(indices, 50), first)
    assert torch.equal(random_subset(indices, 100), indices)


def test_losses_are_those_computed_by_hand() -> None:
    rpn, anchors = network(), SQUARES.grid(1, 4)
    # Image 0: an object that is cell 0, moved by 4 px: IoU 12/20 = 0.6, the best. Image 1: nothing.
    targets = [target([(4, 0, 20, 16)], [0], (16, 64)), target([], [], (16, 64))]
    logits = torch.tensor([[2.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    deltas = torch.zeros(2, 4, 4)
    deltas[0, 0] = torch.tensor([0.3, 1.0, 0.0, 0.0])
    classes, boxes = rpn.loss(logits, deltas, anchors, targets, [(16, 64), (16, 64)])
    # Cell 1 overlaps by 4/28 < 0.3, so it is background like the rest.
    first = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + 2 * math.log(2)) / 4
    assert float(classes) == pytest.approx((first + math.log(2)) / 2, rel=1e-5)
    # Wanted is dx = 4/16; off by 0.05 (quadratic: 4.5 d^2) and by 1 (linear: d - 1/18); over 256 samples and
    # 2 images.
    assert float(boxes) == pytest.approx((4.5 * 0.05**2 + 1 - 1 / 18) / 256 / 2, rel=1e-5)


def test_an_image_without_usable_anchors_has_no_loss() -> None:
    rpn = network(RPNSpec())
    logits = torch.zeros(1, 4, requires_grad=True)
    classes, boxes = rpn.loss(
        logits,
        torch.zeros(1, 4, 4),
        SQUARES.grid(2, 2) - 8,
        [target([(0, 0, 8, 8)], [0], (10, 10))],
        [(10, 10)],
    )
    assert classes.item() == boxes.item() == 0
    classes.backward()
    assert logits.grad is not None
