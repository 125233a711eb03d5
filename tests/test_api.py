"""The public names, and that every verb of the command line is one function with the same options."""

from __future__ import annotations

import inspect
import re
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import typer

import instancefcn
from instancefcn.cli.main import app
from instancefcn.training.config import TrainConfig

FUNCTIONS = {
    "predict": "predict",
    "propose": "propose",
    "bulk": "predict_bulk",
    "check": "check",
    "plan": "plan",
    "train": "train",
    "eval": "evaluate",
    "bench predict": "time_predict",
    "convert": "convert",
    "convert-weights": "convert_weights",
    "export": "export_model",
    "app": "serve",
    "label": "label",
}
PRINTED = {"json", "profile"}
"""Options about what the command line prints."""
IN_PYTHON = {"progress", "share"}
"""The command line always reports its progress, and shares an evaluation."""


def verbs(group: typer.Typer, prefix: str = "") -> dict[str, Any]:
    found = {}
    for command in group.registered_commands:
        assert command.callback is not None
        found[prefix + (command.name or command.callback.__name__)] = command.callback
    for nested in group.registered_groups:
        assert nested.typer_instance is not None
        found |= verbs(nested.typer_instance, f"{nested.name} ")
    return found


def options(function: Any) -> dict[str, object]:
    """Defaults as the command line writes them, by the name of the option."""

    def plain(value: object) -> object:
        if isinstance(value, tuple):
            return ",".join(value)
        return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value

    parameters = inspect.signature(function).parameters.values()
    return {p.name.rstrip("_"): plain(p.default) for p in parameters if p.kind is not p.VAR_KEYWORD}


def test_every_verb_has_a_function() -> None:
    # `demo` shows `predict` and `propose` on the bundled photographs.
    assert set(verbs(app)) == {*FUNCTIONS, "demo"}
    assert set(FUNCTIONS.values()) <= set(instancefcn.__all__)


@pytest.mark.parametrize(("verb", "name"), FUNCTIONS.items())
def test_function_and_verb_have_the_same_options(verb: str, name: str) -> None:
    command = {key: value for key, value in options(verbs(app)[verb]).items() if key not in PRINTED}
    function = getattr(instancefcn, name)
    python = {key: value for key, value in options(function).items() if key not in IN_PYTHON}
    if name in ("plan", "train"):  # keyword arguments of any setting
        settings = TrainConfig.model_fields.keys() | {"set"}
        command = {key: value for key, value in command.items() if key in python or key not in settings}
    assert command == python


@pytest.mark.parametrize("name", [*FUNCTIONS.values(), "load"])
def test_results_are_typed(name: str) -> None:
    returns = inspect.signature(getattr(instancefcn, name)).return_annotation
    assert returns is not inspect.Signature.empty
    assert returns not in (Any, typing.Any, "Any")


def test_all_names_are_documented_and_no_others() -> None:
    text = instancefcn.__doc__ or ""
    listed = set(re.findall(r"^    (\w+)  ", text, re.MULTILINE)) | set(re.findall(r"`(\w+)`", text))
    assert listed == set(instancefcn.__all__) - {"__version__"}


def test_load_and_predict_have_the_same_model() -> None:
    functions = (instancefcn.load, instancefcn.predict)
    assert len({inspect.signature(function).parameters["model"].default for function in functions}) == 1
