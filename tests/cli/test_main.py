from __future__ import annotations

import runpy
import sys

import pytest
from typer.testing import CliRunner

import instancefcn
from instancefcn.cli.main import app


def test_all_verbs_are_listed() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    verbs = "demo predict propose check convert train eval export app bench"
    for verb in verbs.split():
        assert f" {verb} " in result.stdout


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"instancefcn {instancefcn.__version__}\n"


def test_an_unknown_verb_is_a_wrong_use() -> None:
    assert CliRunner().invoke(app, ["segmnt"]).exit_code == 2


def test_python_dash_m(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["instancefcn", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("instancefcn", run_name="__main__")
    assert stop.value.code == 0
    assert instancefcn.__version__ in capsys.readouterr().out
