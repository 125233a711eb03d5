"""`predict_bulk`: very many images on a Ray cluster, into Parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from instancefcn.bulk import need_ray

if TYPE_CHECKING:
    from instancefcn.bulk.job import Summary
    from instancefcn.inference.predictor import Tile


def predict_bulk(
    sources: Sequence[str],
    out: str,
    model: str = "fcis-animals7",
    *,
    score: float = 0.5,
    tile: Tile = "auto",
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
    batch: int = 1,
    precision: str = "auto",
    chunk: int | None = None,
    address: str | None = None,
) -> Summary:
    """Segment images on a Ray cluster. The same call continues an interrupted job.

    Args:
        sources: folders, patterns such as "photos/**/*.jpg", Parquet files with a column "image" of encoded
            images, or addresses of these such as "s3://bucket/photos".
        out: folder or address for the results, which all workers must reach.
        model: name of a bundled model, checkpoint file, or folder of a run.
        score, tile, batch: as for `predict`.
        precision: "32", "bf16" or "auto", see `load`. All workers run what "auto" is on this machine, also
            when the job is continued elsewhere.
        workers: processes that hold the model; None for as many as fit.
        cpus: cores per worker.
        gpus: GPUs per worker, also a fraction; 0 uses the CPU.
        chunk: images per result file; None for 512, or fewer in small jobs.
        address: of a Ray cluster; None takes RAY_ADDRESS, or starts a cluster on this machine for the call.

    Returns:
        what the folder of the job holds now. An unreadable image counts as an error and stops nothing.

    Raises:
        MissingPackageError: Ray Data is missing.
        ImageError: a source gives nothing.
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: `out` holds another job, or there is no such cluster.
        InstanceFCNError: a worker cannot continue.
    """
    need_ray()
    import torch

    from instancefcn.bulk.job import own_files, prepare
    from instancefcn.bulk.listing import list_images

    # Errors in the sources and the model show before a cluster is started.
    listing = list_images(sources, own_files(out))
    from instancefcn.bulk.cluster import connected, room, run
    from instancefcn.bulk.worker import Power
    from instancefcn.inference.predictor import precision_of
    from instancefcn.models.checkpoint import locate
    from instancefcn.published.checkpoint import load_any_checkpoint

    power = Power(cpus, "cuda" if gpus else "cpu", batch)
    runs = precision_of(load_any_checkpoint(model), precision, torch.device(power.device))
    checkpoint = locate(model).read_bytes()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with connected(address, max(cores, cpus * (workers or 1))):
        workers = workers or room(cpus, gpus)
        job = prepare(
            listing,
            out,
            checkpoint,
            model=model,
            score=score,
            tile=tile,
            precision=runs,
            keep_precision=precision == "auto",
            chunk=chunk,
            workers=workers,
        )
        done = job.chunks - len(job.todo)
        if done:
            print(f"{done} of {job.chunks} chunks are done already", file=sys.stderr, flush=True)
        return run(job, power, workers, gpus=gpus)
