from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet as pq

from bulk_models import UNWANTED, colours
from fakes import FakeLoaded, coloured
from instancefcn.bulk import reading, worker
from instancefcn.bulk.job import Job, summarise
from instancefcn.bulk.worker import ChunkWorker, Resources
from instancefcn.errors import ConfigError, ImageError, InstanceFCNError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.inference.predictor import Predictor

Begin = Callable[..., Job]


class Died(BaseException):
    """What a process that ends looks like in a test."""


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(status: int) -> None:
        raise Died

    monkeypatch.setattr(os, "_exit", die)


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    return list(pq.read_table(out / name).sort_by("image").to_pylist())


def do_all(job: Job, **resources: Any) -> None:
    one = ChunkWorker(job, Resources(**resources), colours)
    for chunk in job.todo:
        one.do(chunk)


@pytest.mark.parametrize("batch", [1, 3])
def test_results_are_those_of_the_predictor(photos: Path, begin: Begin, tmp_path: Path, batch: int) -> None:
    do_all(begin(photos), batch=batch)
    images, instances = rows(tmp_path / "out", "images"), rows(tmp_path / "out", "instances")
    paths = sorted(photos.iterdir())
    assert [(row["image"], row["file"]) for row in images] == list(enumerate(map(str, paths)))
    predictor = Predictor(FakeLoaded(), "cpu")
    for number, path in enumerate(paths):
        own = [row for row in instances if row["image"] == number]
        if number == 4:
            assert "04.png" in images[4]["error"]
            assert images[4]["width"] is images[4]["instances"] is None
            assert own == []
            continue
        found = predictor(path)
        assert (images[number]["height"], images[number]["width"]) == found.image_size
        assert images[number]["instances"] == len(own) == len(found) == 2
        assert [row["number"] for row in own] == [1, 2]
        assert [row["class"] for row in own] == found.names
        assert [row["category_id"] for row in own] == [3, 8]
        assert torch.equal(torch.tensor([row["score"] for row in own]), found.scores)
        assert torch.equal(
            torch.tensor([[row[s] for s in ("x1", "y1", "x2", "y2")] for row in own]), found.boxes
        )
        encodings = [{"size": [row["height"], row["width"]], "counts": row["rle"]} for row in own]
        masks = CroppedMasks.from_rles(encodings, found.image_size)
        assert torch.equal(masks.dense(), found.dense_masks())
        assert [row["area"] for row in own] == found.masks.areas().tolist()


def test_parquet_rows(table: Path, begin: Begin, tmp_path: Path) -> None:
    do_all(begin(table))
    images = rows(tmp_path / "out", "images")
    assert [row["id"] for row in images] == [f"p{i}" for i in range(10)]
    assert [row["file"] for row in images] == [f"{table}#{i}" for i in range(10)]
    assert [row["width"] for row in images] == [*range(170, 179), None]
    assert "no image in this row" in images[9]["error"]


def test_parquet_files_of_hugging_face(table: Path, begin: Begin, tmp_path: Path) -> None:
    contents = pq.read_table(table)["image"].to_pylist()
    structs = [None if one is None else {"bytes": one, "path": "x.png"} for one in contents]
    pq.write_table(pa.table({"image": structs}), table)
    do_all(begin(table))
    assert [row["width"] for row in rows(tmp_path / "out", "images")] == [*range(170, 179), None]


def test_a_damaged_row_group_costs_its_rows(table: Path, photos: Path, begin: Begin, tmp_path: Path) -> None:
    content = bytearray(table.read_bytes())
    group = pq.ParquetFile(table).metadata.row_group(1).column(1)
    start, size = group.dictionary_page_offset or group.data_page_offset, group.total_compressed_size
    content[start : start + size] = bytes(size)
    table.write_bytes(content)
    do_all(begin(table, photos, chunk=20))
    errors = [row["image"] for row in rows(tmp_path / "out", "images") if row["error"]]
    assert errors == [3, 4, 5, 9, 14]


def test_a_chunk_that_is_done_is_not_done_again(photos: Path, begin: Begin, tmp_path: Path) -> None:
    job = begin(photos)
    one = ChunkWorker(job, Resources(), colours)
    first = one({"chunk": [1, 2]})
    assert first["chunk"] == [1, 2]
    assert (first["images"], first["instances"], first["errors"]) == ([4, 2], [6, 4], [1, 0])
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/*/*.parquet"))]
    calls = len(one.predictor.network.calls)
    second = one({"chunk": [1, 2]})
    assert second | {"seconds": None} == first | {"seconds": None}
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/*/*.parquet"))] == times
    assert len(one.predictor.network.calls) == calls


