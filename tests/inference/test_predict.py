"""`predict` from Python: typed results, files, and the same errors as the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fakes import FakeLoaded, save_coloured
from instancefcn import ConfigError, FileResult, ImageError, Predictor, predict, propose
from instancefcn.console import Progress


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(FakeLoaded(), "cpu")  # type: ignore[arg-type]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a", "b", "d"):
        save_coloured(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "c.png").write_text("not an image")
    return tmp_path / "images"


def equal(one: FileResult, other: FileResult) -> bool:
    a, b = one.instances, other.instances
    assert a is not None
    assert b is not None
    tensors = [(a.boxes, b.boxes), (a.scores, b.scores), (a.labels, b.labels)]
    same = all(torch.equal(x, y) for x, y in tensors) and a.rles() == b.rles()
    return same and (a.class_names, a.source) == (b.class_names, b.source)


class Recorder(Progress):
    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.lines: list[str] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_results_and_files(images: Path, tmp_path: Path, predictor: Predictor) -> None:
    seen = Recorder()
    results = list(predict(images, predictor, out=tmp_path / "out", save=("coco", "cutouts"), progress=seen))
    assert [Path(result.path).name for result in results] == ["a.png", "b.png", "c.png", "d.png"]
    assert isinstance(results[2].error, ImageError)
    assert results[2].files == ()
    assert results[0].instances is not None
    assert results[0].instances.names == ["red", "green"]
    assert [file.relative_to(tmp_path / "out").as_posix() for file in results[0].files] == [
        "a.coco.json",
        "cutouts/a-1-red.png",
        "cutouts/a-2-green.png",
    ]
    assert seen.steps == [("images", done, 4) for done in range(5)]
    assert (tmp_path / "out" / "predictions.json").is_file()


def test_nothing_is_written_without_kinds(images: Path, tmp_path: Path, predictor: Predictor) -> None:
    for save in ((), "none"):
        results = list(predict([images / "a.png"], predictor, out=tmp_path / "out", save=save))
        assert [len(result.instances or ()) for result in results] == [2]
    assert not (tmp_path / "out").exists()


def test_resumed_results_are_the_same(images: Path, tmp_path: Path, predictor: Predictor) -> None:
    whole = list(predict(images, predictor, out=tmp_path / "whole", save="csv,coco"))
    stopped = predict(images, predictor, out=tmp_path / "out", save="csv,coco")
    first = next(stopped)
    stopped.close()
    assert (tmp_path / "out" / "unfinished.jsonl").is_file()
    seen = Recorder()
    again = list(
        predict(images, predictor, out=tmp_path / "out", save="csv,coco", resume=True, progress=seen)
    )
    assert seen.lines == ["continuing: 1 of 4 images were done before"]
    assert again[0].image is None
    assert again[0].files == first.files
    assert [result.error is None for result in again] == [True, True, False, True]
    assert all(equal(one, other) for one, other in zip(again, whole, strict=True) if one.error is None)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert not (tmp_path / "out" / "unfinished.jsonl").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"save": ("overlay", "pdf")}, "pdf"),
        ({"batch": 0}, "batch"),
        ({"frames": 0}, "frames"),
        ({"explain": True, "tile": 64}, "tile"),
        ({"save": (), "resume": True}, "resume"),
    ],
)
def test_mistakes_show_before_the_work(
    images: Path, predictor: Predictor, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        predict(images, predictor, **wrong)  # type: ignore[arg-type]


def test_proposals_need_an_instance_fcn(images: Path, predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="InstanceFCN"):
        propose(images, predictor)
