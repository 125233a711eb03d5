"""Agreement with another implementation: ChainerCV 0.13.1's FCIS (tests/golden/make_excerpt.py).

Its boxes are y1, x1, y2, x2 and its deltas dy, dx, dh, dw; everything else is as here unless a test says what
differs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou, nms

from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.models import sampling
from instancefcn.models.fcis import DELTA_STD
from instancefcn.models.rpn import AnchorSpec, RPNSpec, anchor_labels, rank, sample_anchors, thin
from instancefcn.models.sampling import SamplingSpec, assign_rois, mask_targets
from instancefcn.models.targets import Target

Golden = dict[str, NDArray[np.generic]]

SIZE = (600, 800)
ANCHORS = AnchorSpec(scales=(8, 16, 32))


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(Path(__file__).parents[1] / "golden" / "detection.npz") as file:
        return {name: file[name] for name in file.files}


def swapped(array: NDArray[np.generic]) -> Tensor:
    """[N, 4] in x, y order from y, x order (boxes and deltas alike)."""
    return torch.from_numpy(array[:, [1, 0, 3, 2]].astype(np.float32))


def objects(golden: Golden) -> Target:
    """The four annotated objects, at the size of the network's input."""
    masks = CroppedMasks.from_dense(torch.from_numpy(np.unpackbits(golden["ptc_mask_packed"], axis=2)))
    labels = torch.from_numpy(golden["ptc_label"].astype(np.int64))
    return Target(swapped(golden["tgt_gt_bbox"]), labels, masks, (1.0, 1.0), 1, torch.zeros(0, 4))


def test_box_coding(golden: Golden) -> None:
    source, wanted = swapped(golden["box_src"]), swapped(golden["box_dst"])
    deltas = swapped(golden["box_loc"])
    torch.testing.assert_close(box_ops.encode(source, wanted), deltas, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        box_ops.decode(source, deltas), swapped(golden["box_dec"]), rtol=1e-5, atol=1e-3
    )


