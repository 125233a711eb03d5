"""Converted weights against ChainerCV 0.13.1 itself, stage by stage and as a whole.

Needs the shared folder's parity/: weights in ChainerCV's layout, and what ChainerCV made of a photograph with
them. Every stage gets ChainerCV's own input where that was kept. `-s` prints the figures, which
docs/published-weights.md shows.

ChainerCV's boxes are y1, x1, y2, x2, its deltas dy, dx, dh, dw, and its results come class by class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from instancefcn.inference.predictor import Predictor, load
from instancefcn.instances import Instances
from instancefcn.published.conversion import convert_weights
from instancefcn.published.network import PublishedFCIS
from instancefcn.published.pooling import psroi_average_pool

pytestmark = pytest.mark.slow
LIMITS = {
    "C4, means of channels": 1e-4,
    "C5, means of channels": 1e-4,
    "proposals' foreground logits": 1e-3,
    "proposals' box deltas": 1e-4,
    "proposals, pixels": 1e-3,
    "score maps": 1e-2,
    "pooled score maps": 1e-2,
    "windows, pixels": 1e-2,
    "class probabilities": 1e-4,
    "mask probabilities": 1e-3,
    "voted boxes, pixels": 0.0,
    "voted masks, share of pixels": 1e-5,
    "scores of results": 1e-4,
    "masks of results, share of pixels": 1e-4,
}
"""The largest difference that a stage may have."""


@dataclass(frozen=True)
class Outcome:
    """The largest difference of every stage, and the labels in ChainerCV's order, ours and theirs."""

    figures: dict[str, float]
    labels: tuple[list[int], list[int]]
    proposals: tuple[int, int]


