"""What the benchmarks that train have in common."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import instancefcn
from instancefcn.bfloat16 import bfloat16_is_native
from instancefcn.errors import ConfigError
from instancefcn.training.loop import METRICS
from instancefcn.training.setup import make_config


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The option --precision, by default what this CPU does fastest."""
    fastest = "bf16-mixed" if bfloat16_is_native("cpu") else "32"
    parser.add_argument("--precision", choices=["32", "bf16-mixed"], default=fastest)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The option --sampling."""
    parser.add_argument("--sampling", choices=["ohem", "random"], help="of RoIs, instead of the model's own")


def trained(data: Path, model: str, folder: Path, short_side: int, **settings: Any) -> Any:
    """The figures at the end of the run in `folder`, which is started, resumed, or read when it is finished.
    It is measured only at the end.

    Args:
        data, model: as for `instancefcn.train`.
        folder: of the run.
        short_side: of the images, in pixels; the long side has at most 5/3 of it.
        settings: as for `instancefcn.train`; the epochs among them.

    Ends the program where the folder holds a run of other settings.
    """
    sides = {"short_side": short_side, "long_side": short_side * 5 // 3}
    settings |= sides | {"evaluate_every": 0, "sheets_every": 0}
    summary = folder / METRICS
    try:
        if summary.is_file():
            make_config(folder, True, {"model": model, **settings})  # refuses what differs
        else:
            resume = (folder / "last.ckpt").exists()
            instancefcn.train(data, model, out=folder, resume=resume, **settings)
    except ConfigError as error:
        raise SystemExit(f"{folder}: {error}") from None
    found = json.loads(summary.read_text(encoding="utf-8"))
    if found["epochs"] != settings["epochs"]:
        raise SystemExit(
            f"{folder} holds a run of {found['epochs']} epochs (now {settings['epochs']}): give another --out"
        )
    return found["final"]
