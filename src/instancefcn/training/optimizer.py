"""The optimizer, with learning-rate multipliers and without decay on biases and normalisation layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from instancefcn.training.config import TrainConfig


def build_optimizer(groups: Sequence[Mapping[str, Any]], config: TrainConfig) -> Optimizer:
    """The config's optimizer over a network's parameter groups.

    Args:
        groups: dicts of "params", "lr_scale" (multiplier of the learning rate) and "decay" (bool).
    """
    rate = config.scaled_learning_rate
    given = [
        {
            "params": list(group["params"]),
            "lr": rate * group["lr_scale"],
            "lr_scale": float(group["lr_scale"]),
            "weight_decay": config.weight_decay if group["decay"] else 0.0,
        }
        for group in groups
    ]
    given = [group for group in given if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(given, lr=rate)
    return torch.optim.SGD(given, lr=rate, momentum=config.momentum)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group `rate` times its own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
