from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

Run = Callable[..., Any]


def test_without_ray_it_says_what_to_install(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instancefcn.bulk.find_spec", lambda name: None if name == "ray" else object())
    result = run("bulk", photos, "--out", "results")
    assert result.exit_code == 2
    assert "pip install 'ray[data]' pyarrow" in result.stderr


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_mistakes_show_before_ray_is_started(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(*args: Any) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr("instancefcn.bulk.cluster.connected", connected)
    assert "nowhere: " in run("bulk", "nowhere", "--out", "results").stderr
    assert "error: nowhere" in run("bulk", photos, "--out", "results", "--model", "nowhere").stderr
    assert not (tmp_path / "results").exists()
