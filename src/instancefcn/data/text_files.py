"""Text, JSON and YAML from files that anybody may have made: bounded, and with two kinds of errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from instancefcn.limits import MAX_JSON_BYTES, MAX_TEXT_BYTES, MAX_YAML_BYTES


def read_text(path: Path, most: int = MAX_TEXT_BYTES) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than `most` bytes, or is no text in UTF-8.
    """
    if path.stat().st_size > most:
        raise ValueError(f"it has more than {most / 1e6:,.0f} MB")
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises what `read_text` does, and ValueError for what is no JSON."""
    try:
        return json.loads(read_text(path, MAX_JSON_BYTES))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them stand for any amount of data."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read: write the values out")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises what `read_text` does, and ValueError for no YAML or aliases."""
    text = read_text(path, MAX_YAML_BYTES)
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML's own, and what its constructors raise of dates, numbers and nesting
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
