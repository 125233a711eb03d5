"""A run of so many minutes: how many batches it will have trained on at its end."""

from __future__ import annotations

TRIAL = 4
"""Images of val on which the last evaluation is timed beforehand."""
EVALUATION = 0.25
"""The last evaluation takes at most this share of the minutes: of a larger val it measures a part."""


class Budget:
    """Minutes of a run, in which its evaluations count and time is kept free for the last one.

    How many batches they allow follows from the pace so far. The first batch of an attempt says nothing about
    the pace: reading processes start and kernels are compiled for it.

    Args:
        minutes: of the whole run.
        seen: batches that earlier attempts have trained on.

    Attributes:
        evaluation: seconds that an evaluation of all of val takes; None before one was timed.
    """

    def __init__(self, minutes: float, seen: int = 0) -> None:
        self.seconds = 60 * minutes
        self.evaluation: float | None = None
        self._first, self._start, self._paused = seen + 1, 0.0, 0.0

    def total(self, seen: int, spent: float) -> int:
        """Batches that the run will have trained on at its end, at least one more than now, and
        three in each attempt.

        Args:
            seen: batches so far.
            spent: seconds so far.
        """
        if seen <= self._first:
            self._start = spent
            return self._first + 2
        pace = (spent - self._start - self._paused) / (seen - self._first)
        left = self.seconds - spent - self.share() * (self.evaluation or 0.0)
        return seen + max(1, round(left / max(pace, 1e-9)))

    def share(self) -> float:
        """Of val, how much the last evaluation measures: all of it, as far as is known, or less."""
        allowed = EVALUATION * self.seconds
        return allowed / self.evaluation if self.evaluation and self.evaluation > allowed else 1.0

    def pause(self, seconds: float) -> None:
        """So many seconds went by, but not for batches."""
        self._paused += seconds
