"""Plain lines without a terminal: now and then, with the time left."""

from __future__ import annotations

import pytest

from instancefcn import console


def test_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress() as show:
        for done in range(21):  # two seconds each
            show("reading", done, 41)
            now += 2
        show("writing", 0, 3)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 5/41, about 72 s left",
        "reading: 10/41, about 62 s left",
        "reading: 15/41, about 52 s left",
        "reading: 20/41, about 42 s left",
    ]


def test_quick_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as show:
        show("reading", 1, 2)
        show("reading", 2, 2)
    assert capsys.readouterr().err == ""
