from __future__ import annotations

import pytest
import torch

from instancefcn.bfloat16 import convolves_in_bfloat16
from instancefcn.errors import ConfigError
from instancefcn.training.config import resolve
from instancefcn.training.setup import choose_device

PLACES = {"data": "d", "out": "o"}
CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"accelerator gpu with 2 devices is not possible here: .* has 0"):
        choose_device(resolve({**PLACES, "accelerator": "gpu", "devices": 2}))
    assert choose_device(resolve({**PLACES, "devices": 2}), 1) == CPU


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device(resolve({**PLACES, "devices": 2}), 1) == torch.device("cuda", 1)
    assert choose_device(resolve({**PLACES, "precision": "16-mixed"})) == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match=r"accelerator gpu with 3 devices is not possible here: .* has 2"):
        choose_device(resolve({**PLACES, "devices": 3}))


def test_half_precision_of_gpus_needs_one() -> None:
    with pytest.raises(ConfigError, match="16-mixed needs a GPU: give bf16-mixed or 32"):
        choose_device(resolve({**PLACES, "accelerator": "cpu", "precision": "16-mixed"}))


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_only_where_convolutions_have_it(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    """A step of four images took 20 s instead of one on a CPU without AVX-512."""
    monkeypatch.setattr("instancefcn.training.setup.convolves_in_bfloat16", lambda: able)
    config = resolve({**PLACES, "accelerator": "cpu", "precision": "bf16-mixed"})
    if able:
        assert choose_device(config) == CPU
        return
    with pytest.raises(
        ConfigError, match=r"bf16-mixed needs a GPU or a CPU with AVX-512.* Give a new run 32"
    ):
        choose_device(config)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="another kind")
def test_convolutions_in_bfloat16_come_with_avx512() -> None:
    assert convolves_in_bfloat16() == (torch.backends.cpu.get_cpu_capability() == "AVX512")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_macs_gpu_is_taken_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert choose_device(resolve(PLACES)) == CPU
    assert choose_device(resolve({**PLACES, "accelerator": "mps"})) == torch.device("mps")
