"""The time that a model takes for an image, stage by stage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import torch

from instancefcn.images.decoding import read_image
from instancefcn.inference.predictor import DEFAULT_MODEL, DEFAULT_SCORE, Predictor, load
from instancefcn.inference.sources import find_images
from instancefcn.profiling import listen, stage

CONVOLUTIONS = ("backbone", "score maps", "backbone and score maps")
"""The stages in which the network's convolutions run."""
OUTSIDE = ("decode", "resize", "encode")
"""The stages before and after the network."""


@dataclass(frozen=True)
class Timing:
    """Medians over the images of the medians over the repeats, in seconds.

    Attributes:
        model: name of the model.
        device: the torch device.
        precision: of the convolutions, "32" or "bf16".
        threads: of the CPU.
        short_side, long_side: of the network's input, in pixels.
        predict: from the decoded image to instances with masks at its size.
        stages: parts of it, in order, besides "decode" (of the file) and "encode" (of the masks as run
            lengths), which it does not include; "other" is the rest.
        share: all that the network does after its last convolution, as a fraction of the convolutions.
        instances: median number of instances.
        images: how many were measured.
    """

    model: str
    device: str
    precision: str
    threads: int
    short_side: int
    long_side: int
    predict: float
    stages: dict[str, float]
    share: float
    instances: float
    images: int


def time_predict(
    sources: Iterable[str | Path] | None = None,
    model: str | Path | Predictor = DEFAULT_MODEL,
    *,
    score: float = DEFAULT_SCORE,
    repeats: int = 5,
    threads: int | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> Timing:
    """Measure a model on image files, after one warm-up run on each.

    Args:
        sources: image files, folders or patterns; the bundled photographs when None.
        model: name of a bundled model, checkpoint file, folder of a run, or what `load` returned.
        score: as in `predict`: instances below it are left out.
        repeats: runs of each image that count.
        threads: of the CPU, for PyTorch; None leaves them as they are.
        device: of a model that is not loaded yet: "cpu" or "cuda"; None takes a GPU when there is one.
        precision: of a model that is not loaded yet: "32", "bf16" or "auto", see `load`.

    Raises:
        ImageError: a source gives nothing, or an image is unreadable.
        CheckpointError: there is no such model, or it is damaged.
    """
    with as_file(files("instancefcn") / "assets" / "demo") as bundled:
        paths = find_images(sources or [bundled])
        before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            predictor = (
                model if isinstance(model, Predictor) else load(model, device=device, precision=precision)
            )
            return _measure(predictor, str(model), paths, score, repeats)
        finally:
            torch.set_num_threads(before)


def _measure(predictor: Predictor, name: str, paths: list[Path], score: float, repeats: int) -> Timing:
    rows: list[dict[str, float]] = []
    wholes, counts = [], []
    for path in paths:
        runs = [_one(predictor, path, score) for _ in range(repeats + 1)][1:]
        wholes.append(statistics.median(whole for whole, _, _ in runs))
        counts.append(runs[0][2])
        rows.append({n: statistics.median(seconds[n] for _, seconds, _ in runs) for n in runs[0][1]})
    names = list(dict.fromkeys(name for row in rows for name in row))
    stages = {name: statistics.median(row.get(name, 0.0) for row in rows) for name in names}
    convolutions = sum(seconds for name, seconds in stages.items() if name in CONVOLUTIONS)
    after = sum(s for name, s in stages.items() if name not in (*CONVOLUTIONS, *OUTSIDE, "other"))
    return Timing(
        name,
        str(predictor.device),
        predictor.precision,
        torch.get_num_threads(),
        predictor.preprocessing.short_side,
        predictor.preprocessing.long_side,
        statistics.median(wholes),
        stages,
        after / convolutions if convolutions else 0.0,
        statistics.median(counts),
        len(rows),
    )


def _one(predictor: Predictor, path: Path, score: float) -> tuple[float, dict[str, float], int]:
    with listen() as seconds:
        with stage("decode"):
            image = read_image(path)
        start = time.perf_counter()
        (instances,) = predictor.run([image], score)
        whole = time.perf_counter() - start
        with stage("encode"):
            instances.rles()
    inside = sum(time for name, time in seconds.items() if name not in ("decode", "encode"))
    return whole, {**seconds, "other": max(0.0, whole - inside)}, len(instances)
