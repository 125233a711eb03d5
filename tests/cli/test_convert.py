from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sick import clean

Run = Callable[..., Any]


def test_says_what_was_written_and_what_was_lost(run: Run, shapes_folder: Path) -> None:
    result = run("convert", shapes_folder, "out", "--to", "yolo")
    assert result.exit_code == 0, result.output
    assert "out: yolo, from COCO JSON" in result.stdout
    assert "  train: 4 images, " in result.stdout
    assert "\n  3 classes: " in result.stdout
    again = run("convert", "out", "back", "--to", "coco")
    assert again.stdout.endswith("Nothing is lost.\n")


def test_json(run: Run, shapes_folder: Path) -> None:
    result = run("convert", shapes_folder, "out", "--to", "labelme", "--json")
    summary = json.loads(result.stdout)
    assert summary["source"] == "COCO JSON"
    assert (summary["to"], summary["out"]) == ("labelme", "out")
    assert summary["splits"]["val"]["images"] == 2
    assert {"what", "count", "of"} == set(summary["lost"][0])


def test_wrong_use_ends_with_status_2(run: Run, shapes_folder: Path) -> None:
    Path("there").mkdir()
    result = run("convert", shapes_folder, "there", "--to", "coco")
    assert result.exit_code == 2
    assert "error: there" in result.stderr
    assert run("convert", shapes_folder, "out", "--to", "xml").exit_code == 2
    assert run("convert", "none", "out", "--to", "coco").exit_code == 2
    assert not Path("out").exists()


def test_holds_out_images_for_validation(run: Run, shapes_folder: Path) -> None:
    refused = run("convert", shapes_folder, "out", "--to", "coco", "--val-share", "0.25")
    assert refused.exit_code == 2
    assert "val" in refused.stderr
    assert not Path("out").exists()
    shutil.copytree(shapes_folder, "data", ignore=shutil.ignore_patterns("val.json"))
    result = run("convert", "data", "out", "--to", "coco", "--val-share", "0.25", "--json")
    assert result.exit_code == 0, result.output
    splits = json.loads(result.stdout)["splits"]
    assert {name: counts["images"] for name, counts in splits.items()} == {"train": 3, "val": 1}
    files = [json.loads(Path(f"out/{split}.json").read_text())["images"] for split in ("train", "val")]
    assert len({image["file_name"] for images in files for image in images}) == 4


def test_crowds_as_objects(run: Run, tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.train["annotations"][0]["iscrowd"] = 1
    run("convert", sick.write(), "yolo", "--to", "yolo")
    run("convert", "data", "all", "--to", "yolo", "--crowds-as-objects")
    counts = [
        len((tmp_path / out / "labels/train/train0.txt").read_text().splitlines()) for out in ("yolo", "all")
    ]
    assert counts == [11, 12]


def test_parts_become_objects_and_notes_are_shown(run: Run, shapes_folder: Path) -> None:
    content = json.loads((shapes_folder / "train.json").read_text())
    squares = [[x, 5, x + 9, 5, x + 9, 14, x, 14] for x in (5, 25, 45)]
    first = content["annotations"][0] | {"segmentation": squares}
    content["annotations"] = [{key: first[key] for key in first.keys() - {"bbox", "area"}}]
    content["images"][0]["file_name"] = f"C:\\mine\\{content['images'][0]['file_name']}"
    Path("data").mkdir()
    Path("data/train.json").write_text(json.dumps(content))
    Path("data/images").symlink_to(shapes_folder / "images")
    for options, count in (((), 1), (("--split-parts",), 3)):
        result = run("convert", "data", f"out{count}", "--to", "coco", *options)
        assert result.exit_code == 0, result.output
        assert f"  train: 4 images, {count} annotations" in result.stdout
        assert "note: data/train: 1 image path" in result.stdout
