"""Several processes at one task: who starts them, and how they agree.

torchrun and SLURM's srun start one process per device and tell each its place by environment variables;
without them a process starts the others of its machine as its children.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from instancefcn.errors import ConfigError, DataError, InstanceFCNError, TrainingError

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""How long processes wait for one of them: the first may be checking images, or scoring predictions."""
GRACE = 5.0
"""Seconds that another process than the first keeps an error to itself: the first may have the same, and its
end is that of the others."""


class Stopped(Exception):
    """This process stops without an error of its own; the first process says why."""


class StoppedElsewhere(Stopped):
    """This process stops because another one found an error, which the first process reports."""


@dataclass(frozen=True)
class Place:
    """One of several processes.

    Attributes:
        rank, local_rank: its index among all processes, and among those of its machine.
        world, here: how many there are, and on its machine.
        address, port: where the first one listens.
    """

    rank: int
    local_rank: int
    world: int
    here: int
    address: str
    port: int


def environment() -> Place | None:
    """The place of this process among those that torchrun or srun started; None when neither did.

    Raises:
        ConfigError: SLURM was not told how many processes each machine should have; or this is one of many
            processes that something else started.
    """
    found = os.environ
    if "TORCHELASTIC_RUN_ID" in found:
        return Place(
            int(found["RANK"]),
            int(found["LOCAL_RANK"]),
            int(found["WORLD_SIZE"]),
            int(found.get("LOCAL_WORLD_SIZE", 1)),
            found.get("MASTER_ADDR", "127.0.0.1"),
            int(found.get("MASTER_PORT", 29500)),
        )
    tasks = found.get("SLURM_NTASKS", "1")
    # A job's script and its interactive shell have this variable too: waiting for others would be in vain.
    if tasks != "1" and found.get("SLURM_STEP_NUM_TASKS") == tasks:
        if "SLURM_NTASKS_PER_NODE" not in found:
            raise ConfigError("SLURM does not say how many processes a machine has: use --ntasks-per-node")
        return Place(
            int(found["SLURM_PROCID"]),
            int(found["SLURM_LOCALID"]),
            int(tasks),
            int(found["SLURM_NTASKS_PER_NODE"]),
            found.get("MASTER_ADDR") or first_host(found.get("SLURM_NODELIST", "127.0.0.1")),
            # The same in all processes, and rarely that of another job on the machine.
            int(found.get("MASTER_PORT") or 15000 + int(found.get("SLURM_JOB_ID", "0")[-4:])),
        )
    world = found.get("WORLD_SIZE", "1")
    if "SLURM_NTASKS" not in found and "RANK" in found and world != "1":
        raise ConfigError(
            f"RANK and WORLD_SIZE say that this is one of {world} processes, but neither torchrun nor srun "
            "started it: start it with torchrun (docs/distributed.md), or unset RANK"
        )
    return None


def first_host(nodes: str) -> str:
    """The first machine of SLURM's list of them, such as "n07" of "n[07-09,12],m1"."""
    return re.split("[, ]", re.sub(r"\[([^],-]+)[^]]*]", r"\1", nodes))[0]


