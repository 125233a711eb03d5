"""The learning rate over a run, as a plain function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal


def learning_rate_factor(
    step: int, total: int, warmup: int, schedule: Literal["cosine", "step"], milestones: Sequence[float] = ()
) -> float:
    """Multiplier of the peak learning rate for optimizer step `step` (the first is 0).

    The warm-up is linear, 1 / warmup in step 0, and never takes more than a third of a short run. Cosine
    falls from 1 after the warm-up to 1 % at the last step. Step divides by ten after each part of the run in
    `milestones`.

    Raises:
        ValueError: `total` is not positive.
    """
    if total < 1:
        raise ValueError(f"a run needs at least one step, got {total}")
    warmup = min(warmup, total // 3)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "step":
        return 0.1 ** sum(step >= part * total for part in milestones)
    progress = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))
