from __future__ import annotations

import torch
from torch import nn

from instancefcn.training.ema import AveragedNetwork, decay_at


def test_decay_warms_up() -> None:
    assert [round(decay_at(0.999, t), 4) for t in (0, 1, 8, 90)] == [0.1, 0.1818, 0.5, 0.91]
    assert decay_at(0.999, 100_000) == 0.999
    assert decay_at(0.0, 5) == 0.0


def test_average_of_three_steps_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 10.0)
    average = AveragedNetwork(network, 0.15)
    wanted = 10.0
    for step, value in enumerate((1.0, 2.0, 3.0)):
        nn.init.constant_(network.weight, value)
        average.update(network)
        decay = min(0.15, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * value
    # 0.1 * 10 + 0.9 * 1 = 1.9; 0.15 * 1.9 + 0.85 * 2 = 1.985; 0.15 * 1.985 + 0.85 * 3 = 2.84775
    assert abs(wanted - 2.84775) < 1e-9
    torch.testing.assert_close(average.network.weight, torch.tensor([[2.84775]]))
    assert average.updates == 3


def test_statistics_are_averaged_and_counters_copied() -> None:
    network = nn.BatchNorm1d(2)
    average = AveragedNetwork(network, 0.999)
    network.train()(torch.full((4, 2), 10.0) + torch.arange(4.0)[:, None])
    average.update(network)
    assert int(average.network.num_batches_tracked) == 1
    torch.testing.assert_close(average.network.running_mean, 0.9 * network.running_mean)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_frozen_weights_stay_to_the_bit() -> None:
    network = nn.Linear(3, 3).requires_grad_(False)
    average = AveragedNetwork(network, 0.9)
    for _ in range(5):
        average.update(network)
    assert torch.equal(average.network.weight, network.weight)


def test_state_goes_round() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    one, other = AveragedNetwork(network, 0.9), AveragedNetwork(nn.Linear(3, 2), 0.9)
    nn.init.normal_(network.weight)
    one.update(network)
    other.load_state_dict(one.state_dict())
    for average in (one, other):
        average.update(network)
    assert torch.equal(one.network.weight, other.network.weight)
    assert one.updates == other.updates == 2
