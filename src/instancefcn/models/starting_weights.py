"""Starting a network from the weights of another one."""

from __future__ import annotations

import math

from torch import Tensor, nn

from instancefcn.errors import ConfigError
from instancefcn.instances import OBJECT
from instancefcn.models.fcis import FCIS
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.models.rpn import RegionProposalNetwork

SCORES = "maps.scores."
"""Begins the names of the tensors that make FCIS's score maps."""
ANCHORS = ("rpn.logits.", "rpn.deltas.")
"""Begins the names of the tensors that the RPN has for each anchor."""


def start_from(network: FCIS | InstanceFCN, other: nn.Module) -> list[str]:
    """Copy the weights that fit, a bias with its filters alone.

    The score maps of the network's classes are copied when the checkpoint knows all of them, in whatever
    order. From a checkpoint of the one class "object" every class starts with the maps of "object": the
    network outlines objects before its first step and has only to learn which is which. Otherwise, and where
    maps mean something else (`joint`), they stay as they were built. An anchor that the checkpoint does not
    have starts with the filters of the one nearest in width and height.

    Returns:
        names of the tensors that were not copied.

    Raises:
        ConfigError: `other` is of another kind (as that of converted weights is), or has another backbone,
            which would be random.
    """
    theirs, ours = type(other).__name__, type(network).__name__
    if theirs != ours:
        raise ConfigError(
            f"init: the checkpoint is an {theirs}, this model an {ours}: give one of its kind (converted "
            "weights cannot be trained further)"
        )
    own, given = network.state_dict(), other.state_dict()
    if isinstance(network, FCIS) and isinstance(other, FCIS):
        given = {name: value for name, value in given.items() if not name.startswith((SCORES, *ANCHORS))}
        given |= _scores_of(network, other) | _anchor_filters(network.rpn, other.rpn)
    left = [name for name in own if name not in given or own[name].shape != given[name].shape]
    filters = [name.removesuffix(".weight") for name in left if name.endswith(".weight")]
    left += [bias for name in filters if (bias := f"{name}.bias") in own and bias not in left]
    body = [name for name in own if ".body." in name]  # as `parameter_groups` tells the backbone
    if lacking := [name for name in left if name in body]:
        raise ConfigError(
            f"init: {len(lacking)} of the {len(body)} tensors of the backbone are not in the checkpoint or "
            f"have another shape (first: {lacking[0]}). Start from a checkpoint of a model with the same "
            "backbone, or without init"
        )
    network.load_state_dict({name: own[name] if name in left else given[name] for name in own})
    return left


def _scores_of(network: FCIS, other: FCIS) -> dict[str, Tensor]:
    """The weights with which `other` makes the score maps of the network's classes; empty when it knows
    neither all of them nor objects in general, or when its maps have other parts or another meaning.
    """
    known, names = other.classes.names, network.classes.names
    if (network.head.k, network.head.joint) != (other.head.k, other.head.joint):
        return {}
    general = known == (OBJECT,) and names != known
    if not general and not set(names) <= set(known):
        return {}
    chosen = [0, *(1 if general else 1 + known.index(name) for name in names)]
    parts = (other.head.k, other.head.k, 2, len(known) + 1)
    scores = {
        name: value.unflatten(0, parts)[:, :, :, chosen]
        for name, value in other.maps.scores.state_dict().items()
    }
    if general:  # C equal classes share the probability of an object
        scores["bias"][:, :, :, 1:] -= math.log(len(names))
    return {SCORES + name: value.flatten(0, 3) for name, value in scores.items()}


def _anchor_filters(rpn: RegionProposalNetwork, other: RegionProposalNetwork) -> dict[str, Tensor]:
    """The filters with which `other` scores and refines the anchor nearest to each of the network's."""
    ours, theirs = (one.anchors.base()[:, 2:].log() for one in (rpn, other))  # of half widths and heights
    nearest = (ours[:, None] - theirs).square().sum(2).argmin(1)
    return {
        f"rpn.{name}.{key}": value.unflatten(0, (len(theirs), -1))[nearest].flatten(0, 1)
        for name, layer in (("logits", other.logits), ("deltas", other.deltas))
        for key, value in layer.state_dict().items()
    }
