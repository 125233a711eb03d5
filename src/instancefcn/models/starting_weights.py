"""Starting a network from the weights of another one."""

from __future__ import annotations

from torch import Tensor, nn

from instancefcn.errors import ConfigError
from instancefcn.models.fcis import FCIS
from instancefcn.models.instance_fcn import InstanceFCN

SCORES = "maps.scores."
"""Begins the names of the tensors that make FCIS's score maps."""


def start_from(network: FCIS | InstanceFCN, other: nn.Module) -> list[str]:
    """Copy the weights that fit, a bias with its filters alone. Of the score maps those of the network's
    classes are copied when the checkpoint knows all of them, in whatever order; else, and where maps mean
    something else (`joint`), they stay as they were built.

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
        scores = _scores_of(network, other)
        given = {name: value for name, value in given.items() if not name.startswith(SCORES)} | scores
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
    """The weights with which `other` makes the score maps of the network's classes; empty when it does not
    know all of them, or when its maps have other parts or another meaning.
    """
    known = other.classes.names
    if (network.head.k, network.head.joint) != (other.head.k, other.head.joint):
        return {}
    if not set(network.classes.names) <= set(known):
        return {}
    chosen = [0, *(1 + known.index(name) for name in network.classes.names)]
    parts = (other.head.k, other.head.k, 2, len(known) + 1)
    return {
        SCORES + name: value.unflatten(0, parts)[:, :, :, chosen].flatten(0, 3)
        for name, value in other.maps.scores.state_dict().items()
    }
