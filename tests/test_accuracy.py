"""The bundled models are as accurate as they were, on a small set that ships (tests/data_sets).

After a model or a convention has changed: `python tools/regression_figures.py` stores the new figures.
"""

from __future__ import annotations

import json
import runpy
from typing import Any

import pytest

from documented import ROOT
from instancefcn.models.checkpoint import bundled_folder

TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "regression_figures.py"))
STORED: dict[str, float] = json.loads(TOOL["FIGURES"].read_text(encoding="utf-8"))


def test_every_bundled_model_is_measured() -> None:
    assert (
        {path.stem for path in bundled_folder().glob("*.safetensors")}
        == STORED.keys()
        == TOOL["MODELS"].keys()
    )


@pytest.mark.parametrize("model", STORED)
def test_the_figure_is_the_stored_one(model: str) -> None:
    assert TOOL["measure"](model) == pytest.approx(STORED[model], abs=0.005)
