"""A COCO file as the source: results have its own ids, and COCO's tools load them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from fakes import FakeLoaded, interrupt_at, save_coloured
from instancefcn.console import Progress
from instancefcn.errors import ConfigError, DataError
from instancefcn.inference.predict import predict
from instancefcn.inference.predictor import Predictor

IMAGE_IDS = (397133, -4, 12)
CATEGORIES = {"green": 44, "blue": 2, "red": 90}


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(FakeLoaded(), "cpu")  # type: ignore[arg-type]


def write_file(path: Path, images: Path, ids: Any = IMAGE_IDS, **more: Any) -> Path:
    """Three images, in the opposite order of their names, without annotations."""
    names = [f"{number}.png" for number in (3, 2, 1)]
    for number, name in enumerate(names):
        save_coloured(images / name, 120 + 4 * number)
    records = [{"id": id_, "file_name": name} for id_, name in zip(ids, names, strict=True)]
    categories = [{"id": id_, "name": name} for name, id_ in CATEGORIES.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": records, "categories": categories, **more}))
    return path


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("data/val.json", "data/images"),
        ("data/annotations/instances_val2017.json", "data/val2017"),
        ("data/test/_annotations.coco.json", "data/test"),
        ("data/anything.json", "data"),
    ],
)
def test_results_have_the_ids_of_the_file(
    predictor: Predictor, tmp_path: Path, file: str, images: str
) -> None:
    path, out = write_file(tmp_path / file, tmp_path / images), tmp_path / "out"
    results = list(predict(path, predictor, out=out, save="coco"))
    assert [Path(result.path).name for result in results] == ["3.png", "2.png", "1.png"]
    assert results[0].instances is not None
    assert results[0].instances.category_ids == (90, 44)
    found = json.loads((out / "detections.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in found] == [
        (id_, category) for id_ in sorted(IMAGE_IDS) for category in (90, 44)
    ]
    whole = json.loads((out / "predictions.json").read_text())
    assert {image["id"]: Path(image["file_name"]).name for image in whole["images"]} == {
        397133: "3.png",
        -4: "2.png",
        12: "1.png",
    }
    assert json.loads((out / "3.coco.json").read_text()) == [
        one for one in found if one["image_id"] == 397133
    ]


def test_pycocotools_loads_them(predictor: Predictor, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    path = write_file(tmp_path / "val.json", tmp_path / "images", info={}, annotations=[])
    list(predict(path, predictor, out=tmp_path / "out", save="coco"))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = coco.COCO(str(path)).loadRes(str(tmp_path / "out" / "detections.json"))
    assert sorted({one["image_id"] for one in loaded.dataset["annotations"]}) == sorted(IMAGE_IDS)
    assert loaded.dataset["annotations"][0]["area"] > 100  # pycocotools has decoded the mask


def test_classes_that_the_file_lacks_have_new_ids_and_are_said(predictor: Predictor, tmp_path: Path) -> None:
    path = write_file(tmp_path / "val.json", tmp_path / "images", categories=[{"id": 7, "name": "green"}])
    said: list[str] = []

    class Heard(Progress):
        def line(self, text: str) -> None:
            said.append(text)

    list(predict(path, predictor, out=tmp_path / "out", save="coco", progress=Heard()))
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [one["category_id"] for one in found] == [8, 7] * 3
    assert [line for line in said if "red (8)" in line]


def test_text_as_ids(predictor: Predictor, tmp_path: Path) -> None:
    path = write_file(tmp_path / "val.json", tmp_path / "images", ids=("c", "0007", "a"))
    list(predict(path, predictor, out=tmp_path / "out", save="coco"))
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [one["image_id"] for one in found] == ["0007", "0007", "a", "a", "c", "c"]


def test_a_stopped_call_resumes_with_the_same_ids(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(tmp_path / "val.json", tmp_path / "images")
    list(predict(path, predictor, out=tmp_path / "whole", save="coco"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, len(predictor.network.calls) + 2)  # type: ignore[arg-type, operator]
        with pytest.raises(KeyboardInterrupt):
            list(predict(path, predictor, out=tmp_path / "parts", save="coco"))
    write_file(tmp_path / "val.json", tmp_path / "images", ids=(1, 2, 3))
    with pytest.raises(ConfigError, match="ids"):
        list(predict(path, predictor, out=tmp_path / "parts", save="coco", resume=True))
    write_file(tmp_path / "val.json", tmp_path / "images")
    list(predict(path, predictor, out=tmp_path / "parts", save="coco", resume=True))
    for name in ("detections.json", "predictions.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_everything_wrong_with_a_file_is_named(predictor: Predictor, tmp_path: Path) -> None:
    path = write_file(tmp_path / "val.json", tmp_path / "images")
    content = json.loads(path.read_text())
    content["images"] += [
        {"id": 12, "file_name": "1.png"},
        {"file_name": "1.png"},
        {"id": 13, "file_name": "gone.png"},
        {"id": 14, "file_name": "../secret.png"},
        {"id": 15},
        "16",
    ]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        predict(path, predictor, out=tmp_path / "out")
    problems = caught.value.problems
    assert len(problems) == 6
    for problem, part in zip(
        problems, ("12", "record 4", "gone.png", "../secret.png", "15", "record 8"), strict=True
    ):
        assert part in problem
    path.write_text(json.dumps({**content, "images": []}))
    with pytest.raises(DataError, match="no image"):
        predict(path, predictor, out=tmp_path / "out")


def test_a_file_beside_other_sources_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    path = write_file(tmp_path / "val.json", tmp_path / "images")
    with pytest.raises(ConfigError, match=r"val\.json"):
        predict([path, tmp_path / "images"], predictor, out=tmp_path / "out")


def test_other_json_files_are_unreadable_images_as_before(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "b.json").write_text("{")
    results = list(predict([tmp_path / "a.json", tmp_path / "b.json"], predictor, save="none"))
    assert [result.error is not None for result in results] == [True, True]
