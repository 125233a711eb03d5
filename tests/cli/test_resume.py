"""`predict --resume`: a stopped call over many images ends as if it had never been stopped."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes import ColourNetwork, FakeLoaded, save_coloured
from instancefcn.inference import pipeline, writers
from instancefcn.inference.result_formats import ResultItem
from instancefcn.published import checkpoint

Run = Callable[..., Any]
ALL = "overlay,coco,yolo,labelme,cutouts,labelmap,csv"
KINDS = ("--save", ALL, "--json")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """8 images, the fourth of which is unreadable."""
    for number in range(8):
        save_coloured(tmp_path / "many" / f"{number}.png", 64 + 4 * number, 64)
    (tmp_path / "many" / "3.png").write_bytes(b"not an image")
    return tmp_path / "many"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def stop_at(monkeypatch: pytest.MonkeyPatch, image: int, error: BaseException) -> None:
    """Raise when the results of an image are to be written."""
    write = writers.write_coco_results

    def stopped(out: Path, name: str, image_id: int, instances: Any) -> Path:
        if image_id == image + 1:
            raise error
        return write(out, name, image_id, instances)

    monkeypatch.setattr(writers, "write_coco_results", stopped)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "--resume"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
    ],
)
def test_a_resumed_call_ends_with_the_same_files(
    run: Run,
    many: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    said: str,
) -> None:
    whole = run("predict", many, "--out", "whole", *KINDS)
    assert whole.exit_code == 1, whole.output  # for the unreadable one
    with monkeypatch.context() as patch:
        stop_at(patch, 6, error)
        stopped = run("predict", many, "--out", "parts", *KINDS)
    assert stopped.exit_code == status
    assert said in stopped.stderr
    assert "predictions.json" not in content(tmp_path / "parts")
    assert not list((tmp_path / "parts").rglob(".*"))
    networks: list[ColourNetwork] = []
    monkeypatch.setattr(
        checkpoint,
        "load_any_checkpoint",
        lambda _: networks.append(ColourNetwork()) or FakeLoaded(networks[-1]),
    )
    again = run("predict", many, "--out", "parts", "--resume", *KINDS)
    assert again.exit_code == 1
    assert "5 of 8 images" in again.stderr
    assert len(networks[0].calls) == 2
    assert again.stdout == whole.stdout
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_a_name_that_is_not_text_resumes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"B\xe4r.png")
    sources = [save_coloured(tmp_path / name), save_coloured(tmp_path / "other.png")]
    whole = run("predict", *sources, "--out", "whole", *KINDS)
    assert whole.exit_code == 0, whole.output
    with monkeypatch.context() as patch:
        stop_at(patch, 1, KeyboardInterrupt())
        assert run("predict", *sources, "--out", "parts", *KINDS).exit_code == 130
    again = run("predict", *sources, "--out", "parts", "--resume", *KINDS)
    assert again.exit_code == 0, again.output
    assert "1 of 2 images" in again.stderr
    assert again.stdout == whole.stdout
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


@pytest.fixture
def stopped(run: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a call that was stopped at the seventh image; 0, 1, 2, 4 and 5 are done."""
    with monkeypatch.context() as patch:
        stop_at(patch, 6, KeyboardInterrupt())
        run("predict", many, "--out", "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--score", "0.3"], "score was 0.5 and is now 0.3"),
        (["--save", "coco"], "save was ['coco', 'overlay'] and is now ['coco']"),
        (["--tile", "64"], "tile was 'auto' and is now 64"),
    ],
)
def test_another_call_is_refused(run: Run, many: Path, stopped: Path, words: list[str], reason: str) -> None:
    before = content(stopped)
    result = run("predict", many, "--out", stopped, "--resume", *words)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert content(stopped) == before


