from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest


def test_a_missing_extra_says_how_to_get_it(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instancefcn.studio.find_spec", lambda name: None)
    result = run("app")
    assert result.exit_code == 2
    assert "pip install fastapi uvicorn" in result.stderr


def test_a_taken_port_is_named(run: Callable[..., Any]) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("app", "--port", port)
    assert result.exit_code == 2
    assert f"127.0.0.1:{port} cannot be used" in result.stderr
    assert "--port" in result.stderr


def test_the_port_is_given_back_when_the_model_is_missing(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi")
    from instancefcn.errors import CheckpointError
    from instancefcn.published import checkpoint

    def missing(source: str) -> None:
        raise CheckpointError(f"{source}: neither a file, nor a run folder")

    monkeypatch.setattr(checkpoint, "load_any_checkpoint", missing)
    result = run("app", "--model", "no-such", "--port", 0)
    assert result.exit_code == 2
    assert "no-such: neither a file, nor a run folder" in result.stderr
