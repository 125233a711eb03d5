"""Fixtures that several tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser, where the machine has one. One for all tests: a process runs one driver at a time."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: chromium or google-chrome")
    # A browser refuses to run as root in its sandbox, as containers would have it.
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data, weights and golden files that is not part of the repository; skips where there is
    none."""
    named = os.environ.get("INSTANCEFCN_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder} (set INSTANCEFCN_SHARED to the folder of shared data)")
    return folder


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder with 4 train and 2 val images of 128 px. Read only: all tests share it."""
    from instancefcn.data.synthetic import write_shapes

    return write_shapes(tmp_path_factory.mktemp("shapes"), train=4, val=2, size=128, seed=0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a disk of a size such as "256k"."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system")
    place = tmp_path / "disk"
    place.mkdir()

    def make(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a file system cannot be mounted here")
        return place

    yield make
    subprocess.run(["umount", str(place)], capture_output=True)
