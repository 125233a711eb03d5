from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk_models import colours
from instancefcn.bulk.job import Job, prepare, summarise
from instancefcn.bulk.listing import list_images
from instancefcn.bulk.worker import ChunkWorker, Resources
from instancefcn.errors import ConfigError, ImageError

Begin = Callable[..., Job]


def test_a_job_is_found_again_with_what_is_left(photos: Path, begin: Begin) -> None:
    job = begin(photos)
    assert (job.images, job.chunk, job.todo, job.images_left) == (10, 4, (0, 1, 2), 10)
    ChunkWorker(job, Resources(), colours).do(1)
    again = begin(photos, chunk=None, workers=7)
    assert (again.chunk, again.todo, again.images_left) == (4, (0, 2), 6)


def test_small_jobs_have_chunks_for_every_worker(photos: Path, begin: Begin) -> None:
    assert begin(photos, chunk=None, workers=1).chunk == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 0.4}, r"--score \(was 0\.5, is 0\.4\)"),
        ({"tile": 64}, "--tile"),
        ({"precision": "bf16"}, r"--precision \(was 32, is bf16\)"),
        ({"chunk": 5}, "--chunk"),
        ({"checkpoint": b"others"}, "the model"),
    ],
)
def test_other_settings_are_refused(photos: Path, begin: Begin, change: dict[str, Any], message: str) -> None:
    begin(photos)
    with pytest.raises(ConfigError, match=message):
        begin(photos, **change)


def test_other_images_and_versions_are_refused(
    photos: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(photos)
    (photos / "09.png").unlink()
    monkeypatch.setattr("instancefcn.bulk.job.__version__", "99")
    with pytest.raises(ConfigError, match=r"version of instancefcn .*; the list of images"):
        begin(photos)


def test_foreign_or_damaged_folders_are_refused(photos: Path, begin: Begin, tmp_path: Path) -> None:
    begin(photos)
    manifest = tmp_path / "out" / "bulk.json"
    manifest.write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        begin(photos)
    manifest.unlink()
    (tmp_path / "out" / "images").mkdir()
    (tmp_path / "out" / "images" / "part-000000.parquet").touch()
    with pytest.raises(
        ConfigError, match=r"holds listing\.parquet and model\.safetensors and images/, but no bulk\.json"
    ):
        begin(photos)


@pytest.mark.parametrize(
    "name", ["listing.parquet", "model.safetensors", "instances/mine.json", "attempts/a.txt"]
)
def test_what_lay_there_before_is_not_touched(photos: Path, begin: Begin, tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"but no bulk\.json that describes their job"):
        begin(photos)
    assert path.read_text() == "mine"


def test_a_table_without_rows_holds_no_image(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(ImageError, match=r"a\.parquet: no image found"):
        prepare(list_images([str(tmp_path / "a.parquet")]), str(tmp_path / "out"), b"", model="m", score=0.5)
    assert not (tmp_path / "out").exists()


def test_the_manifest_keeps_no_options_of_addresses(photos: Path, begin: Begin, tmp_path: Path) -> None:
    listing = list_images([str(photos)])
    listing.sources = ("s3://bucket/photos?secret_key=abc",)
    job = prepare(listing, str(tmp_path / "out"), b"", model="m", score=0.5)
    assert job.sources == ("s3://bucket/photos?secret_key=abc",)
    assert json.loads((tmp_path / "out" / "bulk.json").read_text())["sources"] == ["s3://bucket/photos"]


def test_the_end_counts_what_lies_there(photos: Path, begin: Begin, tmp_path: Path) -> None:
    job = begin(photos)
    worker = ChunkWorker(job, Resources(), colours)
    for chunk in job.todo:
        worker.do(chunk)
    left = tmp_path / "out" / "images" / ".part-000001-killed.parquet"
    left.touch()
    (tmp_path / "out" / "attempts" / "000002.json").touch()
    mine = tmp_path / "out" / "instances" / "notes.txt"
    mine.touch()
    summary = summarise(job, 10, 1.0, 0)
    assert (summary.images, summary.instances, summary.errors) == (10, 18, 1)
    assert not left.exists()
    assert not list((tmp_path / "out" / "attempts").iterdir())
    assert mine.exists()
    parts = tmp_path / "out" / "images"
    (parts / "part-000007.parquet").write_bytes((parts / "part-000002.parquet").read_bytes())
    with pytest.raises(ConfigError, match="12 rows for 10 images"):
        summarise(job, 10, 1.0, 0)
    (parts / "part-000007.parquet").unlink()
    for name in ("images", "instances"):
        (tmp_path / "out" / name / "part-000002.parquet").unlink()
    with pytest.raises(ConfigError, match="8 images, but the job has 10"):
        summarise(job, 10, 1.0, 0)


def test_a_job_keeps_the_precision_that_auto_chose(photos: Path, begin: Begin) -> None:
    assert begin(photos, precision="bf16").precision == "bf16"
    assert begin(photos, precision="32", keep_precision=True).precision == "bf16"
