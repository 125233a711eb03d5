"""Averaged weights: a slow copy of the network that is evaluated and exported."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def decay_at(decay: float, updates: int) -> float:
    """The decay after `updates` earlier updates: small at first, so that the start is soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates))


class AveragedNetwork:
    """An exponential moving average of a network's parameters and floating-point buffers.

    Attributes:
        network: the averaged copy, in eval mode, on the device of the original.
        updates: how many steps were averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """average <- d * average + (1 - d) * network; whole-number buffers (counters) are copied."""
        weight = 1.0 - decay_at(self.decay, self.updates)
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(
            self.network.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if average.dtype.is_floating_point:
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, weight)
        self.updates += 1

    def state_dict(self) -> dict[str, object]:
        """All that `load_state_dict` needs to go on exactly."""
        return {"updates": self.updates, "weights": dict(self.network.state_dict())}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a saved state."""
        weights, updates = state["weights"], state["updates"]
        assert isinstance(weights, dict)
        assert isinstance(updates, int)
        self.network.load_state_dict(weights)
        self.updates = updates
