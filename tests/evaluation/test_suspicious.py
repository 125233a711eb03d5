"""The sheet of suspicious pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from instancefcn.data.doctor.examine import examine
from instancefcn.evaluation.suspicious import (
    CAPTION,
    GAP,
    HEIGHT,
    MARK,
    TILES,
    WIDTH,
    _lines,
    suspicious,
    write_sheet,
)
from sick import SICK, clean

SHOWN = (
    "missing-picture",
    "unreadable-picture",
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
        assert sheet.size == (WIDTH + 2 * GAP, HEIGHT + CAPTION + 2 * GAP)
        marked = (np.asarray(sheet) == ImageColor.getrgb(MARK)).all(-1).sum()
    assert (marked > 100) == (check in MARKED)


def test_the_checks_take_turns_and_notes_come_last(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for annotation in sick.train["annotations"]:
        annotation["bbox"] = [0, 0, 159, 119]
        annotation["area"] = 1
    sick.image("val0.png").unlink()
    chosen = suspicious(examine(sick.write()))
    assert len(chosen) == TILES
    assert [finding.check for finding in chosen] == ["missing-picture"] + ["box-mask"] * (TILES - 1)


def test_nothing_suspicious_writes_no_sheet(tmp_path: Path) -> None:
    assert write_sheet(examine(clean(tmp_path / "data").write()), tmp_path / "sheet.png") == 0
    assert not (tmp_path / "sheet.png").exists()


def test_captions_stay_in_their_tiles() -> None:
    font = ImageFont.load_default(12)
    text = "looks nearly the same as " + "x" * 90 + ".jpg: keep one, unless both are meant"
    lines = _lines(text, font, 360)
    assert all(font.getlength(line) <= 360 for line in lines)
    assert lines[0].startswith("looks nearly")
    assert ".." in "".join(lines)
