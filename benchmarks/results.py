"""What every benchmark writes with --json FILE: its command, where it ran, and its figures.

The files of docs/results/ are of this kind; `python tools/tables.py` makes the tables of the pages from them.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def write_result(path: Path, figures: Mapping[str, Any]) -> None:
    """Write `figures` as JSON, with "command", "versions" and "cpu" before them."""
    document = {"command": command(), "versions": versions(), "cpu": cpu_name(), **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def command() -> str:
    """The command line of this process without --json; of absolute paths only the last part."""
    script, *words = sys.argv
    if "--json" in words:
        index = words.index("--json")
        del words[index : index + 2]
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *words])


def versions() -> dict[str, str]:
    """Of Python and PyTorch."""
    return {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]}


def cpu_name() -> str:
    """What the system calls the CPU; "" where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
