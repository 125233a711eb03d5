"""Parameters grouped for an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def parameter_groups(network: nn.Module, rate: Callable[[str], float]) -> list[dict[str, Any]]:
    """Trainable parameters as {"params", "lr_scale", "decay"}, in the order of rate and decay.

    Args:
        rate: multiplier of the learning rate of a parameter, by its name. Biases do not decay.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rate(name), parameter.dim() > 1), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "decay": decay}
        for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
