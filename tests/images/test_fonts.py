"""Labels in any script: with a font that has the letters, else readable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images import fonts
from instancefcn.images.drawing import draw
from instancefcn.images.fonts import families, legible, lettering
from instancefcn.instances import Instances


def forget() -> None:
    for cached in (fonts._fonts, fonts._font_with_letters, fonts._letters_of):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def bundled_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[font_manager.FontEntry]]:
    """Only the fonts that come with matplotlib, whatever this computer has."""
    entries = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    forget()
    yield entries
    forget()


@pytest.fixture
def chinese(tmp_path: Path, bundled_fonts: list[font_manager.FontEntry]) -> Path:
    """A font whose letters for deer and nucleus are a full square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square, letters = pen.glyph(), "\u9e7f\u6838"
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"u{ord(one):x}" for one in letters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(one): f"u{ord(one):x}" for one in letters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    bundled_fonts.append(font_manager.FontEntry(fname=str(tmp_path / "squares.ttf"), name="Squares"))
    return tmp_path / "squares.ttf"


@pytest.mark.parametrize("name", ["deer", "Kühe", "олень", "ελάφι", "غزال", "צבי"])
def test_scripts_that_bundled_fonts_have(name: str) -> None:
    assert lettering(name, 20, "class 1")[1] == name


@pytest.mark.parametrize("name", ["\u9e7f", "세포", "हिरण", "deer \u9e7f"])
def test_what_no_font_has_becomes_the_number_of_the_class(name: str) -> None:
    assert lettering(name, 20, "class 7")[1] == "class 7"
    assert "?" in legible(name)


def test_emoji_are_spelled_out() -> None:
    assert lettering("\U0001f98c", 20, "class 1")[1] == "deer"
    assert legible("red \U0001f98c\ufe0f") == "red deer"


def test_a_font_of_the_system_is_found(chinese: Path) -> None:
    font, shown = lettering("\u9e7f", 20, "class 1")
    assert shown == "\u9e7f"
    assert font.path == str(chinese)
    assert families(["\u9e7f", "deer"]) == ["DejaVu Sans", "Squares"]


def one_object(name: str) -> Instances:
    masks = CroppedMasks.from_crops([torch.ones(60, 60, dtype=torch.uint8)], [(30, 60)], (200, 200))
    boxes = torch.tensor([[30.0, 60.0, 90.0, 120.0]])
    return Instances(boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64), masks, (name,), (1,))


def test_overlays_show_the_letters_or_the_number(chinese: Path) -> None:
    image = torch.full((3, 200, 200), 128, dtype=torch.uint8)

    def drawn(name: str) -> np.ndarray:
        return np.asarray(draw(image, one_object(name)))

    assert (drawn("세포") == drawn("class 1")).all()
    assert (drawn("\u9e7f") != drawn("class 1")).any()
    assert (drawn("\u9e7f") == drawn("\u6838")).all()  # both letters are the same square
