"""Several processes at one task: who started them, and how they agree.

torchrun and SLURM's srun start one process a device and tell each its place by environment variables;
Lightning knows how to read them.
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
"""How long processes wait for one of them: the first may be checking pictures, or scoring predictions."""


class StoppedElsewhere(Exception):
    """This process stops because another one found an error, which the first process reports."""


def environment() -> ClusterEnvironment | None:
    """What started this process beside others (torchrun or srun); None when nothing did.

    Raises:
        ConfigError: SLURM was not told how many processes each machine should have; or this is one of many
            processes that something else started.
    """
    if not {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS"} & os.environ.keys():
        world = os.environ.get("WORLD_SIZE", "1")
        if "RANK" in os.environ and "LOCAL_RANK" not in os.environ and world != "1":
            raise ConfigError(
                f"RANK and WORLD_SIZE say that this is one of {world} processes, but neither torchrun nor "
                "srun started it: start it with torchrun (docs/distributed.md), or unset RANK"
            )
        return None  # lightning takes seconds to import
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    # A job's script and its interactive shell have these variables too: waiting for others would be in vain.
    tasks = os.environ["SLURM_NTASKS"]
    if tasks == "1" or os.environ.get("SLURM_STEP_NUM_TASKS") != tasks:
        return None
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ConfigError("SLURM does not say how many processes a machine has: use --ntasks-per-node")
    # A job that is put back into the queue calls `instancefcn train --resume` itself.
    return SLURMEnvironment(auto_requeue=False)


def is_first() -> bool:
    """False in all but one of the processes that torchrun, srun or Lightning started together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ.get("RANK", "0") == "0"
    if "LOCAL_RANK" in os.environ:  # Lightning's children have it
        return os.environ["LOCAL_RANK"] == "0"
    # SLURM sets its own variable in every job, whoever started the process.
    return environment() is None or os.environ.get("SLURM_PROCID", "0") == "0"


def started() -> tuple[int, int] | None:
    """(devices, machines) of the processes that torchrun or srun started; None when neither did.

    Raises:
        ConfigError: machines with different numbers of processes.
    """
    place = environment()
    if place is None:
        return None
    world = place.world_size()
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    here = int(os.environ.get("LOCAL_WORLD_SIZE" if by_torchrun else "SLURM_NTASKS_PER_NODE", 1))
    if world % here:
        raise ConfigError(f"{world} processes do not share out evenly over machines with {here} each")
    return here, world // here


def with_started(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the numbers of devices and machines that torchrun or srun started processes for.

    Raises:
        ConfigError: the settings name others, or several machines without either launcher.
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
        Exception: what `action` raised here; in the first process also DataError with what was raised
            elsewhere.
        StoppedElsewhere: in the other processes, when `action` succeeded here, or failed in the first too.
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
    """In the first process the entries of all processes, whose keys differ; elsewhere `found` as it is."""
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
def group(wanted: bool) -> Iterator[tuple[int, int]]:
    """(rank, number) of this process among those that torchrun or srun started: able to exchange objects by
    the functions above. (0, 1) when neither did, or when this is not `wanted`.
    """
    if wanted and dist.is_available() and dist.is_initialized():  # by training, in the same program
        yield dist.get_rank(), dist.get_world_size()
        return
    place = environment() if wanted else None
    if place is None or place.world_size() == 1:
        yield 0, 1
        return
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place.main_address, str(place.main_port)
    rank, world = place.global_rank(), place.world_size()
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank())
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield rank, world
    finally:
        dist.destroy_process_group()
