"""Images whose results are known, as files and in a Parquet file, and a job of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from bulk_models import DEADLY
from fakes import coloured
from instancefcn.bulk.job import Job, prepare
from instancefcn.bulk.listing import list_images


def encoded(number: int) -> bytes:
    """A PNG file of a size of its own."""
    content = io.BytesIO()
    coloured(120 + number, 80).save(content, format="PNG")
    return content.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images, of which the fifth is cut off."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        content = encoded(number)
        (folder / f"{number:02d}.png").write_bytes(content[:100] if number == 4 else content)
    return folder


@pytest.fixture
def deadly(photos: Path) -> Path:
    """The second image kills every process in which `bulk_models` runs on it."""
    coloured(*DEADLY).save(photos / "01.png")
    return photos


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A Parquet file of ten images in row groups of three; the last row has none."""
    path = tmp_path / "table.parquet"
    columns = {"id": [f"p{i}" for i in range(10)], "image": [*(encoded(50 + i) for i in range(9)), None]}
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Job]:
    """Begin a job on sources, or find it again."""

    def begin(*sources: Any, out: str = str(tmp_path / "out"), **settings: Any) -> Job:
        settings = {"model": "m", "score": 0.5, "chunk": 4, **settings}
        checkpoint = settings.pop("checkpoint", b"weights")
        return prepare(list_images([str(source) for source in sources]), out, checkpoint, **settings)

    return begin