def is_first() -> bool:
    """False in all but one of the processes that share a task."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    place = environment()
    return place is None or place.rank == 0


def with_started(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the numbers of devices and machines that torchrun or srun started processes for.

    Raises:
        ConfigError: the settings name others, or machines have different numbers of processes.
    """
    place = environment()
    if place is None:
        return dict(settings)
    if place.world % place.here:
        raise ConfigError(
            f"{place.world} processes do not share out evenly over machines with {place.here} each"
        )
    found = {"devices": place.here, "nodes": place.world // place.here}
    for name, count in found.items():
        if settings.get(name, count) != count:
            raise ConfigError(
                f"{name} is {settings[name]}, but processes were started for {found['devices']} devices on "
                f"each of {found['nodes']} machines (torchrun: --nproc-per-node, --nnodes; srun: "
                f"--ntasks-per-node, --nodes): leave {name} out"
            )
    return {**settings, **found}


def together(task: Callable[..., T], devices: int, machines: int, backend: str, *args: Any) -> T:
    """Call `task(local_rank, *args)` in one process per device, able to use the functions below: in those
    that torchrun or srun started, or else in this one and in children of it.

    Args:
        task: a function that a new process can import.
        devices, machines: how many devices each machine has, and how many machines there are.
        backend: of torch.distributed: "nccl" for GPUs, "gloo" for CPUs.

    Returns:
        what the call in this process returned.

    Raises:
        ConfigError: there should be several machines, but nothing started processes on them.
        TrainingError: another process has ended.
    """
    place = environment()
    if place is None and machines > 1:
        raise ConfigError(
            f"nodes is {machines}: start the command on every machine with torchrun or srun, which also say "
            "how many devices there are (docs/distributed.md)"
        )
    if devices * machines == 1:
        return task(0, *args)
    if place is not None:
        with _joined(place, backend, leave=False):  # the group lasts as long as the processes
            return task(place.local_rank, *args)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first, *others = (Place(rank, rank, devices, devices, "127.0.0.1", port) for rank in range(devices))
    context = get_context("spawn")  # a fork of a process with threads, or with a GPU in use, may hang
    children: list[BaseProcess] = []
    over = threading.Event()
    try:
        for other in others:
            child: BaseProcess = context.Process(
                target=_child, args=(os.getpid(), other, backend, task, *args)
            )
            child.start()
            children.append(child)
        threading.Thread(target=_end_after, args=(children, over), daemon=True).start()
        with _joined(first, backend, leave=True):
            return task(0, *args)
    finally:
        over.set()
        for child in children:
            child.join(GRACE)
            child.kill()  # it waits, inside PyTorch, for this process


def _child(parent: int, place: Place, backend: str, task: Callable[..., Any], *args: Any) -> None:
    end_with(parent)
    try:
        with _joined(place, backend, leave=True):
            task(place.local_rank, *args)
    except (Stopped, KeyboardInterrupt):
        pass
    except InstanceFCNError as error:
        time.sleep(GRACE)
        sys.exit(f"error in process {place.rank}: {error}")


@contextlib.contextmanager
def _joined(place: Place, backend: str, leave: bool) -> Iterator[None]:
    """A member of the group within the block, and afterwards unless it `leave`s.

    Raises:
        TrainingError: another member has ended.
    """
    try:
        if not dist.is_initialized():
            if "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(max(1, torch.get_num_threads() // place.here))
            if backend == "nccl":
                torch.cuda.set_device(place.local_rank)
            os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place.address, str(place.port)
            dist.init_process_group(backend, rank=place.rank, world_size=place.world, timeout=PATIENCE)
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise TrainingError(
            "another process has ended or does not answer; its own message says why. A training run that was "
            f"saved can be resumed with --resume ({error})"
        ) from error
    finally:
        if leave and dist.is_initialized():
            dist.destroy_process_group()


def end_with(parent: int) -> threading.Thread:
    """Let this process end as soon as `parent`, which started it, is no longer there, even if that was while
    this process was starting. Returns the thread that watches.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    thread = threading.Thread(target=watch, name="end with the parent", daemon=True)
    thread.start()
    return thread


def _end_after(children: Sequence[BaseProcess], over: threading.Event) -> None:
    """End this process when a child failed and waiting for it does not end: NCCL may wait forever."""
    while not over.wait(1.0):
        if any(child.exitcode for child in children) and not over.wait(12 * GRACE):
            print("error: another process has ended", file=sys.stderr, flush=True)
            for child in children:
                child.kill()
            os._exit(1)


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
    if place is None or place.world == 1:
        yield 0, 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
    with _joined(place, "gloo", leave=True):
        yield place.rank, place.world
