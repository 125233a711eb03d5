from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from pyarrow.fs import LocalFileSystem

from fakes import save_coloured
from instancefcn.bulk.job import own_files
from instancefcn.bulk.listing import cut, list_images
from instancefcn.bulk.reading import FetchError, fetch
from instancefcn.errors import ConfigError, ImageError


def names(*sources: Any) -> list[str]:
    return [file.rsplit("/", 1)[1] for file in list_images([str(one) for one in sources]).file]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "deep/c.png", "deep/er/d.png"):
        save_coloured(tmp_path / "tree" / name)
    (tmp_path / "tree" / "notes.txt").write_text("no image")
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "tree" / "t.parquet")
    return tmp_path / "tree"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_paths_and_addresses_mean_the_same(tree: Path, prefix: str) -> None:
    assert names(f"{prefix}{tree}") == ["a.jpg", "b.png", "t.parquet"]
    assert names(f"{prefix}{tree}/*.png") == ["b.png"]
    assert names(f"{prefix}{tree}/**/*.png") == ["b.png", "c.png", "d.png"]
    assert names(f"{prefix}{tree}/*/c.png") == ["c.png"]
    assert names(f"{prefix}{tree}/b.png", f"{prefix}{tree}") == ["b.png", "a.jpg", "t.parquet"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere"),
        ("", "an empty source was given"),
        ("file:///nowhere/*.jpg", "no image and no Parquet file"),
        ("tree/notes/*.jpg", "no file matches"),
        ("what://bucket/key", "do not support what://"),
    ],
)
def test_what_gives_nothing_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tree.parent)
    with pytest.raises((ImageError, ConfigError), match=message):
        list_images([source])


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize("out", ["", "/deep/out"])
def test_a_job_does_not_read_what_it_writes(tree: Path, prefix: str, out: str) -> None:
    own = own_files(f"{tree}{out}")
    source = f"{prefix}{tree}{'/**/*' if out else ''}"
    before = list_images([source], own).digest()
    for name in ("listing.parquet", "bulk.json", "model.safetensors", "images/part-000000.parquet"):
        (tree / out[1:] / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / out[1:] / name).write_bytes(b"")
    assert list_images([source], own).digest() == before
    save_coloured(tree / "images" / "new.png")  # only results are left out
    pq.write_table(pa.table({"image": [b""]}), tree / "deep" / "listing.parquet")
    assert {"new.png", "listing.parquet"} <= set(
        map(os.path.basename, list_images([f"{tree}/*/*"], own).file)
    )
    with pytest.raises(ImageError, match="holds only results of this job"):
        list_images([f"{tree}{out}/images/*.parquet"], own)


def test_the_digest_knows_names_sizes_times_and_order(tree: Path) -> None:
    def digest() -> str:
        return list_images([str(tree)]).digest()

    seen = {digest()}
    assert digest() in seen
    os.utime(tree / "a.jpg", ns=(1, 1))
    seen.add(digest())
    with (tree / "a.jpg").open("ab") as file:
        file.write(b"more")
    os.utime(tree / "a.jpg", ns=(1, 1))
    seen.add(digest())
    (tree / "a.jpg").rename(tree / "z.jpg")
    seen.add(digest())
    assert len(seen) == 4


def test_chunks_cross_the_borders_of_files(photos: Path, table: Path) -> None:
    listing = list_images([str(table), str(photos)])
    chunks = [piece.to_pylist() for piece in cut(listing, listing.counts(), 8)]
    assert [sum(piece["count"] for piece in chunk) for chunk in chunks] == [8, 8, 4]
    first, second = chunks[1][:2]
    assert (first["row"], first["count"]) == (8, 2)
    assert (second["row"], second["count"], second["file"]) == (None, 1, str(photos / "00.png"))


def test_parquet_files_without_images_are_named_all_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["text"], "label": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"no Parquet")
    with pytest.raises(
        ImageError, match=r"(?s)a\.parquet: has no column 'image'.*b\.parquet: cannot be read"
    ):
        list_images([str(tmp_path)]).counts()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")
def test_a_name_that_is_not_utf8_is_an_image_with_an_error(photos: Path) -> None:
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    listing = list_images([str(photos)])
    files = [row["file"] for table in cut(listing, listing.counts(), 4) for row in table.to_pylist()]
    (file,) = (file for file in files if "caf" in file)
    assert file.endswith(r"caf\udce9.png")
    with pytest.raises(FetchError, match="cannot be fetched"):
        fetch(file, LocalFileSystem())


def test_what_a_folder_holds_beside_images_is_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.jxl", "c.jxl", "notes.txt", "d.parquet", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    expected = "not read: 2 .jxl, 1 .txt"
    assert list_images([str(tmp_path)]).left_out == expected
    assert list_images([f"file://{tmp_path}"]).left_out == expected
    assert list_images([str(tmp_path / "*.png")]).left_out == ""
