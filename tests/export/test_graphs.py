from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instancefcn.export import check, graph_of, trace_graph
from instancefcn.export.graphs import FCISGraph, InstanceFCNGraph
from instancefcn.geometry import boxes as box_ops
from instancefcn.inference.predictor import Predictor
from small import photograph, predictor_of, small_fcis, small_instance_fcn


def results(graph: nn.Module, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.no_grad():
        boxes, scores, labels, masks = graph(image[None])
    there = int((scores > 0).sum())
    assert bool((scores[:there] > 0).all())
    assert not scores[there:].any()
    assert not boxes[there:].any()
    assert not masks[there:].any()
    assert not labels[there:].any()
    return boxes[:there], scores[:there], labels[:there], masks[:there]


@pytest.mark.parametrize(
    ("fused", "stride", "head"),
    [
        (True, 16, {}),
        (False, 16, {}),
        (True, 8, {}),
        (True, 16, {"passes": 1}),
        (True, 16, {"voting": False}),
    ],
)
@pytest.mark.parametrize("size", [(96, 130), (101, 77), (33, 40)])
def test_fcis_as_a_graph_finds_what_the_network_finds(
    size: tuple[int, int], fused: bool, stride: int, head: dict[str, Any]
) -> None:
    network = small_fcis(fused, stride)
    network.head = replace(network.head, **head)
    image = photograph(*size)
    boxes, scores, labels, masks = results(FCISGraph(network, 40, 1e-3, 28), image)
    with torch.no_grad():
        (wanted,) = network([image.float() / 255], min_score=1e-3, max_instances=40)
    assert len(wanted) > 3
    assert labels.tolist() == wanted.labels.tolist()
    torch.testing.assert_close(scores, wanted.scores, rtol=0, atol=1e-5)
    drawn = check.pasted(boxes, masks, size, 0.4)
    ious = [check.mask_iou(wanted.masks, i, drawn, i) for i in range(len(wanted))]
    assert min(ious) > 0.7
    assert sum(ious) / len(ious) > 0.9
    assert float((boxes - wanted.boxes).abs().median()) < 1.0


class Watched(FCISGraph):
    """Remembers what competed last."""

    def survivors(
        self, boxes: Tensor, probabilities: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.competed = boxes, probabilities
        return super().survivors(boxes, probabilities, size)


def test_boxes_without_area_take_no_place_in_the_graph() -> None:
    """Without a minimum size: boxes beyond the image are clipped to a line."""
    network = small_fcis()
    network.rpn.spec = replace(network.rpn.spec, min_size=0.0)
    nn.init.normal_(network.rpn.deltas.weight, std=10.0)
    nn.init.normal_(network.maps.deltas.weight, std=30.0)
    image = photograph(96, 130)
    graph = Watched(network, 40, 1e-3, 28)
    with torch.no_grad():
        batch, sizes = network.collate([image.float() / 255])
        maps, _, logits, deltas, anchors = network.convolve(batch)
        assert not box_ops.have_area(box_ops.clip(box_ops.decode(anchors, deltas[0]), sizes[0])).all()
        (wanted,) = network.rpn.proposals(logits, deltas, anchors, sizes)
        level = network.proposal_features(network.backbone(batch), maps)
        proposals, there = graph.proposals(level, sizes[0])
    torch.testing.assert_close(proposals, wanted)
    assert torch.equal(there, box_ops.have_area(wanted))
    results(graph, image)
    boxes, probabilities = graph.competed
    assert torch.equal(probabilities.any(1), box_ops.have_area(boxes))
    assert not box_ops.have_area(boxes[len(wanted) :][there]).all()


@pytest.mark.parametrize("size", [(120, 150), (95, 201)])
def test_instance_fcn_as_a_graph_finds_what_the_network_finds(size: tuple[int, int]) -> None:
    network = small_instance_fcn()
    image = photograph(*size)
    boxes, scores, labels, masks = results(InstanceFCNGraph(network, 20, 1e-3, 28), image)
    with torch.no_grad():
        (wanted,) = network([image.float() / 255], min_score=1e-3, max_instances=20)
    assert len(wanted) > 4
    assert len(scores) == len(wanted)
    assert not labels.any()
    torch.testing.assert_close(scores, wanted.scores, rtol=0, atol=1e-5)
    drawn = check.pasted(boxes, masks, size, network.spec.mask_threshold)
    ious = [check.mask_iou(wanted.masks, i, drawn, i) for i in range(len(wanted))]
    assert sum(ious) / len(ious) > 0.9


def test_instance_fcn_is_traced_for_one_size() -> None:
    graph = graph_of(predictor_of(small_instance_fcn()), False, 20)
    image = photograph(96, 144)[None]
    program = trace_graph(graph, torch.zeros_like(image), False)
    with torch.no_grad():
        wanted, found = graph(image), program.module()(image)
    assert int((wanted[1] > 0).sum()) > 5
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_fewer_places_than_objects(predictor: Predictor) -> None:
    image = photograph(96, 130)
    many = results(graph_of(predictor, True, 40), image)
    few = results(graph_of(predictor, True, 3), image)
    assert len(few[1]) == 3
    for ours, all_ in zip(few, many, strict=True):
        torch.testing.assert_close(ours, all_[:3])


def test_an_image_without_an_object_is_all_padding() -> None:
    network = small_fcis()
    nn.init.zeros_(network.maps.scores.weight)
    with torch.no_grad():
        network.maps.scores.bias.view(3, 3, 2, 4)[:, :, :, 0] = 30.0  # background, everywhere
    assert len(results(FCISGraph(network, 10, 1e-3, 28), photograph(64, 64))[1]) == 0
