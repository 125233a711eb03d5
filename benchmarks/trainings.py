"""What the benchmarks that train have in common."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import instancefcn
from instancefcn.errors import ConfigError
from instancefcn.training.devices import convolves_in_bfloat16
from instancefcn.training.run import METRICS
from instancefcn.training.setup import make_config


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The option --precision, by default what this processor does fastest."""
    fastest = "bf16-mixed" if convolves_in_bfloat16() else "32"
    parser.add_argument("--precision", choices=["32", "bf16-mixed"], default=fastest)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The option --sampling."""
    parser.add_argument("--sampling", choices=["ohem", "random"], help="of RoIs, instead of the model's own")


def trained(data: Path, model: str, folder: Path, **settings: Any) -> Any:
    """The figures at the end of the run in `folder`: it is begun, or goes on, or was finished and is read.

    Ends the program where the folder holds a run of other settings.
    """
    summary = folder / METRICS
    try:
        if not summary.is_file():
            resume = (folder / "last.ckpt").exists()
            instancefcn.train(data, model, out=folder, resume=resume, **settings)
        config = make_config(folder, True, {"model": model, **settings})
    except ConfigError as error:
        raise SystemExit(f"{folder}: {error}") from None
    found = json.loads(summary.read_text(encoding="utf-8"))
    if found["epochs"] != config.epochs:
        raise SystemExit(
            f"{folder} holds a run of {found['epochs']} epochs (now {config.epochs}): give another --out"
        )
    return found["final"]
