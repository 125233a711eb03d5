"""How `predict` and `propose` print their results."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from instancefcn.console import Progress
from instancefcn.images.pages import split_page
from instancefcn.safe_text import one_line

if TYPE_CHECKING:
    from instancefcn.inference.predictor import FileResult
    from instancefcn.instances import Instances


LIMIT = "the limit of {} objects is reached, there may be more"


def print_results(
    results: Generator[FileResult, None, None],
    progress: Progress,
    as_json: bool,
    out: Path | None,
    *,
    ranked: bool = False,
) -> None:
    """Print each result as it comes, then their sum.

    Args:
        progress: what prints on standard error.
        as_json: also print one JSON object per result on standard output.
        out: the folder that results are written to; None when nothing is written.
        ranked: the results are as many of a ranking as were asked for: that is no limit to speak of.

    Raises:
        typer.Exit: with status 1, at the end, when an image or video was unreadable.
    """
    start = time.perf_counter()
    found: Counter[str] = Counter()
    with closing(results):
        for result in results:
            kind = "image" if result.frame is None else "frame"
            found[f"{kind}s"] += 1
            if result.instances is None:
                progress.line(one_line(f"error: {result.error}"))
            else:
                found[f"read {kind}s"] += 1
                found["objects"] += len(result.instances)
                full = not ranked and result.instances.limit_reached is not None
                found[f"full {kind}s"] += full
                if result.frame is None and (result.image is not None or result.large is not None):
                    limit = f"; {LIMIT.format(result.instances.limit_reached)}" if full else ""
                    progress.line(one_line(describe(result) + limit))
            if as_json:
                typer.echo(json.dumps(result_as_json(result)))
    parts = [f"{found['read images']} of {found['images']} images"] if found["images"] else []
    if found["read frames"] or not parts:
        parts.append(f"{found['read frames']} frames")
    read = found["read images"] + found["read frames"]
    where = f"; written to {out}" if out is not None and read else ""
    seconds = time.perf_counter() - start
    progress.line(one_line(f"{found['objects']} objects in {' and '.join(parts)}, {seconds:.1f} s{where}"))
    for kind in ("images", "frames"):
        if limited := found[f"full {kind}"]:
            progress.line(
                f"{kind} that reached the limit of objects and may hold more: {limited}; raise the limit with"
                " --max-objects"
            )
    if read < found["images"] + found["frames"]:
        raise typer.Exit(1)


def describe(result: FileResult) -> str:
    """For example "photo.jpg: 2 deer, 1 tiger (0.11 s)"."""
    from instancefcn.inference.predictor import DARK

    assert result.instances is not None
    text = f"{result.path}: {count_by_class(result.instances)} ({result.seconds:.2f} s)"
    brightest = result.brightest
    if brightest is not None and brightest < DARK:
        text += f"; nearly black, at most {brightest} of 255: see docs/predict.md, Dark images"
    if result.pages > 1 and split_page(result.path)[0] == result.path:
        text += f"; has {result.pages} pages, page 1 is used: --page N or --page all reads others"
    return text


def count_by_class(instances: Instances) -> str:
    """For example "2 deer, 1 tiger", the most frequent first; "nothing" without objects."""
    return ", ".join(f"{n} {name}" for name, n in Counter(instances.names).most_common()) or "nothing"


def result_as_json(result: FileResult) -> dict[str, Any]:
    """What `--json` prints for one image or frame."""
    from instancefcn.inference.writers import prediction

    head = {"file": str(result.path)} | ({} if result.frame is None else {"frame": result.frame})
    if result.instances is None:
        return {**head, "error": str(result.error)}
    return {**head, "precision": result.precision, **prediction(str(result.path), result.instances)}