def test_an_image_that_kills_becomes_an_error(
    deadly: Path, begin: Begin, tmp_path: Path, mortal: None
) -> None:
    job = begin(deadly)
    for _ in range(3):
        with pytest.raises(Died):
            ChunkWorker(job, Resources(), colours).do(0)
    assert ChunkWorker(job, Resources(), colours).do(0)["interrupted"] == 3
    errors = [row["error"] for row in rows(tmp_path / "out", "images")]
    assert [error is None for error in errors] == [True, False, True, True]
    assert "01.png: the process died 2 times" in errors[1]
    assert list((tmp_path / "out" / "attempts").iterdir()) == []


def test_a_machine_that_kills_everything_stops_the_job(
    photos: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any, **settings: Any) -> None:
        raise Died

    job = begin(photos, chunk=10)
    one = ChunkWorker(job, Resources(), colours)
    monkeypatch.setattr(one.predictor.network, "forward", die)
    monkeypatch.setattr("instancefcn.bulk.worker.MAX_AT_FAULT", 2)
    for _ in range(1 + 3 * 2):
        with pytest.raises(Died):
            one.do(0)
    with pytest.raises(ConfigError, match="3 of its images"):
        one.do(0)


def test_an_image_on_which_the_network_fails_becomes_an_error(
    photos: Path, begin: Begin, tmp_path: Path
) -> None:
    coloured(*UNWANTED).save(photos / "02.png")
    do_all(begin(photos))
    errors = [row["error"] for row in rows(tmp_path / "out", "images")]
    assert [number for number, error in enumerate(errors) if error] == [2, 4]
    assert "02.png: the network failed (RuntimeError: shapes do not match)" in errors[2]


def test_a_network_that_fails_on_all_stops_the_job(
    photos: Path, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ChunkWorker(begin(photos, chunk=10), Resources(), colours)
    monkeypatch.setattr(one.predictor.network, "forward", lambda: None)
    with pytest.raises(InstanceFCNError, match=r"none of its 10 images .* 9 of them .*TypeError"):
        one.do(0)
    assert not (tmp_path / "out" / "images").exists()


def test_a_lost_device_ends_the_process(
    photos: Path, begin: Begin, mortal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured(*UNWANTED).save(photos / "02.png")
    monkeypatch.setattr(worker, "_lost", lambda device: True)
    with pytest.raises(Died):
        ChunkWorker(begin(photos), Resources(), colours).do(0)


def test_images_that_all_vanish_stop_the_job(photos: Path, begin: Begin, tmp_path: Path) -> None:
    job = begin(photos)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(InstanceFCNError, match=r"none of its 4 images .* cannot be fetched"):
        ChunkWorker(job, Resources(), colours).do(0)
    assert begin(tmp_path / "elsewhere", out=str(tmp_path / "other")).images == 10


def test_an_image_that_vanishes_is_an_error(photos: Path, begin: Begin, tmp_path: Path) -> None:
    job = begin(photos)
    (photos / "03.png").unlink()
    ChunkWorker(job, Resources(), colours).do(0)
    assert "cannot be fetched" in rows(tmp_path / "out", "images")[3]["error"]


def test_a_store_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        asked = 0

        def open_input_file(self, path: str) -> pa.NativeFile:
            self.asked += 1
            if self.asked < 3:
                raise OSError("503 slow down")
            return pa.PythonFile(__import__("io").BytesIO(path.encode()), mode="r")

    monkeypatch.setattr(reading, "PAUSE", 0)
    store: Any = Store()
    assert reading.fetch("s3://bucket/key", store) == b"bucket/key"
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 3)
    with pytest.raises(ImageError, match="is larger"):
        reading.fetch("s3://bucket/key", store)
    store.asked = -1
    with pytest.raises(reading.FetchError, match="503"):
        reading.fetch("s3://bucket/key", store)


def test_results_and_images_in_an_object_store(photos: Path, begin: Begin, tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for path in photos.iterdir():
        store.pipe_file(f"{tmp_path}/in/{path.name}", path.read_bytes())
    job = begin(f"memory://{tmp_path}/in/*.png", out=f"memory://{tmp_path}/results")
    do_all(job)
    content = store.cat_file(f"{tmp_path}/results/images/part-000002.parquet")
    files = pq.read_table(pa.BufferReader(content))["file"].to_pylist()
    assert files == [f"memory://{tmp_path}/in/{name}.png" for name in ("08", "09")]
    assert begin(f"memory://{tmp_path}/in/*.png", out=f"memory://{tmp_path}/results").todo == ()


def test_the_limit_of_objects_and_who_reached_it(photos: Path, begin: Begin, tmp_path: Path) -> None:
    job = begin(photos, max_objects=1)
    do_all(job)
    images = rows(tmp_path / "out", "images")
    assert [row["instances"] for row in images] == [None if number == 4 else 1 for number in range(10)]
    assert [row["limit_reached"] for row in images] == [None if number == 4 else 1 for number in range(10)]
    assert summarise(job, 10, 1.0, 0).limited == 9
    with pytest.raises(ConfigError, match="--max-objects"):
        begin(photos, max_objects=2)
