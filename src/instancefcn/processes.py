"""Several processes for one task: who started them, and how they communicate.

torchrun and SLURM's srun start one process per device and tell each its rank by environment variables, which
Lightning reads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from instancefcn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""How long processes wait for one another: the first may be checking images or scoring predictions."""


class StoppedElsewhere(Exception):
    """This process stops because another one raised an error, which the first process reports."""


def environment() -> ClusterEnvironment | None:
    """The launcher (torchrun or srun) that started this process together with others; None without one.

    Raises:
        ConfigError: SLURM does not know the number of processes per machine, or something else started
            several processes.
    """
    if not {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS"} & os.environ.keys():
        world = os.environ.get("WORLD_SIZE", "1")
        if "RANK" in os.environ and "LOCAL_RANK" not in os.environ and world != "1":
            raise ConfigError(
                f"RANK and WORLD_SIZE say that this is one of {world} processes, but neither torchrun nor "
                "srun started it: start it with torchrun (docs/distributed.md), or unset RANK"
            )
        return None  # before the import of lightning, which takes seconds
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    # A job's script and its interactive shell have these variables too, but no other processes.
    tasks = os.environ["SLURM_NTASKS"]
    if tasks == "1" or os.environ.get("SLURM_STEP_NUM_TASKS") != tasks:
        return None
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError("SLURM does not say how many processes each machine has: use --ntasks-per-node")
    # A requeued job calls `instancefcn train --resume` itself.
    return SLURMEnvironment(auto_requeue=False)


def is_first() -> bool:
    """True in exactly one of the processes that torchrun, srun or Lightning started together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ.get("RANK", "0") == "0"
    if "LOCAL_RANK" in os.environ:  # set by Lightning in its child processes
        return os.environ["LOCAL_RANK"] == "0"
    # SLURM sets SLURM_PROCID in every job, whoever started the process.
    return environment() is None or os.environ.get("SLURM_PROCID", "0") == "0"


def started() -> tuple[int, int] | None:
    """(devices per machine, machines) of the processes that torchrun or srun started; None without a
    launcher.

    Raises:
        ConfigError: machines have different numbers of processes.
    """
    launcher = environment()
    if launcher is None:
        return None
    world = launcher.world_size()
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    here = int(os.environ.get("LOCAL_WORLD_SIZE" if by_torchrun else "SLURM_NTASKS_PER_NODE", 1))
    if world % here:
        raise ConfigError(f"{world} processes cannot be split evenly over machines with {here} each")
    return here, world // here


def with_started(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the numbers of devices and machines that torchrun or srun started processes for.

    Raises:
        ConfigError: the settings give other numbers.
    """
    found = started()
    if found is None:
        return dict(settings)
    names = ("devices", "nodes")
    for name, count in zip(names, found, strict=True):
        if settings.get(name, count) != count:
            raise ConfigError(
                f"{name} is {settings[name]}, but processes were started for {found[0]} devices on each of "
                f"{found[1]} machines (torchrun: --nproc-per-node, --nnodes; srun: --ntasks-per-node, "
                f"--nodes): leave {name} out"
            )
    return {**settings, **dict(zip(names, found, strict=True))}


def agreed(action: Callable[[], T]) -> T:
    """The result of `action`, once it has succeeded in every process of the group.

    Raises:
        Exception: in the first process, what `action` raised there, or a DataError with what it raised
            elsewhere.
        StoppedElsewhere: in all other processes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return action()
    result: list[T] = []
    failure: Exception | None = None
    try:
        result.append(action())
    except Exception as error:
        failure = error
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, None if failure is None else f"{type(failure).__name__}: {failure}")
    if not any(said):
        return result[0]
    if dist.get_rank() != 0:
        raise StoppedElsewhere from failure
    if failure is not None:
        raise failure
    raise DataError([f"process {rank} stopped: {text}" for rank, text in enumerate(said) if text])


def gathered(found: dict[int, T]) -> dict[int, T]:
    """In the first process, the entries of all processes, whose keys differ; elsewhere `found` itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(found, parts)
    if parts is None:
        return found
    everything = {key: value for part in parts for key, value in part.items()}
    assert len(everything) == sum(map(len, parts)), "an entry came from two processes"
    return everything


def from_first(value: T | None) -> T:
    """The first process's `value`, in every process."""
    box = [value]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(box)
    assert box[0] is not None
    return box[0]


@contextlib.contextmanager
def group(enabled: bool) -> Iterator[tuple[int, int]]:
    """Connect the processes that torchrun or srun started, so that the functions above work; yield (rank,
    number of processes). (0, 1) without a launcher, or if not `enabled`.
    """
    if enabled and dist.is_available() and dist.is_initialized():  # by training, in the same program
        yield dist.get_rank(), dist.get_world_size()
        return
    launcher = environment() if enabled else None
    if launcher is None or launcher.world_size() == 1:
        yield 0, 1
        return
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = launcher.main_address, str(launcher.main_port)
    rank, world = launcher.global_rank(), launcher.world_size()
    if torch.cuda.is_available():
        torch.cuda.set_device(launcher.local_rank())
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield rank, world
    finally:
        dist.destroy_process_group()
