"""Write docs/commands.md from the command line itself: every verb, option and training setting.

    python tools/command_reference.py [--out docs/commands.md]

Run it again when a verb, an option, its help or a setting of training changes; a test says when.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from typer.models import ArgumentInfo, OptionInfo

from instancefcn.cli.main import app
from instancefcn.files import atomic_write
from instancefcn.models.zoo import SPECS
from instancefcn.training.config import TrainConfig

HEAD = """# Commands

Written by `python tools/command_reference.py` from the program itself; `--help` behind a verb says the same.

The exit status is 0 on success; 1 when some images are unreadable (`predict`, `propose`) or `check` finds
errors; 2 when a command cannot do its work: wrong use, a dataset with errors (`train`, `eval`, `convert`), a
damaged checkpoint, a full disk; and 128 plus the signal's number for a training run that a signal stopped.
"""
SETTINGS = """## Settings of training
What `instancefcn train --set KEY=VALUE` knows; values are JSON or plain text. In Python they are keyword
arguments of `instancefcn.train`. A run keeps its own in `config.json`. Sides are in pixels of the network's
input.

| setting | default | |
| --- | --- | --- |
"""
TYPES: dict[Any, str] = {Path: "PATH", str: "TEXT", int: "NUMBER", float: "NUMBER"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/commands.md"))
    arguments = parser.parse_args()
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(reference(), encoding="utf-8")
    print(arguments.out)


def reference() -> str:
    """The whole page."""
    sections = [HEAD, *(section(name, function) for name, function in verbs(app, "instancefcn"))]
    return "\n".join([*sections, settings(), preferences()])


def verbs(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every verb's full name and function, those of nested groups included."""
    for command in group.registered_commands:
        function = command.callback
        assert function is not None
        yield f"{prefix} {command.name or function.__name__.rstrip('_')}", function
    for nested in group.registered_groups:
        assert nested.typer_instance is not None
        yield from verbs(nested.typer_instance, f"{prefix} {nested.name}")


def section(name: str, function: Callable[..., Any]) -> str:
    """A verb: what it does, its usage, its arguments and options."""
    hints = get_type_hints(function, include_extras=True)
    usage, rows = [name], []
    for parameter in inspect.signature(function).parameters.values():
        kind, info = get_args(hints[parameter.name])
        shown, row = _described(parameter, kind, info)
        usage += [shown] if shown else []
        rows.append(row)
    optional = any(isinstance(get_args(hints[p])[1], OptionInfo) for p in hints if p != "return")
    usage.insert(1, "[OPTIONS]") if optional else None
    text = linked(inspect.getdoc(function) or "")
    table = "\n".join(["| | default | |", "| --- | --- | --- |", *rows])
    return f"## {name}\n{text}\n\n```text\n{' '.join(usage)}\n```\n\n{table}\n"


def _described(parameter: inspect.Parameter, kind: Any, info: Any) -> tuple[str, str]:
    """What stands in the usage line ("" for what may be left out), and the row of the table."""
    kind, many = plain(kind)
    required = parameter.default is inspect.Parameter.empty
    if isinstance(info, ArgumentInfo):
        name = shown = info.metavar or parameter.name.upper() + ("..." if many else "")
    else:
        assert isinstance(info, OptionInfo)
        option = next(iter(info.param_decls or ()), "--" + parameter.name.rstrip("_").replace("_", "-"))
        value = "" if kind is bool else info.metavar or _value(kind)
        name = f"{option} {value}".strip()
        shown = name if required else ""
    default = "required" if required else _default(parameter.default)
    words = [linked(info.help or "")]
    if (limits := _limits(info)) is not None:
        words.append(limits)
    if many and isinstance(info, OptionInfo):
        words.append("May be given several times.")
    return shown, f"| {code(name)} | {default} | {' '.join(words)} |"


def plain(kind: Any) -> tuple[Any, bool]:
    """`list[str] | None` to (str, True)."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is list:
        return get_args(kind)[0], True
    return kind, False


def _value(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind)
    return TYPES[kind]


def _default(value: Any) -> str:
    if value is None or value is False:
        return ""
    return code(str(value.value if isinstance(value, Enum) else value))


def _limits(info: Any) -> str | None:
    if info.min is not None and info.max is not None:
        return f"{info.min} to {info.max}."
    return None if info.min is None else f"At least {info.min}."


def code(text: str) -> str:
    """As code that may stand in a table, where a bar would end the cell."""
    return f"<code>{text.replace('|', '&#124;').replace('<', '&lt;')}</code>" if "|" in text else f"`{text}`"


def linked(text: str) -> str:
    """Names of pages as links to them, seen from docs/; stars stay stars."""
    text = text.replace("*", r"\*")
    return re.sub(r"docs/([\w-]+\.md)", r"[docs/\1](\1)", text)


def settings() -> str:
    """Every setting of training."""
    rows = [f"| `{key}` | {default} | {text} |" for key, default, text in _fields(TrainConfig)]
    return SETTINGS + "\n".join(rows) + "\n"


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        elif name not in ("model", "data", "out"):  # arguments and options of their own
            choices = ", ".join(f"`{one}`" for one in _choices(kind))
            text = (field.description or "") + (f" ({choices})" if field.description and choices else choices)
            default = "" if field.default in (None, ()) else f"`{_json(field.default)}`"
            yield prefix + name, default, text


def _choices(kind: Any) -> list[str]:
    """The words of a Literal, in an optional one too."""
    if get_origin(kind) in (Union, UnionType):
        return [word for one in get_args(kind) for word in _choices(one)]
    words = [] if isinstance(kind, type) or get_origin(kind) is tuple else list(get_args(kind))
    return [word for word in words if isinstance(word, str)]


def preferences() -> str:
    """In what the models' own settings differ from the defaults."""
    lines = []
    for spec in SPECS.values():
        own = {"short_side": spec.short_side, "long_side": spec.long_side, **spec.training}
        lines.append(
            f"* `{spec.name}`: " + ", ".join(f"{key} `{_json(value)}`" for key, value in own.items())
        )
    return "A model's own settings take the place of these defaults:\n\n" + "\n".join(lines) + "\n"


def _json(value: Any) -> str:
    import json

    if isinstance(value, tuple):
        return "[" + ", ".join(_json(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_json(one)}" for key, one in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    main()
