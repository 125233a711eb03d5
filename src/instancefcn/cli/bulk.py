"""`instancefcn bulk`."""

from __future__ import annotations

from typing import Annotated

import typer

from instancefcn.cli.options import Batch, MaxObjects, Model, Precision, Score, Tile


def bulk(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, quoted patterns such as 'photos/**/*.jpg', Parquet files with a column 'image' of "
            "encoded images, or addresses of these such as s3://bucket/photos.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(metavar="DIR", help="Folder or address for the results; all workers must reach it."),
    ],
    model: Model = "fcis-animals7",
    score: Score = 0.5,
    max_objects: MaxObjects = None,
    tile: Tile = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that hold the model; as many as fit.", show_default=False),
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="Cores per worker.")] = 1,
    gpus: Annotated[
        float,
        typer.Option(min=0, help="GPUs per worker, also a fraction such as 0.5; 0 uses the CPU."),
    ] = 0,
    batch: Batch = 1,
    precision: Precision = "auto",
    chunk: Annotated[
        int | None,
        typer.Option(min=1, help="Images per result file; 512, or fewer in small jobs.", show_default=False),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A Ray cluster, or 'auto' on one of its machines; RAY_ADDRESS is read, too. Without either, "
            "a cluster is started on this machine while the command runs.",
            show_default=False,
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment millions of images on a Ray cluster, into Parquet.

    The same command continues an interrupted job; nothing is lost or duplicated. An unreadable image gets a
    row with an error and the exit status is still 0. See docs/bulk.md.
    """
    from instancefcn.bulk.predict_bulk import predict_bulk

    summary = predict_bulk(
        sources,
        out,
        model,
        score=score,
        max_objects=max_objects,
        tile=tile,
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        batch=batch,
        precision=precision,
        chunk=chunk,
        address=address,
    )
    if json_:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(summary)))
        return
    rate = f" ({summary.new_images / summary.seconds:.1f} images/s)" if summary.new_images else ""
    typer.echo(
        f"{summary.images} images, {summary.instances} objects, {summary.errors} errors in {out};"
        f" {summary.new_images} of the images in {summary.seconds:.1f} s{rate}"
    )
    if summary.limited:
        typer.echo(
            f"images that reached the limit of objects and may hold more: {summary.limited}; raise the limit"
            " with --max-objects, in a new job",
            err=True,
        )
    if summary.interrupted:
        typer.echo(f"chunks were begun {summary.interrupted} times without being finished", err=True)
