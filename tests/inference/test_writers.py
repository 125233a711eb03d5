from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from faster_coco_eval import COCO
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fakes import NAMES, FakeLoaded, coloured, save_coloured
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.paths import output_names
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.inference.predictor import Predictor
from instancefcn.inference.writers import (
    CocoSummary,
    below_one_folder,
    write_coco_results,
    write_overlay,
)
from instancefcn.instances import Instances

PATH_PARTS = st.lists(st.sampled_from(["a", "b", "a_b", "A"]), min_size=1, max_size=4)


@pytest.fixture
def image() -> torch.Tensor:
    return to_uint8_rgb(coloured())


@pytest.fixture
def found(image: torch.Tensor) -> Instances:
    return Predictor(FakeLoaded(), "cpu").run([image])[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["x/cat.jpg", "y/dog.png"], ["cat", "dog"]),
        (["x/cat.jpg", "x/cat.png", "dog.png"], ["cat_jpg", "cat_png", "dog"]),
        (["x/cat.jpg", "y/cat.jpg"], ["x_cat", "y_cat"]),
        (["z/x/cat.jpg", "w/x/cat.jpg"], ["z_x_cat", "w_x_cat"]),
        (["x/cat.jpg", "y/Cat.jpg"], ["x_cat", "y_Cat"]),
        (["x/cat.jpg", "y/cat.jpg", "x_cat.jpg"], ["z", "z", "z"]),
        (["x/cat.jpg", "x/cat.jpg"], ["z", "z"]),
        ([], []),
    ],
)
def test_output_names(paths: list[str], expected: list[str]) -> None:
    names = output_names([Path("/", path) for path in paths])
    assert len({name.casefold() for name in names}) == len(paths)
    if "z" not in expected:
        assert names == expected


@given(st.lists(PATH_PARTS, max_size=8), st.sampled_from([".jpg", ".png", ""]), st.randoms())
@settings(deadline=None)
def test_output_names_never_collide(parts: list[list[str]], suffix: str, shuffle: random.Random) -> None:
    paths = [Path("/", *part).with_suffix(suffix) for part in parts]
    names = output_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert all(name and "/" not in name for name in names)


def test_output_names_do_not_depend_on_the_order() -> None:
    paths = [Path("/x/cat.jpg"), Path("/y/cat.jpg"), Path("/y/cat.png"), Path("/z/dog.png")]
    forwards = dict(zip(paths, output_names(paths), strict=True))
    assert forwards == dict(zip(paths[::-1], output_names(paths[::-1]), strict=True))


def test_overlay_is_an_image_of_the_same_size(tmp_path: Path, image: torch.Tensor, found: Instances) -> None:
    path = write_overlay(tmp_path / "new", "x", image, found)
    assert path == tmp_path / "new" / "x.overlay.png"
    with Image.open(path) as opened:
        assert opened.size == (120, 80)
        assert opened.format == "PNG"
    assert [file.name for file in path.parent.iterdir()] == ["x.overlay.png"]


def test_coco_results_and_summary_open_in_a_coco_reader(tmp_path: Path, found: Instances) -> None:
    summary = CocoSummary(NAMES, found.category_ids)
    summary.add(1, Path("photos/x.jpg"), found)
    summary.add(2, Path("photos/y.jpg"), found.filter(0.7))
    whole = COCO(str(summary.write(tmp_path)))
    assert whole.loadCats([8])[0]["name"] == "green"
    assert [image["file_name"] for image in whole.loadImgs([1, 2])] == ["x.jpg", "y.jpg"]
    assert [a["category_id"] for a in whole.loadAnns(whole.getAnnIds(imgIds=[1]))] == [3, 8]
    assert len(whole.loadAnns(whole.getAnnIds(imgIds=[2]))) == 1
    first = whole.loadAnns([1])[0]
    assert torch.equal(torch.from_numpy(whole.annToMask(first)).bool(), found.masks.paste(0))
    assert first["area"] == int(found.masks.areas()[0])

    results = write_coco_results(tmp_path, "x", 1, found)
    assert json.loads(results.read_text())[1]["category_id"] == 8
    detections = whole.loadRes(str(results))
    assert [a["score"] for a in detections.loadAnns(detections.getAnnIds())] == [0.9, 0.6]


def test_files_are_named_from_the_folder_that_holds_them_all(
    tmp_path: Path, found: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = CocoSummary(NAMES, found.category_ids)
    for number, source in enumerate(
        ("photos/a/x.jpg", str(tmp_path / "photos" / "y.jpg"), "https://b.org/z")
    ):
        summary.add(number, source, found)
    whole = json.loads(summary.write(Path("out")).read_text())
    assert whole["info"] == {"folder": "../photos"}
    assert [image["file_name"] for image in whole["images"]] == ["a/x.jpg", "y.jpg", "https://b.org/z"]
    assert below_one_folder(["x.jpg"]) == (tmp_path, ["x.jpg"])
    assert below_one_folder(["https://b.org/z"])[1] == ["https://b.org/z"]
    assert below_one_folder([])[1] == []


def test_what_was_found_can_be_trained_on(tmp_path: Path, image: torch.Tensor, found: Instances) -> None:
    for name in ("a/x.png", "y.png"):
        save_coloured(tmp_path / "data" / "images" / name)
    summary = CocoSummary(NAMES, found.category_ids)
    for number, name in enumerate(("a/x.png", "y.png"), start=1):
        summary.add(number, tmp_path / "data" / "images" / name, found)
    summary.write(tmp_path / "data", "train.json")
    data = open_dataset(tmp_path / "data", "train")
    assert [len(image.annotations) for image in data.images] == [2, 2]


def test_output_names_leave_room_for_what_writers_add() -> None:
    stems = [stem * 80 + end for stem in ("写", "a", "ab") for end in ("x", "y")]
    names = output_names([Path("/", f"{stem}.jpg") for stem in stems])
    assert len(set(names)) == 6
    assert names[2] == "a" * 80 + "x"
    assert all(len(name.encode()) <= 150 for name in names)
    assert names[0].startswith("写写")
