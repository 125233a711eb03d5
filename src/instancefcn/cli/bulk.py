"""`instancefcn bulk`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from instancefcn.cli.predict import Tile


def bulk(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, quoted patterns such as 'photos/**/*.jpg', Parquet files with a column 'image' of "
            "encoded pictures, or addresses of these such as s3://bucket/photos.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(metavar="DIR", help="Folder or address for the results; all workers must reach it."),
    ],
    model: Annotated[
        str,
        typer.Option(metavar="NAME|PATH", help="A bundled model, a checkpoint file or the folder of a run."),
    ] = "fcis-animals7",
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out objects below this score.")] = 0.5,
    tile: Tile = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that hold the model; as many as fit.", show_default=False),
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of each worker.")] = 1,
    gpus: Annotated[
        float,
        typer.Option(min=0, help="GPUs of each worker, also a share such as 0.5; 0 computes on the CPU."),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that run at once (worth it on a GPU).")] = 1,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures of one file of results; 512, or fewer in small jobs.", show_default=False
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A Ray cluster, or 'auto' on one of its machines; RAY_ADDRESS says so, too. Without, one is "
            "started on this machine for as long as the command runs.",
            show_default=False,
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment very many pictures on a Ray cluster, into Parquet.

    The same command goes on where it was interrupted; nothing is lost and nothing is there twice. What is no
    picture gets a row with an error and fails nothing: the exit status is 0. docs/bulk.md says more.
    """
    from instancefcn.bulk import need_ray

    need_ray()
    from instancefcn.bulk.job import own_files, prepare
    from instancefcn.bulk.listing import list_images

    # Mistakes in the sources and the model show before a cluster is started.
    listing = list_images(sources, own_files(out))
    from instancefcn.bulk.cluster import connected, room, run
    from instancefcn.bulk.worker import Power
    from instancefcn.models.checkpoint import locate
    from instancefcn.published.checkpoint import load_any_checkpoint

    load_any_checkpoint(model)
    checkpoint = locate(model).read_bytes()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    power = Power(cpus, "cuda" if gpus else "cpu", batch)
    with connected(address, max(cores, cpus * (workers or 1))):
        workers = workers or room(cpus, gpus)
        job = prepare(
            listing,
            out,
            checkpoint,
            model=model,
            score=score,
            tile=tile,
            chunk=chunk,
            workers=workers,
        )
        begun = job.chunks - len(job.todo)
        if begun:
            typer.echo(f"{begun} of {job.chunks} chunks are done already", err=True)
        summary = run(job, power, workers, gpus=gpus)
    if json_:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(summary)))
        return
    rate = f" ({summary.new_images / summary.seconds:.1f} pictures/s)" if summary.new_images else ""
    typer.echo(
        f"{summary.images} pictures, {summary.instances} objects, {summary.errors} errors in {out};"
        f" {summary.new_images} of the pictures in {summary.seconds:.1f} s{rate}"
    )
    if summary.interrupted:
        typer.echo(f"chunks were begun {summary.interrupted} times without being finished", err=True)
