from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from instancefcn.training.config import resolve
from instancefcn.training.optimizer import (
    averaged,
    build_optimizer,
    decay_after,
    learning_rate_factor,
    set_learning_rate,
)
from tiny_network import TinyNetwork

STEPS = [  # step, total, warmup, schedule, milestones -> factor
    (0, 100, 10, "cosine", (), 0.1),
    (4, 100, 10, "cosine", (), 0.5),
    (9, 100, 10, "cosine", (), 1.0),
    (10, 100, 10, "cosine", (), 1.0),
    (99, 100, 10, "cosine", (), 0.01),
    (50, 101, 0, "cosine", (), 0.505),  # half way
    (0, 1, 250, "cosine", (), 1.0),  # no room for a warm-up
    (0, 9, 250, "step", (), 1 / 3),  # the warm-up takes a third at most
    (3, 9, 250, "step", (), 1.0),
    (66, 100, 0, "step", (2 / 3,), 1.0),
    (67, 100, 0, "step", (2 / 3,), 0.1),
    (90, 100, 0, "step", (0.5, 0.9), 0.01),
    (50, 100, 0, "step", (0.5, 0.9), 0.1),
]


@pytest.mark.parametrize(("step", "total", "warmup", "schedule", "milestones", "factor"), STEPS)
def test_table(
    step: int, total: int, warmup: int, schedule: str, milestones: tuple[float, ...], factor: float
) -> None:
    assert learning_rate_factor(step, total, warmup, schedule, milestones) == pytest.approx(factor)  # type: ignore[arg-type]


@settings(deadline=None)
@given(total=st.integers(1, 500), warmup=st.integers(0, 600), schedule=st.sampled_from(["cosine", "step"]))
def test_rises_once_and_then_falls_and_is_never_zero(total: int, warmup: int, schedule: str) -> None:
    factors = [learning_rate_factor(i, total, warmup, schedule, (0.7,)) for i in range(total)]  # type: ignore[arg-type]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert max(factors) == pytest.approx(1.0)
    assert min(factors) > 0.005 or total > 190  # the first step of a long warm-up may be small


def test_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        learning_rate_factor(0, 0, 0, "cosine")


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizer_keeps_multipliers_and_spares_biases_the_decay(name: str, kind: type) -> None:
    config = resolve(
        {
            "data": "d",
            "out": "o",
            "optimizer": name,
            "learning_rate": 0.16,
            "batch_size": 1,
            "weight_decay": 0.3,
        }
    )
    network = TinyNetwork()
    optimizer = build_optimizer(network.parameter_groups(), config)
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.03, 0.01])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [1.5, 0.5]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_optimizer_drops_empty_groups() -> None:
    config = resolve({"data": "d", "out": "o"})
    groups = [*TinyNetwork().parameter_groups(), {"params": [], "lr_scale": 1.0, "decay": True}]
    assert len(build_optimizer(groups, config).param_groups) == 2


def test_decay_warms_up() -> None:
    assert [round(decay_after(n, 0.999), 4) for n in (1, 2, 9, 91)] == [0.1, 0.1818, 0.5, 0.91]
    assert decay_after(100_000, 0.999) == 0.999
    assert decay_after(5, 0.0) == 0.0


def test_average_of_three_steps_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 10.0)
    average = averaged(network, 0.15)
    wanted = 10.0
    for step, value in enumerate((1.0, 2.0, 3.0)):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        decay = min(0.15, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * value
    # 0.1 * 10 + 0.9 * 1 = 1.9; 0.15 * 1.9 + 0.85 * 2 = 1.985; 0.15 * 1.985 + 0.85 * 3 = 2.84775
    assert abs(wanted - 2.84775) < 1e-9
    torch.testing.assert_close(average.module.weight, torch.tensor([[2.84775]]))
    assert int(average.n_averaged) == 4, "the initial weights count"


def test_statistics_are_averaged_and_counters_copied() -> None:
    network = nn.BatchNorm1d(2)
    average = averaged(network, 0.999)
    network.train()(torch.full((4, 2), 10.0) + torch.arange(4.0)[:, None])
    average.update_parameters(network)
    assert int(average.module.num_batches_tracked) == 1
    torch.testing.assert_close(average.module.running_mean, 0.9 * network.running_mean)
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_frozen_weights_stay_to_the_bit() -> None:
    network = nn.Linear(3, 3).requires_grad_(False)
    average = averaged(network, 0.9)
    for _ in range(5):
        average.update_parameters(network)
    assert torch.equal(average.module.weight, network.weight)


def test_state_goes_round() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    one, other = averaged(network, 0.9), averaged(nn.Linear(3, 2), 0.9)
    nn.init.normal_(network.weight)
    one.update_parameters(network)
    other.load_state_dict(one.state_dict())
    for average in (one, other):
        average.update_parameters(network)
    assert torch.equal(one.module.weight, other.module.weight)
    assert int(one.n_averaged) == int(other.n_averaged) == 3