def test_box_iou(golden: Golden) -> None:
    found = box_iou(swapped(golden["box_src"]), swapped(golden["box_dst"]))
    torch.testing.assert_close(found, torch.from_numpy(golden["box_iou"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scales", [(8, 16, 32), (4, 8, 16, 32)], ids=["voc", "coco"])
def test_anchors_of_a_cell(golden: Golden, scales: tuple[float, ...]) -> None:
    """Theirs stand on the centre (8, 8) of the first cell; the order is the same."""
    expected = swapped(golden["anchor_base_" + "_".join(map(str, scales))])
    torch.testing.assert_close(AnchorSpec(scales).base() + 8, expected, rtol=0, atol=1e-4)


def test_anchors_of_a_map(golden: Golden) -> None:
    expected = swapped(golden["anchor_38x50_9_every_37th"])
    torch.testing.assert_close(ANCHORS.grid(38, 50)[::37], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_non_maximum_suppression(golden: Golden, threshold: float) -> None:
    """Theirs drops overlaps of at least the threshold, ours above it: no pair of this data sits on one."""
    boxes, scores = swapped(golden["nms_bbox"]), torch.from_numpy(golden["nms_score"])
    assert nms(boxes, scores, threshold).tolist() == golden[f"nms_keep_{threshold}"].tolist()


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("sbd_test", RPNSpec()),
        ("sbd_train", RPNSpec()),
        ("coco_test", RPNSpec(min_size=2.0)),
        ("coco_train", RPNSpec(min_size=2.0)),
        ("small_test", RPNSpec(before_nms=100, after_nms=30)),
        ("small_train", RPNSpec(before_nms=200, after_nms=50)),
    ],
)
def test_proposals(golden: Golden, name: str, spec: RPNSpec) -> None:
    """They rank by the foreground logit of a pair, we by our only logit: here the given scores stand for
    both.
    """
    anchors = ANCHORS.grid(38, 50)[torch.from_numpy(golden["prop_index"].astype(np.int64))]
    candidates = box_ops.decode(anchors, swapped(golden["prop_loc"]))
    ranked = rank(torch.from_numpy(golden["prop_score"]), candidates, SIZE, spec)
    found = thin(ranked[None], spec)[0]
    found = found[box_ops.have_area(found)]
    expected = swapped(golden[f"prop_{name}_roi"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_anchor_targets(golden: Golden) -> None:
    anchors, target, spec = ANCHORS.grid(38, 50), objects(golden), RPNSpec()
    labels, matched = anchor_labels(anchors, target, SIZE, spec, ANCHORS.stride)
    theirs = torch.from_numpy(golden["anchor_tgt_label"])
    # Fewer positives than the sample may hold, so no chance is in them; negatives are drawn among ours.
    assert torch.equal(labels == 1, theirs == 1)
    assert bool((labels[theirs == 0] == 0).all())
    positive, negative = sample_anchors(labels, spec)
    assert [len(positive), len(negative)] == golden["anchor_tgt_n_pos_neg"].tolist()
    deltas = box_ops.encode(anchors[positive], target.boxes[matched[positive]])
    torch.testing.assert_close(deltas, swapped(golden["anchor_tgt_loc"])[positive], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "background_iou"), [("sbd", 0.1), ("coco", 0.0)])
def test_roi_targets(golden: Golden, name: str, background_iou: float) -> None:
    """Chance chooses which RoIs; labels and deltas of the chosen ones are compared, and the rules of the
    choice.
    """
    target, proposals = objects(golden), swapped(golden["ptc_roi"])
    chosen = swapped(golden[f"ptc_{name}_sample_roi"])
    labels = torch.from_numpy(golden[f"ptc_{name}_gt_roi_label"].astype(np.int64))
    candidates = torch.cat((proposals, target.boxes))
    distance = (chosen[:, None] - candidates).abs().amax(2)
    assert float(distance.min(1).values.max()) == 0  # every one of theirs is a candidate of ours
    index = distance.argmin(1)

    everything = assign_rois(proposals, target, SamplingSpec(method="ohem"))
    assert torch.equal(everything.labels[index], labels)
    foreground = labels > 0
    wanted = target.boxes[everything.matched[index[foreground]]]
    deltas = box_ops.encode(chosen[foreground], wanted) / torch.tensor(DELTA_STD)
    torch.testing.assert_close(
        deltas, swapped(golden[f"ptc_{name}_gt_roi_loc"])[foreground], rtol=1e-4, atol=1e-4
    )

    spec = SamplingSpec(method="random", background_iou=background_iou, fill=False)
    sample = assign_rois(proposals, target, spec)
    assert int((sample.labels > 0).sum()) == int(foreground.sum()) == 32
    assert len(sample.rois) == len(chosen) == 128
    overlap = box_iou(candidates, target.boxes).amax(1)
    eligible = {tuple(row) for row in candidates[(overlap >= background_iou) & (overlap < 0.5)].tolist()}
    assert {tuple(row) for row in chosen[~foreground].tolist()} <= eligible
    assert {tuple(row) for row in sample.rois[sample.labels == 0].tolist()} <= eligible


def foreground_masks(golden: Golden) -> tuple[Tensor, Tensor, Tensor]:
    """Foreground RoIs [F, 4], the object of each [F], and their mask targets [F, 21, 21]."""
    chosen = torch.from_numpy(golden["ptc_sbd_gt_roi_label"]) > 0
    rois = swapped(golden["ptc_sbd_sample_roi"])[chosen]
    masks = torch.from_numpy(golden["ptc_sbd_gt_roi_mask"])[chosen].float()
    return rois, box_iou(rois, objects(golden).boxes).argmax(1), masks


def test_mask_targets_of_whole_pixel_rois(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """They round a RoI before they read its mask and cut the reading at 0.4; then the targets are equal."""
    monkeypatch.setattr(sampling, "MASK_TARGET_THRESHOLD", 0.4)
    rois, matched, expected = foreground_masks(golden)
    found = mask_targets(rois.round(), matched, objects(golden), 21)
    assert torch.equal(found, expected)


def test_mask_targets_are_read_without_rounding(golden: Golden) -> None:
    """Intended difference: we do not round, so outlines move by up to half a pixel.

    A cell is 3 to 18 pixels wide here, so a shift of a quarter pixel on average turns few cells over: 0.23 %
    of all were measured. Only cells beside an outline may change.
    """
    rois, matched, expected = foreground_masks(golden)
    found = mask_targets(rois, matched, objects(golden), 21)
    differ = found != expected
    assert 0 < float(differ.float().mean()) < 0.005
    around = torch.nn.functional.pad(expected[:, None], (1, 1, 1, 1), mode="replicate")
    highest = torch.nn.functional.max_pool2d(around, 3, 1)[:, 0]
    lowest = -torch.nn.functional.max_pool2d(-around, 3, 1)[:, 0]
    assert bool((highest != lowest)[differ].all())
