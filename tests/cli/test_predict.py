from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fakes import interrupt_at, save_coloured
from instancefcn.cli.main import app
from instancefcn.folder_lock import only_writer
from instancefcn.models import checkpoint, zoo

Run = Callable[..., Any]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_overlay_and_coco_for_each_image(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run("predict", photos / "a.png", photos / "b.jpg", "--out", "results")
    assert result.exit_code == 0, result.output
    assert listing(tmp_path / "results") == [
        "a.coco.json",
        "a.overlay.png",
        "b.coco.json",
        "b.overlay.png",
        "predictions.json",
    ]
    with Image.open(tmp_path / "results" / "b.overlay.png") as overlay:
        assert overlay.size == (200, 100)
    found = json.loads((tmp_path / "results" / "a.coco.json").read_text())
    assert [one["category_id"] for one in found] == [3, 8]
    assert [one["score"] for one in found] == [0.9, 0.6]
    assert found[0]["segmentation"]["size"] == [80, 120]
    whole = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert [image["id"] for image in whole["images"]] == [1, 2]
    assert [a["image_id"] for a in whole["annotations"]] == [1, 1, 2, 2]
    assert "1 red, 1 green" in result.stderr
    assert "4 objects in 2 of 2 images" in result.stderr


def test_unreadable_files_are_reported_and_the_others_are_processed(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    result = run("predict", photos, "--out", "results")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "broken.jpg" in errors[0]
    assert "text.png" in errors[1]
    assert "4 objects in 2 of 4 images" in result.stderr
    assert {"a.coco.json", "b.coco.json", "predictions.json"} <= set(listing(tmp_path / "results"))
    assert "broken.coco.json" not in listing(tmp_path / "results")
    # Ids count the images as they were given, readable or not.
    assert json.loads((tmp_path / "results" / "b.coco.json").read_text())[0]["image_id"] == 2


def test_images_that_share_a_name_do_not_overwrite_each_other(run: Run, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "a.png"
    other.parent.mkdir()
    other.write_bytes((photos / "a.png").read_bytes())
    result = run("predict", photos / "a.png", other, "--out", "results", "--save", "overlay")
    assert result.exit_code == 0, result.output
    assert listing(tmp_path / "results") == ["other_a.overlay.png", "photos_a.overlay.png"]


def test_results_beside_the_images_are_no_images_the_next_time(run: Run, photos: Path) -> None:
    for _ in range(2):
        result = run("predict", photos, "--out", photos)
    assert "in 2 of 4 images" in result.stderr


def test_score(run: Run, photos: Path, tmp_path: Path) -> None:
    run("predict", photos / "a.png", "--out", "results", "--score", "0.7")
    assert len(json.loads((tmp_path / "results" / "a.coco.json").read_text())) == 1
    assert run("predict", photos / "a.png", "--score", "7").exit_code == 2


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        ("overlay", ["a.overlay.png"]),
        (" coco ", ["a.coco.json", "predictions.json"]),
        ("coco,overlay", ["a.coco.json", "a.overlay.png", "predictions.json"]),
    ],
)
def test_save(run: Run, photos: Path, tmp_path: Path, save: str, expected: list[str]) -> None:
    assert run("predict", photos / "a.png", "--out", "results", "--save", save).exit_code == 0
    assert listing(tmp_path / "results") == expected


def test_json_lines_on_standard_output(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run("predict", photos, "--json", "--save", "none")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.png", "b.jpg", "broken.jpg", "text.png"]
    assert "error" in lines[2]
    assert lines[0]["width"] == 120
    first = lines[0]["instances"][0]
    assert first["class"] == "red"
    assert first["score"] == 0.9
    assert first["area"] == pytest.approx(600, rel=0.1)
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg"),
        (["*.jpg"], "*.jpg"),
        (["photos", "--save", "pdf"], "pdf"),
        (["photos", "--save", ""], "save"),
        (["ftp://example.org/a.png"], "ftp"),
        (["photos", "--explain", "--tile", "64"], "tile"),
        (["photos", "--device", "toaster"], "toaster"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(
    run: Run, photos: Path, words: list[str], message: str
) -> None:
    result = run("predict", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_unknown_model(photos: Path) -> None:
    result = CliRunner().invoke(app, ["predict", str(photos), "--model", "no-such-model"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no-such-model")


def test_a_real_checkpoint(photos: Path, tmp_path: Path) -> None:
    """A small untrained network, through file, preprocessing, network and writers."""
    torch.manual_seed(0)
    spec = zoo.replace(zoo.FCIS_LITE, short_side=64, long_side=96)
    network = zoo.build(spec, class_names=("cat", "dog"), category_ids=(4, 9))
    path = tmp_path / "tiny.safetensors"
    checkpoint.save_checkpoint(path, network.state_dict(), spec, network.classes, half=True)
    out = tmp_path / "results"
    result = CliRunner().invoke(
        app, ["predict", str(photos / "b.jpg"), "--model", str(path), "--out", str(out), "--score", "0.1"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads((out / "b.coco.json").read_text())
    assert 0 < len(found) <= 100
    assert {one["category_id"] for one in found} <= {4, 9}
    assert all(one["segmentation"]["size"] == [100, 200] for one in found)
    assert re.search(r"b\.jpg: \d+ (cat|dog)", result.stderr)


def test_all_kinds_at_once(run: Run, photos: Path, tmp_path: Path) -> None:
    save = "overlay,coco,yolo,labelme,cutouts,labelmap,csv"
    result = run("predict", photos / "a.png", photos / "b.jpg", "--out", "results", "--save", save)
    assert result.exit_code == 0, result.output
    out = tmp_path / "results"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "a.coco.json",
        "a.overlay.png",
        "b.coco.json",
        "b.overlay.png",
        "classes.txt",
        *(f"cutouts/{name}.png" for name in ("a-1-red", "a-2-green", "b-1-red", "b-2-green")),
        "labelmaps/a.png",
        "labelmaps/b.png",
        "labelme/a.json",
        "labelme/b.json",
        "labels/a.txt",
        "labels/b.txt",
        "objects.csv",
        "predictions.json",
    ]
    assert len((out / "objects.csv").read_text().splitlines()) == 5


def test_many_images_keep_their_order_though_threads_read_and_write(run: Run, tmp_path: Path) -> None:
    for number in range(30):
        save_coloured(tmp_path / "many" / f"{number:02}.png", 64 + 4 * (number % 3), 64)
    result = run("predict", "many", "--out", "results", "--json", "--batch", "4")
    assert result.exit_code == 0, result.output
    expected = [f"{number:02}.png" for number in range(30)]
    assert [Path(json.loads(line)["file"]).name for line in result.stdout.splitlines()] == expected
    reported = [line.split(":")[0] for line in result.stderr.splitlines() if line.startswith("many")]
    assert [Path(line).name for line in reported] == expected
    whole = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert [Path(image["file_name"]).name for image in whole["images"]] == expected
    assert [a["id"] for a in whole["annotations"]] == list(range(1, 61))
    assert [a["image_id"] for a in whole["annotations"]] == [n // 2 + 1 for n in range(60)]


def test_an_error_while_writing_ends_the_run(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file, not a folder")
    result = run("predict", photos / "a.png", "--out", "results")
    assert result.exit_code == 2
    assert "error: results: " in result.stderr


def test_an_interrupt_leaves_no_half_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        save_coloured(tmp_path / "many" / f"{number}.png", 64, 64)
    interrupt_at(monkeypatch, 3)
    result = run("predict", "many", "--out", "results")
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    written = listing(tmp_path / "results")
    assert not [name for name in written if name.startswith(".")]
    assert "predictions.json" not in written
    for name in written:
        if name.endswith(".png"):
            with Image.open(tmp_path / "results" / name) as image:
                image.load()


def test_tiles(run: Run, tmp_path: Path) -> None:
    save_coloured(tmp_path / "large.png", 300, 200)
    result = run("predict", "large.png", "--tile", "96", "--json", "--save", "none")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["instances"]
    assert [one["class"] for one in found] == ["red", "green"]
    assert found[0]["box"] == pytest.approx([20, 10, 50, 30], abs=1)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_a_name_that_is_not_text_is_written(run: Run, tmp_path: Path) -> None:
    name = os.fsdecode(b"B\xe4r")
    (tmp_path / "photos").mkdir()
    save_coloured(tmp_path / "photos" / "a.png")
    save_coloured(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / f"{name}2.png").write_text("not an image")
    kinds = "overlay,coco,yolo,labelme,cutouts,labelmap,csv"
    result = run("predict", "photos", "--out", "results", "--save", kinds, "--json")
    assert result.exit_code == 1, result.output
    assert f"photos/{ascii(name)[1:-1]}.png: 1 red, 1 green" in result.stderr
    assert f"error: photos/{ascii(name)[1:-1]}2.png" in result.stderr
    assert "4 objects in 2 of 3 images" in result.stderr
    out = tmp_path / "results"
    for file in (
        f"{name}.overlay.png",
        f"{name}.coco.json",
        f"labels/{name}.txt",
        f"labelme/{name}.json",
        f"cutouts/{name}-1-red.png",
        f"labelmaps/{name}.png",
    ):
        assert (out / file).is_file(), file
    assert not (out / "unfinished.jsonl").exists()
    # JSON can hold the name, so that a program finds the file; a table cannot.
    said = [json.loads(line)["file"] for line in result.stdout.splitlines()]
    assert said == [f"photos/{name}.png", f"photos/{name}2.png", "photos/a.png"]
    whole = json.loads((out / "predictions.json").read_text())
    assert {image["file_name"] for image in whole["images"]} == {"a.png", f"{name}.png"}
    assert whole["info"] == {"folder": "../photos"}
    shapes = json.loads((out / "labelme" / f"{name}.json").read_text())
    assert (out / "labelme" / shapes["imagePath"]).is_file()
    with (out / "objects.csv").open(encoding="utf-8", newline="") as file_:
        rows = list(csv.DictReader(file_))
    assert [row["class"] for row in rows] == ["red", "green"] * 2
    assert {row["file"] for row in rows} == {"photos/a.png", f"photos/{ascii(name)[1:-1]}.png"}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_a_name_does_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    save_coloured(tmp_path / "a\x1b[2J.png")
    result = run("predict", "a\x1b[2J.png", "--save", "none")
    assert "a\\x1b[2J.png: 1 red, 1 green" in result.stderr
    save_coloured(tmp_path / "x\nerror: p: 9 deer\n.png")
    assert "x\\nerror: p: 9 deer\\n.png: 1 red" in run("predict", "x*.png", "--save", "none").stderr


def test_a_nearly_black_image_is_reported(run: Run, photos: Path, tmp_path: Path) -> None:
    """A camera's 12 bits in 16."""
    Image.fromarray(np.full((40, 60), 4095, np.uint16)).save(tmp_path / "dark.png")
    said = run("predict", "dark.png", "photos/a.png", "--save", "none").stderr
    dark, bright = (line for line in said.splitlines() if ".png: " in line)
    assert "at most 16 of 255" in dark
    assert "black" not in bright


def test_explanations_of_a_real_network(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = zoo.replace(zoo.FCIS_LITE, short_side=64, long_side=96)
    network = zoo.build(spec, class_names=("cat", "dog"), category_ids=(4, 9))
    path = tmp_path / "tiny.safetensors"
    checkpoint.save_checkpoint(path, network.state_dict(), spec, network.classes, half=True)
    words = ["predict", str(photos / "b.jpg"), "--model", str(path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--score", "0.1", "--explain", "--save", "none"])
    assert result.exit_code == 0, result.output
    assert listing(tmp_path / "out") == ["explained"]
    assert listing(tmp_path / "out" / "explained") == ["b.png"]


def test_names_as_long_as_they_can_be(run: Run, tmp_path: Path) -> None:
    long = "写真" * 40
    save_coloured(tmp_path / f"{long}.png")
    save_coloured(tmp_path / "b.png")
    kinds = "overlay,coco,cutouts,labelmap,labelme,yolo"
    result = run("predict", f"{long}.png", "b.png", "--out", "out", "--save", kinds)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("写真*.overlay.png"))) == 1
    assert (tmp_path / "out" / "b.overlay.png").is_file()


def test_a_limit_that_is_reached_is_said(run: Run, photos: Path, tmp_path: Path) -> None:
    images = (photos / "a.png", photos / "b.jpg")
    result = run("predict", *images, "--out", "results", "--max-objects", "1", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["limit_reached"] for line in result.stdout.splitlines()] == [1, 1]
    assert result.stderr.count("the limit of 1 objects is reached") == 2
    assert "images that reached the limit of objects and may hold more: 2;" in result.stderr
    whole = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert [image["limit_reached"] for image in whole["images"]] == [1, 1]
    result = run("predict", *images, "--out", "others", "--max-objects", "3", "--json")
    assert "limit of" not in result.stderr
    assert [json.loads(line)["limit_reached"] for line in result.stdout.splitlines()] == [None, None]
    assert "limit_reached" not in (tmp_path / "others" / "predictions.json").read_text()


def test_only_the_named_classes(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run("predict", photos / "a.png", "--out", "results", "--classes", " green,green ")
    assert "a.png: 1 green (" in result.stderr
    for wrong in ("green,mauve", "", ","):
        result = run("predict", photos / "a.png", "--out", "none", "--classes", wrong)
        assert result.exit_code == 2
        assert "it knows red, green" in result.stderr
        assert ("'mauve'" in result.stderr) is ("mauve" in wrong)
    assert not (tmp_path / "none").exists()


def test_two_calls_into_one_folder(run: Run, photos: Path, tmp_path: Path) -> None:
    with only_writer(tmp_path / "results"):
        result = run("predict", photos / "a.png", "--out", "results")
    assert result.exit_code == 2
    assert f"process {os.getpid()} on" in result.stderr
    assert not (tmp_path / "results").exists()
    with only_writer(tmp_path / "results"):
        assert run("predict", photos / "a.png", "--out", "results", "--save", "none").exit_code == 0
