"""`instancefcn bench predict`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from instancefcn.cli.main import app


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", "predict", "--repeats", "1", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_stages_of_the_bundled_model_on_the_bundled_images() -> None:
    found = json.loads(run("--json"))
    assert found["images"] >= 3
    assert found["instances"] >= 1
    stages = found["stages"]
    order = ["decode", "resize", "backbone", "score maps", "proposals", "scoring", "suppression", "voting"]
    assert list(stages) == [*order, "pasting", "encode", "other"]
    assert all(seconds >= 0 for seconds in stages.values())
    inside = sum(seconds for name, seconds in stages.items() if name not in ("decode", "encode"))
    assert inside == pytest.approx(found["predict"], rel=0.5)
    after = sum(stages[name] for name in ("proposals", "scoring", "suppression", "voting", "pasting"))
    assert found["share"] == pytest.approx(after / (stages["backbone"] + stages["score maps"]))


@pytest.mark.slow
def test_profile() -> None:
    assert "pasting" in run("--profile")
    assert "pasting" not in run()


@pytest.mark.slow
def test_proposals_have_stages_of_their_own() -> None:
    assert "assembling" in run("--model", "instancefcn-objects", "--profile")
