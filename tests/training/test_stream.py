"""The processes that read pictures."""

from __future__ import annotations

import pytest

from instancefcn.training import stream


def test_a_reading_process_ends_with_its_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the trainer was gone before the process looked for the first time."""

    class Ended(BaseException):
        pass

    def end(status: int) -> None:
        raise Ended(status)

    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("os._exit", end)
    for parents, naps in (([7, 7, 7, 1], 3), ([1], 0)):
        slept.clear()
        monkeypatch.setattr("os.getppid", iter(parents).__next__)
        with pytest.raises(Ended):
            stream._end_with(7)
        assert len(slept) == naps
