"""Letters of any script: a font of this computer that has them, or a readable text instead.

Pillow's own font has the letters of English. DejaVu Sans, which comes with matplotlib, has those of most
European languages, Arabic and others. Chinese, Japanese, Korean and Indian scripts need a font of the
system, such as Noto Sans.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from PIL import ImageFont

PREFERRED = ("DejaVu Sans", "Noto Sans", "Arial", "Segoe UI", "Helvetica")
"""Families that are tried first."""
_USUAL_WEIGHTS = ("400", "normal", "regular")
_NOT_LETTERS = ("Color", "Last Resort")
"""Parts of names of fonts that have pictures of one size instead of outlines, or boxes for all letters."""


def lettering(text: str, size: float, otherwise: str = "") -> tuple[ImageFont.FreeTypeFont, str]:
    """A font that has the letters of a text, and the text.

    Args:
        text: one line.
        size: of the font in pixels.
        otherwise: the text to use if no font has the letters; when empty, those letters become "?".

    Returns:
        the font, and the text with emoji that no font has spelled out.
    """
    shown = legible(text, otherwise)
    path = _font_with(shown)
    if path:
        return ImageFont.truetype(path, size), shown
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font, shown


def legible(text: str, otherwise: str = "") -> str:
    """The text as `lettering` writes it."""
    text = text.replace("\ufe0f", "")  # asks for the coloured form of an emoji
    if _font_with(text) is not None:
        return text
    spelled = "".join(one if _font_with(one) is not None else _spelled(one) for one in text)
    if _font_with(spelled) is None:  # each letter is in some font, and no font has all of them
        spelled = "".join(one if _font_with(one) == "" else _spelled(one) for one in spelled)
    return otherwise if otherwise and "?" in spelled and "?" not in text else spelled


def families(texts: Sequence[str]) -> list[str]:
    """Families for matplotlib's `font.family`: its own font, then those that have the letters of the texts.
    The texts are what `legible` returns.
    """
    paths = dict.fromkeys(path for text in texts if (path := _font_with(text)))
    return ["DejaVu Sans", *dict.fromkeys(_name_of(path) for path in paths)]


def _spelled(letter: str) -> str:
    """An emoji as its name ("deer"); "" for what only changes the letter before it, "?" for a letter."""
    kind = unicodedata.category(letter)
    if kind in ("So", "Sk"):
        return unicodedata.name(letter, "?").lower()
    return "" if kind in ("Mn", "Cf") else "?"


def _font_with(text: str) -> str | None:
    """The file of a font that has all letters of a text; "" for Pillow's own, None if there is none."""
    letters = frozenset(one for one in text if not one.isspace())
    return _font_with_letters(letters)


@lru_cache(maxsize=4096)
def _font_with_letters(letters: frozenset[str]) -> str | None:
    if all(map(_in_own_font, letters)):
        return ""
    wanted = set(map(ord, letters))
    return next((path for path, _ in _fonts() if wanted <= _letters_of(path)), None)


@lru_cache(maxsize=4096)
def _in_own_font(letter: str) -> bool:
    """Whether Pillow's font has a letter: what it lacks is drawn as the same box."""
    if letter.isascii():
        return True
    font = ImageFont.load_default(20)
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


@lru_cache(maxsize=1)
def _fonts() -> tuple[tuple[str, str], ...]:
    """File and family of every upright font of usual weight, the preferred ones first."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # that it builds its list
    from matplotlib.font_manager import fontManager

    def rank(family: str) -> int:
        return next((i for i, name in enumerate(PREFERRED) if family.startswith(name)), len(PREFERRED))

    usual = [
        (entry.fname, entry.name)
        for entry in fontManager.ttflist
        if entry.style == "normal"
        and str(entry.weight) in _USUAL_WEIGHTS
        and not any(part in entry.name for part in _NOT_LETTERS)
    ]
    return tuple(sorted(usual, key=lambda font: (rank(font[1]), len(font[1]), font)))


@lru_cache(maxsize=256)
def _letters_of(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 20)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # damaged, or gone since matplotlib made its list
        return frozenset()


def _name_of(path: str) -> str:
    return next(name for file, name in _fonts() if file == path)
