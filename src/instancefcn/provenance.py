"""Where a result comes from: package versions and the Git revision."""

from __future__ import annotations

import contextlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def versions() -> dict[str, str]:
    """Versions of the packages that influence a result."""
    found = {}
    for name in ("instancefcn", "torch", "torchvision", "timm"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def git_revision() -> str | None:
    """Revision of the Git checkout that this code runs from, with "+changes" if it is not clean; None without
    one.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # not a checkout of something else
        return _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
