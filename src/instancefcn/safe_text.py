"""Text that anybody may have written, made fit for messages, terminals and files."""

from __future__ import annotations

import reprlib
import unicodedata

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def writable_text(text: str) -> str:
    """A text with what cannot be written in UTF-8 escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(text: str) -> str:
    """A text without what steers terminals or cannot be written in UTF-8."""
    return writable_text(text).translate(_CONTROL)


def one_line(text: str) -> str:
    """A text that cannot pass for more than one line."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def shown(value: object) -> str:
    """A value of a file as messages show it: never long, whatever it holds."""
    return _SHORT.repr(value)


def is_name(value: object) -> bool:
    """Whether a value can be the name of a class: text that is not blank and that `plain` leaves as it is."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)
    )
