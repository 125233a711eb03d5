from __future__ import annotations

import pytest

from instancefcn.errors import ConfigError
from instancefcn.processes import (
    Place,
    agreed,
    end_with,
    environment,
    first_host,
    from_first,
    gathered,
    group,
    is_first,
    together,
    with_started,
)

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
    place = environment()
    assert place == Place(5, 1, 8, 4, "127.0.0.1", 15000 + 4567)
    given(monkeypatch, {"SLURM_NODELIST": "n[07-09,12],m1", "MASTER_PORT": "4000"})
    place = environment()
    assert place is not None
    assert (place.address, place.port) == ("n07", 4000)
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


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a1,a2", "a1"), ("a1 a2", "a1"), ("n[3]", "n3"), ("n[07-09,12]-x,m1", "n07-x")],
)
def test_the_first_of_slurms_machines(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_other_machines_do_not_start_by_themselves() -> None:
    """They would be waited for."""
    with pytest.raises(ConfigError, match="nodes is 2: start the command on every machine"):
        together(lambda local_rank: None, 1, 2, "gloo")


def test_a_task_of_one_device_needs_no_group() -> None:
    assert together(lambda local_rank, word: (local_rank, word), 1, 1, "gloo", "x") == (0, "x")


@pytest.mark.parametrize(("parents", "naps"), [([7, 7, 7, 1], 3), ([1], 0)])
def test_a_process_ends_with_its_parent(
    monkeypatch: pytest.MonkeyPatch, parents: list[int], naps: int
) -> None:
    """Also when the parent was gone before the process looked for the first time."""
    slept: list[float] = []
    ended: list[int] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("os.getppid", iter(parents).__next__)
    end_with(7).join()
    assert ended == [1]
    assert len(slept) == naps


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
