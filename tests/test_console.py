"""Bars on a terminal; elsewhere plain lines, now and then, with the time left."""

from __future__ import annotations

import io

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
        "reading: 5/41, 1:12 left",
        "reading: 10/41, 1:02 left",
        "reading: 15/41, 0:52 left",
        "reading: 20/41, 0:42 left",
    ]


def test_quick_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as show:
        show("reading", 1, 2)
        show("reading", 2, 2)
    assert capsys.readouterr().err == ""


def test_resumed_work_is_judged_by_what_it_does_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """90 of 120 steps were done before; ten seconds for each of the next two leave 28 x 10 s."""
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress() as show:
        show("training", 90, 120)
        now += 20
        show("training", 92, 120, "loss 0.512")
    assert capsys.readouterr().err == "training: 92/120, 4:40 left  loss 0.512\n"


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress() as show:
        show("training", 1, 4, "loss [0.512]")
        show.line("epoch 1: [AP] 0.5")
    assert "epoch 1: [AP] 0.5\n" in terminal.getvalue()
    assert "1/4" in terminal.getvalue()
    assert "loss [0.512]" in terminal.getvalue()


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(False) as show:
        show("training", 1, 4)
        show.line("text")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3661, "1:01:01")])
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text
