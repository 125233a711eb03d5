from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instancefcn.studio
from labelling import photos


def test_options_reach_the_public_function(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(instancefcn.studio, "label", lambda *given, **named: calls.append((given, named)))
    run("label", "photos", "--classes", "cat, dog,", "--model", "runs/first", "--port", 0, "--out", "set")
    assert calls == [
        (
            (Path("photos"),),
            {
                "out": Path("set"),
                "classes": ["cat", "dog"],
                "model": "runs/first",
                "host": "127.0.0.1",
                "port": 0,
            },
        )
    ]


def test_mistakes_are_said_before_anything_is_made(run: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi")
    source = photos(tmp_path / "photos")
    result = run("label", source, "--model", "no-such", "--port", 0)
    assert result.exit_code == 2
    assert "no-such" in result.stderr
    result = run("label", tmp_path / "nowhere", "--port", 0)
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_missing_extra_says_how_to_get_it(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instancefcn.studio.find_spec", lambda name: None)
    result = run("label", "photos")
    assert result.exit_code == 2
    assert "pip install fastapi uvicorn" in result.stderr
