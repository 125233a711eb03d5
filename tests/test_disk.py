"""A real full disk: a small file system in memory, which only root can make."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import FakeLoaded, save_coloured
from instancefcn.cli.main import app
from instancefcn.errors import OutputError
from instancefcn.files import atomic_write
from instancefcn.inference.resume_log import Done, ResumeLog
from instancefcn.models import zoo
from instancefcn.models.checkpoint import save_checkpoint
from instancefcn.published import checkpoint
from tiny import tiny_spec

Disk = Callable[[str], Path]


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(disk: Disk) -> None:
    place = disk("600k")
    torch.manual_seed(0)
    spec = tiny_spec()
    network = zoo.build(spec, 2)
    path = place / "model.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_checkpoint(path, {**network.state_dict(), "more": torch.zeros(200_000)}, spec, network.classes)
    assert caught.value.filename == str(path)
    assert [p.name for p in place.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_predict_on_a_full_disk_resumes_when_there_is_room(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    monkeypatch.setattr(checkpoint, "load_any_checkpoint", lambda _: FakeLoaded())
    # At most 6 images are under way, of about 3 pages each: the first fits whatever the threads do, and 40 do
    # not.
    for number in range(40):
        save_coloured(tmp_path / "many" / f"{number:02}.png", 120, 80)
    place = disk("128k")

    def predict(*words: str) -> Any:
        return CliRunner().invoke(
            app, ["predict", str(tmp_path / "many"), "--out", str(place / "out"), *words]
        )

    full = predict()
    assert full.exit_code == 2, full.output
    assert "No space left on device" in full.stderr
    assert not list(place.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
    again = predict("--resume")
    assert again.exit_code == 0, again.output
    assert "images were done before" in again.stderr
    assert len(list((place / "out").glob("*.overlay.png"))) == 40


def test_a_full_log_can_be_closed(disk: Disk) -> None:
    place = disk("64k")
    log = ResumeLog(place, {}, ["a.png"], resume=False)
    (place / "rest").write_bytes(bytes(48 * 1024))
    done = Done(0, "a.png", None, ["a.coco.json"], {})

    def fill() -> None:
        for _ in range(1000):
            log.add(done)

    with pytest.raises(OutputError, match="No space left on device"):
        fill()
    log.close()
    lines = log.path.read_bytes().split(b"\n")
    assert len(lines) > 3
    assert len({*lines[1:-1]}) == 1
    assert lines[1].startswith(lines[-1])


def test_a_folder_that_may_only_be_read(disk: Disk, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    place = disk("64k")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    save_coloured(tmp_path / "a.png")
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "a.png"), "--out", str(place / "out")])
    assert result.exit_code == 2
    assert str(place) in result.stderr
    with pytest.raises(OSError, match="Read-only"), atomic_write(place / "a.txt"):
        pass
