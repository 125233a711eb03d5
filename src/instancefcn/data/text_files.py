"""Read text, JSON and YAML from untrusted files: bounded, and with two kinds of errors."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import yaml

from instancefcn.limits import MAX_JSON_BYTES, MAX_TEXT_BYTES, MAX_YAML_BYTES

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # starts with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, with which PowerShell and some editors save text that is not UTF-8."""
_WIDE = ("utf-8", "utf-16-le", "utf-16-be")


def read_text(path: Path, most: int = MAX_TEXT_BYTES) -> str:
    """The text of a UTF-8 file, or of one in UTF-16 or UTF-32, recognised by its byte order mark or zeros.

    Args:
        path: the file.
        most: maximum size in bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than `most` bytes, or is not UTF-8 text.
    """
    if path.stat().st_size > most:
        raise ValueError(f"more than {most / 1e6:,.0f} MB")
    with path.open("rb") as file:
        head = file.read(4)
    return path.read_text(encoding=_encoding(head))


def _encoding(head: bytes) -> str:
    """The encoding of a text file with these first bytes."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if head[1:2] == b"\0" != head[:1]:
        return "utf-16-le"
    return "utf-16-be" if head[:1] == b"\0" != head[1:2] else "utf-8-sig"


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises what `read_text` does, and ValueError for invalid JSON."""
    try:
        return json.loads(read_text(path, MAX_JSON_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text, at byte {error.start}: save it as UTF-8") from error


def names(content: Any, key: str) -> bool:
    """Whether bytes of JSON, in UTF-8 or UTF-16, hold a key or a text in quotes. `content` has `find`."""
    return any(content.find(f'"{key}"'.encode(encoding)) >= 0 for encoding in _WIDE)


class _Loader(yaml.SafeLoader):
    """A loader without aliases: a few lines of them can expand to any amount of data."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported: write the values out")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises what `read_text` does, and ValueError for bad YAML or aliases."""
    text = read_text(path, MAX_YAML_BYTES)
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML's own errors, and those of its date and number constructors
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
