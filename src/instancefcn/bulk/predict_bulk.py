"""`predict_bulk`: very many images on a Ray cluster, into Parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from instancefcn.bulk import need_ray
from instancefcn.data.paths import at_home
from instancefcn.folder_lock import only_writer
from instancefcn.safe_text import one_line

if TYPE_CHECKING:
    from instancefcn.bulk.job import Summary
    from instancefcn.inference.predictor import Tile


def predict_bulk(
    sources: Sequence[str],
    out: str,
    model: str = "fcis-animals7",
    *,
    score: float = 0.5,
    max_objects: int | None = None,
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
        score, max_objects, tile, batch: as for `predict`.
        precision: "32", "bf16" or "auto", see `load`. All workers run what "auto" is on this machine, also
            when the job is continued elsewhere.
        workers: processes that each hold the model; None for as many as fit.
        cpus: cores per worker.
        gpus: GPUs per worker, also a fraction; 0 uses the CPU.
        chunk: images per result file; None for 512, or fewer in small jobs.
        address: of a Ray cluster; None takes RAY_ADDRESS, or starts a cluster on this machine for the call.

    Returns:
        what the folder of the job holds now. An unreadable image counts as an error; the job continues.

    Raises:
        MissingPackageError: Ray Data is not installed.
        ImageError: a source gives nothing.
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: `out` holds another job, or no cluster is found at the address.
        OutputError: another process is writing to the folder `out`.
        InstanceFCNError: a worker cannot continue.
    """
    need_ray()
    import torch

    from instancefcn.bulk.job import own_files, prepare
    from instancefcn.bulk.listing import list_images

    # Errors in the sources and the model are reported before a cluster is started.
    listing = list_images(sources, own_files(out))
    if listing.left_out:
        print(one_line(listing.left_out), file=sys.stderr, flush=True)
    from instancefcn.bulk.cluster import capacity, connected, run
    from instancefcn.bulk.worker import Resources
    from instancefcn.inference.predictor import precision_of
    from instancefcn.models.checkpoint import locate
    from instancefcn.published.checkpoint import load_any_checkpoint

    resources = Resources(cpus, "cuda" if gpus else "cpu", batch)
    runs = precision_of(load_any_checkpoint(model), precision, torch.device(resources.device))
    checkpoint = locate(model).read_bytes()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Objects of a store cannot be locked.
    lock = nullcontext() if "://" in out else only_writer(at_home(out))
    with lock, connected(address, max(cores, cpus * (workers or 1))):
        workers = workers or capacity(cpus, gpus)
        job = prepare(
            listing,
            out,
            checkpoint,
            model=model,
            score=score,
            tile=tile,
            max_objects=max_objects,
            precision=runs,
            keep_precision=precision == "auto",
            chunk=chunk,
            workers=workers,
        )
        done = job.chunks - len(job.todo)
        if done:
            print(f"{done} of {job.chunks} chunks are done already", file=sys.stderr, flush=True)
        return run(job, resources, workers, gpus=gpus)
