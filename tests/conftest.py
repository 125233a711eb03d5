"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
    """A COCO folder with 4 train and 2 val pictures of 128 px. Read only: all tests share it."""
    from instancefcn.data.shapes import write_shapes

    return write_shapes(tmp_path_factory.mktemp("shapes"), train=4, val=2, size=128, seed=0)
