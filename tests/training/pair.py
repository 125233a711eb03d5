"""What two processes do together, each started with the variables that SLURM's srun would set:

    python pair.py FOLDER

FOLDER holds data/ (with images without objects), bad/ (an image is broken) and cut/ (a run that a single
process began). What each process saw is written to FOLDER/RANK.json. At the end
the second process drops dead.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_command  # noqa: F401  (the tiny models)
from instancefcn.evaluation.run import evaluate
from instancefcn.models.fcis import FCIS
from instancefcn.training.loop import train
from runs import PowerFailure

RANK = int(os.environ["SLURM_PROCID"])


def at_forward(number: int, action: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
    """Hand the losses of forward pass `number` (from 1) to `action`; returns how to stop that."""
    forward, calls = FCIS.forward, [0]

    def changed(self: FCIS, *args: Any, **kwargs: Any) -> Any:
        losses = forward(self, *args, **kwargs)
        calls[0] += self.training
        if self.training and calls[0] == number:
            action(losses)
        return losses

    FCIS.forward = changed  # type: ignore[method-assign]
    return lambda: setattr(FCIS, "forward", forward)


def fail(losses: dict[str, Any]) -> None:
    raise PowerFailure


def poison(losses: dict[str, Any]) -> None:
    if RANK == 1:
        losses["box"] = losses["box"] * float("nan")


def write(folder: Path, seen: dict[str, Any]) -> None:
    (folder / f"{RANK}.json").write_text(json.dumps(seen))


def said(action: Callable[[], object]) -> list[str]:
    """Name and text of the error that `action` ends with."""
    try:
        action()
    except (Exception, PowerFailure) as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def unreadable_here() -> None:
    """Training with images that the second process cannot find."""
    train("elsewhere" if RANK == 1 else "data", "tiny", out="unreadable", epochs=1, batch_size=2)


def main(folder: Path) -> None:
    os.chdir(folder)
    seen: dict[str, Any] = {}
    for model in ("tiny", "tiny_ohem", "tiny_proposals"):
        train("data", model, out=f"{model}-two", epochs=4, batch_size=2)
    train("data", "tiny", out="accumulated-two", epochs=1, batch_size=1, accumulate=2)
    seen["other batch"] = said(lambda: train("data", out="cut", resume=True))
    train("data", out="cut", resume=True, batch_size=2)
    seen["evaluated"] = evaluate("data", "tiny-two", share=True)
    stop = at_forward(8, fail)
    seen["killed"] = said(lambda: train("data", "tiny", out="killed", epochs=4, batch_size=2))
    stop()
    stop = at_forward(5, poison)
    seen["poisoned"] = said(lambda: train("data", "tiny", out="poisoned", epochs=4, batch_size=2))
    stop()
    stop = at_forward(5, lambda losses: os.kill(os.getpid(), signal.SIGTERM) if RANK == 1 else None)
    seen["asked"] = said(lambda: train("data", "tiny", out="asked", epochs=4, batch_size=2))
    stop()
    train("data", out="asked", resume=True)
    seen["bad"] = said(lambda: train("bad", "tiny", out="bad-two", epochs=1, batch_size=2))
    seen["unreadable"] = said(unreadable_here)
    write(folder, seen)
    at_forward(5, lambda losses: os._exit(9) if RANK == 1 else None)
    seen["left alone"] = said(lambda: train("data", "tiny", out="left", epochs=4, batch_size=2))
    write(folder, seen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
