from __future__ import annotations

import pytest

from instancefcn.errors import ConfigError
from instancefcn.processes import agreed, environment, from_first, gathered, group, is_first, with_started

STEP = {
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "1234567",
}
ELASTIC = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
}


def given(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


def test_a_process_alone() -> None:
    assert environment() is None
    assert is_first()
    assert with_started({"devices": 3}) == {"devices": 3}
    assert agreed(lambda: 5) == from_first(5) == 5
    assert gathered({1: 2}) == {1: 2}
    with group(True) as ranks:
        assert ranks == (0, 1)


def test_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, STEP)
    slurm = environment()
    assert slurm is not None
    assert (slurm.world_size(), slurm.global_rank(), slurm.local_rank(), slurm.node_rank()) == (8, 5, 1, 1)
    assert with_started({"epochs": 1}) == {"epochs": 1, "devices": 4, "nodes": 2}
    assert not is_first()


def test_a_jobs_own_script_is_a_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM sets the job's variables there too."""
    given(monkeypatch, STEP)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert environment() is None
    assert is_first()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # an interactive shell
    assert environment() is None


def test_srun_needs_the_number_of_processes_per_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, STEP)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ConfigError, match="--ntasks-per-node"):
        environment()


def test_ranks_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert is_first()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="4 processes"):
        is_first()
    monkeypatch.setenv("LOCAL_RANK", "1")  # a child process of Lightning
    assert not is_first()


def test_torchrun_comes_before_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, STEP)
    given(monkeypatch, ELASTIC)
    assert with_started({"devices": 2}) == {"devices": 2, "nodes": 2}
    assert is_first()


def test_settings_must_equal_the_started_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, ELASTIC)
    with pytest.raises(ConfigError, match=r"devices is 8.*for 2 devices"):
        with_started({"devices": 8})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"4 processes.*3 each"):
        with_started({})
