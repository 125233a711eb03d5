"""A network starts from the weights of another one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from instancefcn.errors import ConfigError
from instancefcn.models import zoo
from instancefcn.models.rpn import AnchorSpec
from instancefcn.models.starting_weights import start_from
from tiny import tiny_proposals, tiny_spec


@pytest.mark.parametrize(
    ("model", "start", "fits"),
    [
        ("tiny", "tiny", True),
        ("tiny", "other classes", True),
        ("tiny", "tiny_proposals", False),
        ("tiny_proposals", "tiny", False),
        ("tiny", "other backbone", False),
    ],
)
def test_a_checkpoint_of_another_backbone_is_no_start(model: str, start: str, fits: bool) -> None:
    specs: dict[str, zoo.AnySpec] = {"tiny": tiny_spec(), "tiny_proposals": tiny_proposals()}
    specs["other classes"] = specs["tiny"]
    specs["other backbone"] = replace(tiny_spec("test_resnet"), rpn_level=4)
    network = zoo.build(specs[model], 2)
    names = ("a", "b") if start == "other classes" else None
    given: Any = zoo.build(specs[start], 2, class_names=names)
    before = next(iter(network.parameters())).clone()
    if fits:
        new = start_from(network, given)
        assert new == ([] if start == "tiny" else ["maps.scores.weight", "maps.scores.bias"])
        assert torch.equal(next(iter(network.parameters())), next(iter(given.parameters())))
    else:
        other = "the checkpoint is an InstanceFCN, this|the checkpoint is an FCIS, this model an InstanceFCN"
        with pytest.raises(ConfigError, match=rf"init: (\d+ of the \d+ tensors of the backbone|{other})"):
            start_from(network, given)
        assert torch.equal(next(iter(network.parameters())), before)


def scores_of(network: Any) -> tuple[torch.Tensor, torch.Tensor]:
    k, classes = network.head.k, len(network.classes.names) + 1
    weight, bias = network.maps.scores.weight, network.maps.scores.bias
    return weight.unflatten(0, (k, k, 2, classes)), bias.unflatten(0, (k, k, 2, classes))


def test_score_maps_go_with_their_classes() -> None:
    """The tiny network's classes are two of the checkpoint's three, in another order."""
    given = zoo.build(tiny_spec(), class_names=("cat", "dog", "bird"))
    torch.nn.init.normal_(given.maps.scores.bias)
    network = zoo.build(tiny_spec(), class_names=("bird", "cat"))
    assert start_from(network, given) == []
    for own, theirs in zip(scores_of(network), scores_of(given), strict=True):
        assert torch.equal(own, theirs[:, :, :, [0, 3, 1]])


def test_new_classes_start_as_objects() -> None:
    """Every class has the maps of "object"; together they are as probable as the object was."""
    given = zoo.build(tiny_spec(), class_names=("object",))
    torch.nn.init.normal_(given.maps.scores.bias)
    network = zoo.build(tiny_spec(), class_names=("nut", "bolt", "screw"))
    assert start_from(network, given) == []
    features = [torch.rand(1, count, 6, 7) for count in given.backbone.channels]
    rois = torch.tensor([[0.0, 3.0, 5.0, 60.0, 70.0], [0.0, 20.0, 10.0, 90.0, 50.0]])
    old, new = (net.maps(features)[0] for net in (given, network))
    probable = old.class_logits(rois, given.head.stride).softmax(1)
    among = new.class_logits(rois, given.head.stride).softmax(1)
    torch.testing.assert_close(among[:, 1:], probable[:, 1:].expand(-1, 3) / 3)
    inside = [maps.mask_logits(rois, torch.tensor([1, 1]), given.head.stride, 9) for maps in (old, new)]
    torch.testing.assert_close(*inside)


def test_an_anchor_starts_as_the_nearest_one() -> None:
    given = zoo.build(replace(tiny_spec(), anchors=AnchorSpec(scales=(2, 8), ratios=(1.0,))), 2)
    network = zoo.build(replace(tiny_spec(), anchors=AnchorSpec(scales=(1.5, 7, 16), ratios=(1.0,))), 2)
    torch.nn.init.normal_(given.rpn.deltas.weight)
    assert start_from(network, given) == []
    assert torch.equal(network.rpn.logits.weight, given.rpn.logits.weight[[0, 1, 1]])
    own, theirs = (net.rpn.deltas.weight.unflatten(0, (-1, 4)) for net in (network, given))
    assert torch.equal(own, theirs[[0, 1, 1]])


@pytest.mark.parametrize("changes", [{"joint": False}, {"k": 5}])
def test_maps_of_another_meaning_are_new(changes: dict[str, Any]) -> None:
    given = zoo.build(tiny_spec(), 2)
    network = zoo.build(tiny_spec(), 2, **changes)
    assert {"maps.scores.weight", "maps.scores.bias"} <= set(start_from(network, given))


def test_a_bias_stays_with_its_filters() -> None:
    """The filters of the RPN's hidden layer do not fit, its biases would."""
    given = zoo.build(tiny_spec(), 2)
    torch.nn.init.normal_(given.rpn.hidden.bias)
    state = given.state_dict()
    state["rpn.hidden.weight"] = torch.zeros(1)
    network = zoo.build(tiny_spec(), 2)
    before = network.rpn.hidden.bias.clone()
    given.state_dict = lambda: state  # type: ignore[method-assign]
    assert {"rpn.hidden.weight", "rpn.hidden.bias"} == set(start_from(network, given))
    assert torch.equal(network.rpn.hidden.bias, before)
