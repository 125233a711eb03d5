"""`instancefcn plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instancefcn


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_the_command(run: Callable[..., Any], shapes_folder: Path, flag: tuple[str, ...]) -> None:
    result = run("plan", shapes_folder, "--minutes", 2, "--set", "precision=32", *flag)
    assert result.exit_code == 0, result.output
    expected = instancefcn.plan(shapes_folder, minutes=2, precision="32")
    if flag:
        assert json.loads(result.stdout) == json.loads(json.dumps(expected.as_json()))
    else:
        assert result.stdout == f"{expected}\n"
