"""How weights change: the optimizer, its learning rate over a run, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from instancefcn.training.config import TrainConfig

Tensors: TypeAlias = "tuple[Tensor, ...] | list[Tensor]"


def build_optimizer(groups: Sequence[Mapping[str, Any]], config: TrainConfig) -> Optimizer:
    """The config's optimizer over a network's parameter groups.

    Args:
        groups: dicts of "params", "lr_scale" (multiplier of the learning rate) and "decay" (bool; false for
            biases and normalisation layers).
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


def learning_rate_factor(
    step: int, total: int, warmup: int, schedule: Literal["cosine", "step"], milestones: Sequence[float] = ()
) -> float:
    """Multiplier of the peak learning rate for optimizer step `step` (the first is 0).

    A plain function of the step: nothing to save, nothing to restore. The warm-up is linear, 1 / warmup in
    step 0, and never takes more than a third of a short run. Cosine falls from 1 after the warm-up to 1 % at
    the last step. Step divides by ten after each part of the run in `milestones`.

    Raises:
        ValueError: `total` is not positive.
    """
    if total < 1:
        raise ValueError(f"a run needs at least one step, got {total}")
    warmup = min(warmup, total // 3)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "step":
        return 0.1 ** sum(step >= part * total for part in milestones)
    progress = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's parameters and buffers, for evaluation and export; call
    `update_parameters(network)` after every step.

    The initial weights are the first of those averaged. After n of them the decay is min(decay, n / (9 + n)):
    small at first, so that the start is soon forgotten. Integer buffers (counters) are copied.
    """

    @torch.no_grad()
    def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1.0 - decay_after(int(count), decay))
        else:
            torch._foreach_copy_(averages, values)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.n_averaged.fill_(1)
    return average.eval().requires_grad_(False)


def decay_after(count: int, decay: float) -> float:
    """The decay of an average of `count` weights so far: see `averaged`."""
    return min(decay, count / (9 + count))
