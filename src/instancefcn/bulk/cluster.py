"""Letting Ray's actors do the chunks of a job."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

from instancefcn.bulk.job import Job, Summary, sum_up
from instancefcn.bulk.worker import ChunkWorker, OpenModel, Power, open_model
from instancefcn.console import progress
from instancefcn.errors import ConfigError, InstanceFCNError

STARTS = 4
"""How often the start of a cluster on this machine is tried."""


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """A Ray cluster while the block runs.

    Args:
        address: of a cluster; None takes RAY_ADDRESS, or else starts one on this machine alone.
        cpus: what one on this machine may give out.

    Raises:
        ConfigError: there is no cluster at the address, or none can be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    # Ray's own words at the start of every job; what goes wrong comes as an exception.
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{address}: there is no Ray cluster that can be joined ({error})") from error
    else:
        _start(cpus, quiet)
    # Ray tells of dead workers on standard output, where people want results.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _start(cpus: int, quiet: dict[str, Any]) -> None:
    """A cluster of this machine. Ray waits 30 s for its own processes, which a busy machine may exceed."""
    import ray

    for _ in range(STARTS):
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        except Exception as error:  # no class of its own
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise ConfigError(f"Ray did not start within 30 seconds, {STARTS} times: this machine is too busy")


def room(cpus: int, gpus: float) -> int:
    """How many workers the connected cluster has room for now, at least 1."""
    import ray

    has = ray.cluster_resources()
    return max(1, int(has.get("GPU", 0) // gpus if gpus else has.get("CPU", 0) // cpus))


def run(
    job: Job, power: Power, workers: int, *, gpus: float = 0, open_model: OpenModel = open_model
) -> Summary:
    """Do the chunks of a job that are not done, on the cluster that this process is connected to.

    Args:
        job: from `prepare`.
        power: of every worker.
        workers: how many; those for which there is no room yet start when there is.
        gpus: that each worker takes, also shares such as 0.5.
        open_model: see `Worker`.

    Raises:
        InstanceFCNError: a worker says that it cannot continue, or results are missing at the end.
    """
    start = time.perf_counter()
    done = interrupted = 0
    if job.todo:
        with progress() as show:
            show("images", 0, job.images_left)
            for row in _rows(job, power, min(workers, len(job.todo)), gpus, open_model):
                done += row["images"]
                interrupted += row["interrupted"]
                show("images", done, job.images_left)
    return sum_up(job, done, time.perf_counter() - start, interrupted)


def _rows(
    job: Job, power: Power, workers: int, gpus: float, open_model: OpenModel
) -> Iterator[dict[str, Any]]:
    """What `Worker.do` returned of every chunk, as they come."""
    import ray
    import ray.data
    from ray.exceptions import ActorDiedError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    chunks = ray.data.from_items([{"chunk": chunk} for chunk in job.todo], override_num_blocks=len(job.todo))
    results = chunks.map_batches(
        ChunkWorker,
        batch_size=1,
        # Never `Job.todo`: every actor would get the long list.
        fn_constructor_args=(replace(job, todo=()), power, open_model),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=power.threads,
        num_gpus=gpus,
    )
    try:
        for row in results.iter_rows():
            if row["fault"]:
                raise InstanceFCNError(f"{row['fault']}\nRun the same command again to continue")
            yield row
    except ActorDiedError as error:  # Ray keeps what was raised at a worker's start as text alone
        raise InstanceFCNError(f"no worker can start: {str(error).strip().splitlines()[-1]}") from error
