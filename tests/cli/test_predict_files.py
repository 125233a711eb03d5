"""What `predict` says about files that are unusual: pages, other formats, transparency."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fakes import coloured, save_coloured
from instancefcn.errors import ConfigError
from instancefcn.images import opening
from instancefcn.inference import sources
from instancefcn.inference.predict import predict
from instancefcn.inference.sources import find_sources

Run = Callable[..., Any]


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """Two pages: an empty one, and one with a red and a green object."""
    empty = Image.new("RGB", (120, 80), "white")
    empty.save(tmp_path / "stack.tif", save_all=True, append_images=[coloured()])
    return tmp_path / "stack.tif"


def test_the_first_page_is_used_and_the_others_are_named(run: Run, stack: Path) -> None:
    result = run("predict", stack, "--save", "none")
    assert result.exit_code == 0
    assert "stack.tif: nothing" in result.stderr
    assert "2 pages" in result.stderr
    result = run("predict", f"{stack}#page2", "--save", "none")
    assert "stack.tif#page2: 1 red, 1 green" in result.stderr
    assert "2 pages" not in result.stderr


def test_all_pages_have_results_of_their_own(run: Run, stack: Path, tmp_path: Path) -> None:
    save_coloured(tmp_path / "one.png")
    result = run(
        "predict", stack, tmp_path / "one.png", "--page", "all", "--out", "out", "--save", "coco,labelme"
    )
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == [
        "one.coco.json",
        "predictions.json",
        "stack#page1.coco.json",
        "stack#page2.coco.json",
    ]
    whole = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [one["file_name"] for one in whole["images"]] == ["stack.tif#page1", "stack.tif#page2", "one.png"]
    assert [one["image_id"] for one in whole["annotations"]] == [2, 2, 3, 3]
    # LabelMe would open the first page of the file: the page is stored inside.
    assert json.loads((tmp_path / "out/labelme/stack#page2.json").read_text())["imageData"]


def test_pages_resume(run: Run, stack: Path, tmp_path: Path) -> None:
    kept = [result.path for result in predict_all(stack, tmp_path)]
    assert kept == [f"{stack}#page1", f"{stack}#page2"]


def predict_all(stack: Path, tmp_path: Path) -> list[Any]:
    from fakes import FakeLoaded
    from instancefcn.inference.predictor import Predictor

    return list(predict(stack, Predictor(FakeLoaded(), "cpu"), out=tmp_path / "out", page="all", resume=True))


def test_a_page_that_is_not_there_is_an_error(run: Run, stack: Path) -> None:
    result = run("predict", stack, "--page", "3", "--save", "none")
    assert result.exit_code == 1
    assert "stack.tif#page3: has 2 pages" in result.stderr


@pytest.mark.parametrize("page", [0, -1, "first", ""])
def test_what_is_not_a_page(stack: Path, page: Any) -> None:
    with pytest.raises(ConfigError, match="page"):
        predict(stack, page=page)


@pytest.mark.parametrize("more", [["https://example.org/a.tif"], ["clip.mp4"]])
def test_only_files_have_pages(stack: Path, tmp_path: Path, more: list[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ConfigError, match="page"):
        predict([stack, *more], page=2)
    with pytest.raises(ConfigError, match="yolo"):
        predict(stack, page=2, save="yolo")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a phone and a camera, where the extra for HEIC is not installed."""
    for module in (opening, sources):
        monkeypatch.setattr(module, "heic_is_installed", lambda: False)
    folder = tmp_path / "phone"
    save_coloured(folder / "a.png")
    for name in (
        "IMG_1.HEIC",
        "IMG_2.heic",
        "b.jxl",
        "c.CR2",
        "notes.txt",
        "clip.mov",
        ".hidden",
        "Thumbs.db",
    ):
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
    return folder


def test_files_of_a_folder_that_are_not_read_are_counted_and_named(run: Run, phone: Path) -> None:
    result = run("predict", phone, "--save", "none", "--json")
    assert result.exit_code == 1
    first = result.stderr.splitlines()[0]
    for named in ("1 .cr2", "2 .heic", "instancefcn[heic]", "1 .jxl", "1 .mov", "1 .txt"):
        assert named in first
    assert "hidden" not in first
    assert "1 of 5 images" in result.stderr
    files = [Path(json.loads(line)["file"]).name for line in result.stdout.splitlines()]
    assert files == ["a.png", "IMG_1.HEIC", "IMG_2.heic", "b.jxl", "c.CR2"]


def test_other_files_do_not_change_the_status(run: Run, tmp_path: Path) -> None:
    save_coloured(tmp_path / "folder" / "a.png")
    (tmp_path / "folder" / "notes.txt").write_text("notes")
    result = run("predict", tmp_path / "folder", "--save", "none")
    assert result.exit_code == 0
    assert "not read: 1 .txt" in result.stderr


def test_own_results_are_not_named(run: Run, tmp_path: Path) -> None:
    save_coloured(tmp_path / "folder" / "a.png")
    for _ in range(2):
        result = run(
            "predict", tmp_path / "folder", "--out", tmp_path / "folder", "--save", "coco,overlay,csv"
        )
        assert "not read" not in result.stderr


def test_a_folder_of_other_formats_says_which(phone: Path) -> None:
    (phone / "a.png").unlink()
    with pytest.raises(Exception, match=r"2 \.heic .*1 \.jxl"):
        find_sources([phone])


def test_nothing_is_found_behind_transparency(run: Run, tmp_path: Path) -> None:
    hidden = coloured()
    hidden.putalpha(0)
    hidden.save(tmp_path / "a.png")
    assert "a.png: nothing" in run("predict", tmp_path / "a.png", "--save", "none").stderr


def test_cutouts_hold_no_hidden_colours(run: Run, tmp_path: Path) -> None:
    """The mask of a ring has a hole, whose pixels are inside its box."""
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[10:50, 20:70] = (255, 0, 0)
    pixels[25:35, 35:50] = (9, 9, 200)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    run("predict", tmp_path / "a.png", "--out", tmp_path / "out", "--save", "cutouts")
    with Image.open(tmp_path / "out" / "cutouts" / "a-1-red.png") as cut:
        values = np.asarray(cut)
    assert (values[..., 3] == 0).any()
    assert (values[values[..., 3] == 0] == 0).all()
