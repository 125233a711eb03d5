"""Stages are timed inside `listen` only."""

from __future__ import annotations

import time

import pytest
import torch

from instancefcn.models import zoo
from instancefcn.profiling import listen, stage
from tiny import tiny_spec


def test_seconds_add_up_inside_listen() -> None:
    with stage("before"):
        pass
    with listen() as seconds:
        for _ in range(2):
            with stage("sleep"):
                time.sleep(0.01)
        with pytest.raises(ValueError, match="mine"), stage("broken"):
            raise ValueError("mine")
    with stage("after"):
        pass
    assert seconds.keys() == {"sleep", "broken"}
    assert 0.02 <= seconds["sleep"] < 1


def test_the_stages_of_a_network_add_up_to_its_time() -> None:
    network = zoo.build(tiny_spec(), 2).eval()
    torch.nn.init.normal_(network.maps.scores.weight, std=1.0)
    image = [torch.rand(3, 96, 128)]
    with torch.no_grad():
        network(image)
        with listen() as seconds:
            start = time.perf_counter()
            network(image)
            whole = time.perf_counter() - start
    wanted = {"backbone", "score maps", "proposals", "scoring", "suppression", "voting", "pasting"}
    assert seconds.keys() == wanted
    assert 0.3 * whole < sum(seconds.values()) <= whole