def test_another_model_and_other_images_are_refused(
    run: Run, many: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_coloured(many / "new.png")
    monkeypatch.setattr(checkpoint, "load_any_checkpoint", lambda _: FakeLoaded(metadata={"seed": 1}))
    result = run("predict", many, "--out", stopped, "--resume")
    assert result.exit_code == 2
    assert "the images differ (8 and 9 of them); the model differs" in result.stderr


def test_without_resume_it_starts_anew_and_says_so(run: Run, many: Path, stopped: Path) -> None:
    result = run("predict", many, "--out", stopped, "--score", "0.7")
    assert f"{stopped} holds a stopped call" in result.stderr
    assert len(json.loads((stopped / "predictions.json").read_text())["annotations"]) == 7
    assert not (stopped / "unfinished.jsonl").exists()


def test_nothing_to_resume_is_a_new_call(run: Run, many: Path, tmp_path: Path) -> None:
    assert run("predict", many, "--out", "out", "--resume").exit_code == 1
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 7


def test_what_changed_or_is_gone_is_done_again(run: Run, many: Path, stopped: Path) -> None:
    (stopped / "1.overlay.png").unlink()
    save_coloured(many / "2.png", 200, 100)
    with (stopped / "unfinished.jsonl").open("a") as file:
        file.write('{"number": 7, "pa')  # cut off by the kill
    (stopped / ".0.overlay-0123456789ab~.png").write_bytes(b"half")
    result = run("predict", many, "--out", stopped, "--resume")
    assert "3 of 8 images" in result.stderr
    found = json.loads((stopped / "predictions.json").read_text())
    assert [(image["id"], image["width"]) for image in found["images"]] == [
        (number + 1, 200 if number == 2 else 64 + 4 * number) for number in range(8) if number != 3
    ]
    assert [a["id"] for a in found["annotations"]] == list(range(1, 15))
    assert not list(stopped.glob(".*"))


def test_a_damaged_log(run: Run, many: Path, stopped: Path) -> None:
    log = stopped / "unfinished.jsonl"
    for text in ("", "{\n", "[]\n", '{"score": 0.5}\n{"number": 1}\n'):
        log.write_text(text)
        result = run("predict", many, "--out", stopped, "--resume")
        assert result.exit_code == 2
        assert f"{log} is damaged" in result.stderr


def test_what_resume_does_not_go_with(run: Run, many: Path, tmp_path: Path) -> None:
    result = run("predict", many, "--save", "none", "--resume")
    assert result.exit_code == 2
    assert "resume" in result.stderr
    (tmp_path / "clip.mp4").write_bytes(b"")
    result = run("predict", many, tmp_path / "clip.mp4", "--resume")
    assert result.exit_code == 2
    assert "resume" in result.stderr


def test_an_image_that_vanishes_is_reported_and_the_others_are_processed(
    run: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pipeline.write_item

    def vanish(found: Any, item: ResultItem) -> list[Path]:
        (many / "7.png").unlink(missing_ok=True)
        return write(found, item)

    monkeypatch.setattr(pipeline, "write_item", vanish)
    # Images are read a few ahead, the last only after the first is written.
    for number in range(20):
        save_coloured(many / f"{number:03}.png")
    result = run("predict", many, "--out", "out")
    assert result.exit_code == 1
    assert "7.png: cannot be read" in result.stderr
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 26


def test_a_full_disk_is_an_error_of_every_verb(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instancefcn.data.synthetic import write_shapes

    data = write_shapes(tmp_path / "data", train=2, val=1, size=32)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("json.dumps", full)
    result = run("convert", data, "out", "--to", "labelme")
    assert result.exit_code == 2
    assert result.stderr.endswith("No space left on device\n")


@pytest.mark.parametrize(("kinds", "again"), [("coco,overlay,csv", 2), ("coco,labelme", 8)])
def test_images_that_moved_are_the_same(
    run: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: str, again: int
) -> None:
    """LabelMe's files say where their images are: these are written anew."""
    with monkeypatch.context() as patch:
        stop_at(patch, 6, KeyboardInterrupt())
        run("predict", many, "--out", "parts", "--save", kinds)
    moved = tmp_path / "scratch" / "images"
    moved.parent.mkdir()
    many.rename(moved)
    networks: list[ColourNetwork] = []
    monkeypatch.setattr(
        checkpoint,
        "load_any_checkpoint",
        lambda source: networks.append(ColourNetwork()) or FakeLoaded(networks[-1]),
    )
    result = run("predict", moved, "--out", "parts", "--save", kinds, "--resume")
    assert result.exit_code == 1, result.output  # for the unreadable one
    assert len(networks[0].calls) == (again if again < 8 else 7)
    run("predict", moved, "--out", "whole", "--save", kinds)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
