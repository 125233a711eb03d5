"""How long a model takes for a picture, stage by stage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instancefcn.images.decoding import read_image
from instancefcn.inference.predictor import Predictor
from instancefcn.profiling import listen, stage

CONVOLUTIONS = ("backbone", "score maps", "backbone and score maps")
"""The stages in which the network's convolutions run."""
OUTSIDE = ("decode", "resize", "encode")
"""The stages before and after the network."""


@dataclass(frozen=True)
class Timing:
    """Medians over the pictures of the medians over the repeats, in seconds.

    Attributes:
        predict: from the decoded picture to instances with masks at its size.
        stages: parts of it, with "decode" (of the file) and "encode" (of the masks as run lengths) that are
            not, in the order in which they come; "other" is what no stage accounts for.
        share: all that the network does after its last convolution, as a part of the convolutions.
        instances: median number of instances.
        images: how many were measured.
    """

    predict: float
    stages: dict[str, float]
    share: float
    instances: float
    images: int


def time_predict(predictor: Predictor, paths: Sequence[Path], score: float, repeats: int) -> Timing:
    """Measure `predictor` on picture files, after one warm-up run on each.

    Args:
        score: as in `predict`: what scores less is left out.
        repeats: runs of each picture that count.

    Raises:
        ImageError: a file is no picture.
    """
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
    share = after / convolutions if convolutions else 0.0
    return Timing(statistics.median(wholes), stages, share, statistics.median(counts), len(rows))


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
