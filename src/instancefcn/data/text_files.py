"""Read text, JSON and YAML from untrusted files: bounded, and with two kinds of errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from instancefcn.limits import MAX_JSON_BYTES, MAX_TEXT_BYTES, MAX_YAML_BYTES


def read_text(path: Path, most: int = MAX_TEXT_BYTES) -> str:
    """The text of a UTF-8 file.

    Args:
        path: the file.
        most: maximum size in bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than `most` bytes, or is not UTF-8 text.
    """
    if path.stat().st_size > most:
        raise ValueError(f"more than {most / 1e6:,.0f} MB")
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises what `read_text` does, and ValueError for invalid JSON."""
    try:
        return json.loads(read_text(path, MAX_JSON_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


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
