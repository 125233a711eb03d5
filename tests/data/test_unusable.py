"""What a reader cannot use never becomes background: an ignored region, or no image at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instancefcn.data.doctor.examine import examine
from instancefcn.data.doctor.fix import write_repaired_copy
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.loader import load_scene
from instancefcn.data.unusable import ignored_region
from instancefcn.errors import DataError
from sick import HEIGHT, WIDTH, Sick, clean

BOX = [5, 8, 28, 24]
"""The box of train's first annotation, x, y, width, height."""


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"segmentation": []}, "outline"),
        ({"segmentation": [[]]}, "outline"),
        ({"segmentation": None}, "outline"),
        ({"segmentation": [[1, 1, 2, 2]]}, "polygon-points"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "outline"),
        ({"category_id": 77}, "unknown-category"),
        ({"iscrowd": 2}, "format"),
    ],
)
@pytest.mark.parametrize("way", ["fix", "skip"])
def test_an_object_with_a_box_becomes_an_ignored_region(
    tmp_path: Path, change: dict[str, Any], check: str, way: str
) -> None:
    sick = clean(tmp_path / "data")
    sick.train["annotations"][0].update(change)
    report = examine(sick.write(), skip_bad=way == "skip")
    if way == "fix":
        repairs, left = write_repaired_copy(report, tmp_path / "copy")
        assert [(r["check"], r["annotation"]) for r in repairs] == [(check, 1)]
        assert "ignored region" in repairs[0]["what"]
        image = open_dataset(tmp_path / "copy", "train").images[0]
        assert [f.check for f in left.findings if f.split == "train"] == ["crowd"]
    else:
        assert report.errors == []
        assert [(f.check, f.annotation) for f in report.skipped] == [(check, 1)]
        assert "ignored region" in report.skipped[0].message
        image = report.splits[0].dataset.images[0]
    (region,) = [a for a in image.annotations if a.crowd]
    assert (region.id, region.box) == (1, (5, 8, 33, 32))
    assert len(image.annotations) == 12
    assert load_scene(image).crowd.tolist() == [[5, 8, 33, 32]]


@pytest.mark.parametrize("box", [None, [5, 8, 0, 0], [500, 8, 28, 24], "wide"])
@pytest.mark.parametrize("way", ["fix", "skip"])
def test_an_object_without_a_box_costs_its_image(tmp_path: Path, box: object, way: str) -> None:
    sick = clean(tmp_path / "data")
    sick.train["annotations"][0] |= {"segmentation": [], "bbox": box}
    report = examine(sick.write(), skip_bad=way == "skip")
    if way == "fix":
        repairs, _ = write_repaired_copy(report, tmp_path / "copy")
        assert all("image left out" in r["what"] and "train0.png" in r["image"] for r in repairs)
        images = open_dataset(tmp_path / "copy", "train").images
    else:
        assert all(f.image == sick.image("train0.png") for f in report.skipped)
        images = report.splits[0].dataset.images
    assert [image.path.name for image in images] == ["train1.png", "train2.png", "train3.png"]


def test_images_that_cannot_be_used_are_skipped(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.image("train0.png").unlink()
    sick.image("train1.png").write_bytes(b"no image")
    sick.train["images"][2]["width"] = 170
    report = examine(sick.write(), skip_bad=True)
    assert report.errors == []
    assert {f.check for f in report.skipped} == {"missing-image", "unreadable-image", "size-mismatch"}
    assert [image.path.name for image in report.splits[0].dataset.images] == ["train3.png"]


def _no_json(sick: Sick) -> None:
    (sick.write() / "train.json").write_text("{")


def _no_image(sick: Sick) -> None:
    sick.write()
    for path in sick.folder.glob("images/train*"):
        path.write_bytes(b"no image")


def _other_classes(sick: Sick) -> None:
    sick.val["categories"][0]["name"] = "drop"
    sick.write()


def _no_outlines_and_boxes(sick: Sick) -> None:
    for annotation in sick.train["annotations"]:
        annotation |= {"segmentation": [], "bbox": None}
    sick.write()


def _boxes_only(sick: Sick) -> None:
    for annotation in sick.train["annotations"]:
        annotation["segmentation"] = []
    sick.write()


@pytest.mark.parametrize("change", [_no_json, _no_image, _other_classes, _no_outlines_and_boxes, _boxes_only])
def test_what_concerns_a_whole_split_stays_an_error(tmp_path: Path, change: Any) -> None:
    sick = clean(tmp_path / "data")
    change(sick)
    with pytest.raises(DataError) as caught:
        examine(sick.folder, skip_bad=True).raise_errors()
    if change in (_no_json, _other_classes, _boxes_only):
        assert "--skip-bad" not in str(caught.value)
    assert "--crowds-as-objects" not in str(caught.value)


def test_the_error_ends_with_the_two_ways_on(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for annotation in sick.train["annotations"][:30]:
        annotation["segmentation"] = []
    with pytest.raises(DataError) as caught:
        examine(sick.write()).raise_errors()
    assert len(caught.value.problems) == 30
    lines = str(caught.value).splitlines()
    assert len(lines) < 12
    assert f"instancefcn check {sick.folder} --fix COPY" in lines[-1]
    assert "--skip-bad" in lines[-1]
    assert lines[-2] == "30 problems in the data: 30 outline"


def test_records_of_two_sizes_cost_the_image(tmp_path: Path) -> None:
    """Keeping one of them would make background of the other's objects."""
    sick = clean(tmp_path / "data")
    sick.train["images"].append({**sick.train["images"][0], "id": 99, "width": 2 * WIDTH, "height": HEIGHT})
    moved = sick.train["annotations"][0]
    moved |= {"image_id": 99, "segmentation": [[200, 8, 228, 8, 228, 32]], "bbox": [200, 8, 28, 24]}
    write_repaired_copy(examine(sick.write()), tmp_path / "copy")
    written = json.loads((tmp_path / "copy" / "train.json").read_text())
    assert "train0.png" not in [image["file_name"] for image in written["images"]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((5, 8, 33, 32), (5, 8, 33, 32)),
        ((-1, -1, 41, 21), (0, 0, 40, 21)),
        ((5, 8, 5, 32), None),
        ((5, 8, 33, 52), None),
    ],
)
def test_ignored_regions(
    box: tuple[float, float, float, float], expected: tuple[float, float, float, float] | None
) -> None:
    region = ignored_region(7, -1, box, 40, 40)
    assert (region and region.box) == expected
    assert region is None or (region.crowd and region.label == 0 and region.id == 7)
