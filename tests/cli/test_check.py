from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sick import clean, first

Run = Callable[..., Any]


def test_a_clean_dataset_ends_with_status_0(run: Run, tmp_path: Path) -> None:
    result = run("check", clean(tmp_path / "data").write())
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("no errors, no warnings, no notes: ready for training\n")


def test_warnings_do_not_change_the_status(run: Run, tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    first(bbox=[0, 0, 150, 24])(sick)
    result = run("check", sick.write())
    assert result.exit_code == 0
    assert "warning  box-mask  1\n  - data/train: annotation 1 (train0.png)" in result.stdout


def test_errors_end_with_status_1_and_are_grouped(run: Run, tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for annotation in sick.train["annotations"][:9]:
        annotation["category_id"] = 9
    result = run("check", sick.write(), "--out", "found")
    assert result.exit_code == 1
    assert result.stdout.count("category_id 9 is unknown") == 5
    assert "  .. and 4 more like it\n" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("9 errors, ")
    assert json.loads(Path("found/report.json").read_text())["severities"]["error"] == 9
    with Image.open("found/suspicious.png") as sheet:
        assert sheet.width > sheet.height


def test_a_wrong_place_shows_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(tmp_path / "data").write()
    (tmp_path / "file").write_text("mine")
    result = run("check", "data", "--out", "file")
    assert result.exit_code == 2
    assert "error: file: " in result.stderr
    assert result.stdout == ""
    # The file may appear later.
    monkeypatch.setattr("instancefcn.evaluation.dataset_check.check_output_folder", lambda folder: None)
    result = run("check", "data", "--out", "file")
    assert result.exit_code == 2
    assert "error: file: File exists" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_the_copy_may_have_any_name(run: Run, tmp_path: Path) -> None:
    result = run("check", clean(tmp_path / "data").write(), "--fix", os.fsdecode(b"B\xe4r"))
    assert result.exit_code == 0, result.output
    assert "B\\udce4r: 0 repairs" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "none"),
        (["data", "--model", "x"], "'x'"),
        (["data", "--fix", "data"], "error: data"),
    ],
)
def test_wrong_use_ends_with_status_2(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    clean(tmp_path / "data").write()
    result = run("check", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_json_and_the_status_of_the_copy(run: Run, tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    first(category_id=9, bbox=[0, 0, 150, 24])(sick)
    result = run("check", sick.write(), "--json", "--fix", "copy")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["checks"] == {"unknown-category": 1}
    assert [repair["check"] for repair in content["repairs"]] == ["unknown-category"]
    assert content["left"]["checks"] == {"crowd": 1}
    again = run("check", "data", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["findings"][0]["annotation"] == 1


def test_a_copy_with_errors_ends_with_status_1(run: Run, tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.val["categories"][0]["name"] = "drop"
    result = run("check", sick.write(), "--fix", "copy")
    assert result.exit_code == 1
    assert "copy: 0 repairs, listed in repairs.json; now 1 error, " in result.stdout


def test_train_says_what_is_doubtful_and_continues(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instancefcn.training import loop

    class Reached(Exception):
        pass

    def stop(*args: object) -> None:
        raise Reached

    monkeypatch.setattr(loop, "Run", stop)
    sick = clean(tmp_path / "data")
    first(bbox=[0, 0, 150, 24])(sick)
    result = run("train", sick.write(), "--out", "run")
    assert isinstance(result.exception, Reached)
    assert "warning: box-mask: data/train: annotation 1" in result.stderr
    assert "run `instancefcn check " in result.stderr


def test_the_copy_says_what_became_of_boxes_without_outlines(run: Run, tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for annotation in sick.train["annotations"][::2]:
        annotation["segmentation"] = []
    result = run("check", sick.write(), "--fix", "copy")
    assert "  24 outline: made an ignored region (iscrowd 1)\n" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("copy: 24 repairs, listed in repairs.json; now ")
    written = json.loads(Path("copy/train.json").read_text())["annotations"]
    assert sum(a["iscrowd"] for a in written) == 24
    # They are boxes: nobody is told to take them as objects.
    again = run("check", "copy")
    assert "note  crowd  1" in again.stdout
    assert "--crowds-as-objects" not in again.stdout


def test_crowds_as_objects_also_in_the_copy(run: Run, tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for annotation in sick.train["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation |= {"iscrowd": 1, "segmentation": [[x, y, x + w, y, x + w, y + h]], "area": w * h / 2}
    result = run("check", sick.write())
    assert result.exit_code == 1
    assert "--crowds-as-objects" in result.stdout
    result = run("check", "data", "--crowds-as-objects", "--fix", "copy")
    assert result.exit_code == 0, result.output
    assert not any(a["iscrowd"] for a in json.loads(Path("copy/train.json").read_text())["annotations"])
