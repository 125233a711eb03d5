"""The sheet of suspicious images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from instancefcn.data.doctor.examine import examine
from instancefcn.evaluation.findings_sheet import MARK, TILES, suspicious, write_sheet
from sick import SICK, clean

SHOWN = (
    "missing-image",
    "unreadable-image",
    "size-mismatch",
    "out-of-bounds",
    "zero-area",
    "self-intersection",
    "box-mask",
    "near-leak",
)
MARKED = ("out-of-bounds", "zero-area", "self-intersection", "box-mask")


@pytest.mark.parametrize("check", SHOWN)
def test_one_tile_for_one_finding(tmp_path: Path, check: str) -> None:
    sick = clean(tmp_path / "data")
    change = [change for name, _, change, _ in SICK if name == check][-1]
    change(sick)
    assert write_sheet(examine(sick.write()), tmp_path / "out" / "sheet.png") == 1
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        marked = (np.asarray(sheet) == ImageColor.getrgb(MARK)).all(-1).sum()
    assert (marked > 100) == (check in MARKED)


@pytest.mark.parametrize("size", [(4000, 4), (4, 4000)])
def test_a_very_long_image(tmp_path: Path, size: tuple[int, int]) -> None:
    """Scaled to the tile its other side has less than half a pixel."""
    sick = clean(tmp_path / "data")
    Image.new("RGB", size).save(sick.image("train0.png"))
    sick.train["images"][0].update(width=size[0], height=size[1])
    sick.train["annotations"] = [a for a in sick.train["annotations"] if a["image_id"] != 0]
    outline = {"id": 900, "image_id": 0, "category_id": 1, "iscrowd": 0, "area": size[0] * size[1]}
    w, h = (side + 9 * (side > 4) for side in size)  # it leaves the image
    outline["segmentation"] = [[0, 0, w, 0, w, h, 0, h]]
    outline["bbox"] = [0, 0, w, h]
    sick.train["annotations"].append(outline)
    report = examine(sick.write())
    assert "out-of-bounds" in [finding.check for finding in suspicious(report)]
    assert write_sheet(report, tmp_path / "sheet.png") > 0


def test_the_checks_take_turns_and_notes_come_last(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for annotation in sick.train["annotations"]:
        annotation["bbox"] = [0, 0, 159, 119]
        annotation["area"] = 1
    sick.image("val0.png").unlink()
    chosen = suspicious(examine(sick.write()))
    assert len(chosen) == TILES
    assert [finding.check for finding in chosen] == ["missing-image"] + ["box-mask"] * (TILES - 1)


def test_nothing_suspicious_writes_no_sheet(tmp_path: Path) -> None:
    assert write_sheet(examine(clean(tmp_path / "data").write()), tmp_path / "sheet.png") == 0
    assert not (tmp_path / "sheet.png").exists()
