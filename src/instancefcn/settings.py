"""Settings in validated sections: dotted keys, and errors that name the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator


class Section(BaseModel):
    """A group of settings: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_not_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        values = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(one, bool) for one in values) and bool not in (kind, *get_args(kind)):
            raise ValueError("true and false are not valid values of it")
        return value


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dicts."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        section, *rest = key.split(".")
        value = nest(value) if isinstance(value, Mapping) else value
        for part in reversed(rest):
            value = {part: value}
        nested = merge(nested, {section: value})
    return nested


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def explain(error: ValidationError, section: type[Section], elsewhere: Mapping[str, str]) -> str:
    """Pydantic's findings in plain words, with the nearest name for every unknown key.

    Args:
        elsewhere: what other programs call some settings of the section.
    """
    names = _all_keys(section)
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {key!r}{_suggest(key, names, elsewhere)}")
        elif problem["type"] == "missing":
            lines.append(f"setting {key!r} is missing")
        else:
            said = problem["msg"].removeprefix("Value error, ")
            lines.append(f"setting {key!r} = {problem['input']!r}: {said}" if key else said)
    return "; ".join(dict.fromkeys(lines))


def _suggest(key: str, names: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    last = {name.rpartition(".")[2]: name for name in names}
    near = [elsewhere[key]] if key in elsewhere else difflib.get_close_matches(key, names, 1, cutoff=0.5)
    near = near or [
        last[name] for name in difflib.get_close_matches(key.rpartition(".")[2], last, 1, cutoff=0.5)
    ]
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _all_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
