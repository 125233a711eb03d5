"""Untrusted text, made safe for messages, terminals and files."""

from __future__ import annotations

import reprlib
import unicodedata

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def writable_text(text: str) -> str:
    """The text with everything escaped that UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(text: str) -> str:
    """The text with control characters escaped, and everything that UTF-8 cannot encode."""
    return writable_text(text).translate(_CONTROL)


def one_line(text: str) -> str:
    """`plain` text on one line."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def shown(value: object) -> str:
    """A value from a file as messages show it: never long."""
    return _SHORT.repr(value)


def is_name(value: object) -> bool:
    """Whether a value is a valid class name: text that is not blank and has no control characters."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)
    )
