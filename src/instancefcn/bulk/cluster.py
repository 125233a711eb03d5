"""The chunks of a job, processed by actors of a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

from instancefcn.bulk.job import Job, Summary, summarise
from instancefcn.bulk.worker import ChunkWorker, OpenModel, Resources, open_model
from instancefcn.console import progress
from instancefcn.errors import ConfigError, InstanceFCNError

STARTS = 4
"""Attempts to start a cluster on this machine."""


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Connect to a Ray cluster for the length of the block.

    Args:
        address: of a cluster; None takes RAY_ADDRESS, or else starts a cluster on this machine alone.
        cpus: cores that a cluster on this machine may use.

    Raises:
        ConfigError: no cluster is found at the address, or none can be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    # Ray's messages at the start of every job are noise: errors arrive as exceptions.
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"{address}: cannot connect to a Ray cluster ({error})") from error
    else:
        _start(cpus, quiet)
    # Ray reports dead workers on standard output, which is for results.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _start(cpus: int, quiet: dict[str, Any]) -> None:
    """Start a cluster on this machine. Ray gives its processes 30 s, which is too short on a busy machine."""
    import ray

    for _ in range(STARTS):
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            return
        except Exception as error:  # Ray has no class for it
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise ConfigError(f"Ray did not start within 30 seconds, {STARTS} times: this machine is too busy")


def capacity(cpus: int, gpus: float) -> int:
    """How many workers fit on the connected cluster now, at least 1."""
    import ray

    has = ray.cluster_resources()
    return max(1, int(has.get("GPU", 0) // gpus if gpus else has.get("CPU", 0) // cpus))


def run(
    job: Job, resources: Resources, workers: int, *, gpus: float = 0, open_model: OpenModel = open_model
) -> Summary:
    """Process the chunks of a job that are not done, on the connected cluster.

    Args:
        job: from `prepare`.
        resources: of each worker.
        workers: how many; those that do not fit yet start as soon as they do.
        gpus: per worker, also a fraction such as 0.5.
        open_model: see `ChunkWorker`.

    Raises:
        InstanceFCNError: a worker cannot continue, or results are missing at the end.
    """
    start = time.perf_counter()
    done = interrupted = 0
    if job.todo:
        with progress() as show:
            show("images", 0, job.images_left)
            for row in _rows(job, resources, min(workers, len(job.todo)), gpus, open_model):
                done += row["images"]
                interrupted += row["interrupted"]
                show("images", done, job.images_left)
    return summarise(job, done, time.perf_counter() - start, interrupted)


def _rows(
    job: Job, resources: Resources, workers: int, gpus: float, open_model: OpenModel
) -> Iterator[dict[str, Any]]:
    """What `ChunkWorker.do` returned for each chunk, in the order in which they finish."""
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
        # Without `Job.todo`, a long list of which every actor would get a copy.
        fn_constructor_args=(replace(job, todo=()), resources, open_model),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=resources.threads,
        num_gpus=gpus,
    )
    try:
        for row in results.iter_rows():
            if row["fault"]:
                raise InstanceFCNError(f"{row['fault']}\nRun the same command again to continue")
            yield row
    except ActorDiedError as error:  # Ray keeps an error at the start of a worker only as text
        raise InstanceFCNError(f"a worker cannot start: {str(error).strip().splitlines()[-1]}") from error
