from __future__ import annotations

from pathlib import Path

import pytest
import torch

from instancefcn.errors import ConfigError
from instancefcn.training.config import resolve
from instancefcn.training.devices import convolves_in_bfloat16, make_trainer

PLACES = {"data": "d", "out": "o"}


def test_other_machines_do_not_start_by_themselves(tmp_path: Path) -> None:
    """Lightning would wait for them for ever."""
    with pytest.raises(ConfigError, match="nodes is 2: start the command on every machine"):
        make_trainer(resolve({**PLACES, "nodes": 2}), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accelerator gpu with 2 devices is not possible here"):
        make_trainer(resolve({**PLACES, "accelerator": "gpu", "devices": 2}), tmp_path)


def test_a_jobs_own_script_trains_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself, Lightning takes it for one of four processes."""
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    trainer = make_trainer(resolve({**PLACES, "accelerator": "cpu"}), tmp_path)
    assert trainer.world_size == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_of_gpus_is_not_taken_for_another(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="fp16 is not supported on CPU"),
        pytest.raises(ConfigError, match="16-mixed needs a GPU: give bf16-mixed or 32"),
    ):
        make_trainer(resolve({**PLACES, "accelerator": "cpu", "precision": "16-mixed"}), tmp_path)


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_only_where_convolutions_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    """A step of four pictures took 20 s instead of one on a processor without AVX-512."""
    monkeypatch.setattr("instancefcn.training.devices.convolves_in_bfloat16", lambda: able)
    config = resolve({**PLACES, "accelerator": "cpu", "precision": "bf16-mixed"})
    if able:
        assert make_trainer(config, tmp_path).precision_plugin.precision == "bf16-mixed"
        return
    with pytest.raises(
        ConfigError, match=r"bf16-mixed needs a GPU or a processor with AVX-512.* Give a new run 32"
    ):
        make_trainer(config, tmp_path)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="another kind")
def test_convolutions_in_bfloat16_come_with_avx512() -> None:
    assert convolves_in_bfloat16() == (torch.backends.cpu.get_cpu_capability() == "AVX512")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_macs_gpu_is_taken_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.mps.MPSAccelerator.is_available", lambda: True)
    assert make_trainer(resolve(PLACES), tmp_path).strategy.root_device.type == "cpu"