@pytest.fixture(scope="module")
def predictor(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    source = shared / "parity" / "weights_chainer_layout.npz"
    if not source.is_file():
        pytest.skip(f"needs {source}")
    target = tmp_path_factory.mktemp("converted") / "voc.safetensors"
    convert_weights(source, target)
    loaded = load(target, device="cpu")
    target.unlink()
    return loaded


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, NDArray[Any]]:
    with np.load(shared / "parity" / "golden_000000005001.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def outcome(predictor: Predictor, golden: dict[str, NDArray[Any]], shared: Path) -> Outcome:
    network = predictor.network
    assert isinstance(network, PublishedFCIS)
    image = torch.from_numpy(golden["img"])
    with torch.no_grad():
        figures, proposals = _stages(network, predictor.preprocessing(image), golden)
    found = predictor(shared / "parity" / "000000005001.jpg", score=0.0)
    order = found.labels.argsort(stable=True)  # class by class, best first
    ours = found.labels[order].tolist()
    if len(ours) == len(golden["labels"]):
        figures["scores of results"] = _far(found.scores[order], golden["scores"])
        expected = np.unpackbits(golden["masks_packed"], axis=2)[:, :, : golden["masks_shape"][2]]
        masks = found.masks[order].dense()
        figures["masks of results, share of pixels"] = float((masks.numpy() != expected).mean())
    for name, figure in figures.items():
        print(f"{name:36}{figure:10.1e}")
    return Outcome(figures, (ours, golden["labels"].tolist()), proposals)


def _stages(
    network: PublishedFCIS, image: Tensor, golden: dict[str, NDArray[Any]]
) -> tuple[dict[str, float], tuple[int, int]]:
    image_size = (golden["img"].shape[1], golden["img"].shape[2])
    size = (image.shape[1], image.shape[2])
    scale = network.scale(size, image_size)
    assert scale == float(golden["scale"])
    figures = {}
    c4, c5 = network.backbone(network.normalised(image))
    figures["C4, means of channels"] = _far(c4.mean((2, 3)), golden["rpn_features_mean_c"])
    figures["C5, means of channels"] = _far(c5.mean((2, 3)), golden["roi_features_mean_c"])

    logits, deltas = network.rpn(c4)
    figures["proposals' foreground logits"] = _far(logits, golden["rpn_scores"][:, :, 1])
    figures["proposals' box deltas"] = _far(deltas[0], _swapped(golden["rpn_locs"][0]))
    theirs = _swapped(golden["rpn_rois"])
    ours = network.proposals(
        torch.from_numpy(golden["rpn_scores"][0, :, 1]),
        torch.from_numpy(_swapped(golden["rpn_locs"][0])),
        (c4.shape[2], c4.shape[3]),
        size,
        scale,
    )
    if len(ours) == len(theirs):
        figures["proposals, pixels"] = _far(ours, theirs)

    maps, box_maps = network.maps(c5)
    # Ours are part, side, class; theirs class, side, part; every 37th of theirs was kept.
    in_their_order = maps.unflatten(3, (2, 21)).permute(0, 4, 3, 1, 2, 5, 6).flatten(1, 4)[:, ::37]
    figures["score maps"] = _far(in_their_order, golden["h_cls_seg_every37"])
    rois = torch.nn.functional.pad(torch.from_numpy(theirs[:8].copy()), (1, 0))
    pooled = psroi_average_pool(maps, rois, 16, 21).unflatten(1, (2, 21)).transpose(1, 2)
    figures["pooled score maps"] = _far(pooled, golden["roi_cls_ag_seg_scores_first8"])
    boxes, probabilities, masks = network.windows((maps, box_maps), torch.from_numpy(theirs.copy()), size)
    boxes = network.to_image(boxes, scale, image_size)
    figures["windows, pixels"] = _far(boxes, _swapped(golden["voting_in_bbox"]))
    figures["class probabilities"] = _far(probabilities, golden["roi_cls_prob_all"])
    figures["mask probabilities"] = _far(masks, golden["roi_seg_prob_all"])

    voted = _voted(network, golden, 0.0)
    order = voted.labels.argsort(stable=True)
    figures["voted boxes, pixels"] = _far(voted.boxes[order], _swapped(golden["v_bbox"]))
    expected = np.unpackbits(golden["masks_packed"], axis=2)[:, :, : golden["masks_shape"][2]]
    different = voted.masks[order].dense().numpy() != expected
    figures["voted masks, share of pixels"] = float(different.mean())
    return figures, (len(ours), len(theirs))


def _voted(network: PublishedFCIS, golden: dict[str, NDArray[Any]], min_score: float) -> Instances:
    """What our voting makes of ChainerCV's windows."""
    return network.vote(
        torch.from_numpy(_swapped(golden["voting_in_bbox"]).copy()),
        torch.from_numpy(golden["roi_cls_prob_all"]),
        torch.from_numpy(golden["roi_seg_prob_all"]),
        (golden["img"].shape[1], golden["img"].shape[2]),
        min_score,
        100,
    )


def _swapped(array: NDArray[Any]) -> NDArray[Any]:
    return array[:, [1, 0, 3, 2]]


def _far(ours: Tensor, theirs: NDArray[Any]) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.numpy().astype("f8") - theirs).max())


@pytest.mark.parametrize("stage", LIMITS)
def test_a_stage_agrees(outcome: Outcome, stage: str) -> None:
    assert outcome.figures[stage] <= LIMITS[stage]


def test_the_same_labels_in_the_same_order(outcome: Outcome) -> None:
    ours, theirs = outcome.labels
    assert len(theirs) == 100
    assert ours == theirs
    assert outcome.proposals == (300, 300)


def test_the_preset_for_drawing_is_a_score_of_seven_tenths(
    predictor: Predictor, golden: dict[str, NDArray[Any]]
) -> None:
    network = predictor.network
    assert isinstance(network, PublishedFCIS)
    found = _voted(network, golden, 0.7)
    order = found.labels.argsort(stable=True)
    assert found.labels[order].tolist() == golden["vis_label"].tolist()
    assert _far(found.scores[order], golden["vis_score"]) <= 1e-6
    assert _far(found.boxes[order], _swapped(golden["vis_bbox"])) == 0
