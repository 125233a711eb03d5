"""`evaluate`: the figures, the files it leaves, the model's classes against the dataset's, and the
command.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fakes import NAMES, ColourNetwork, FakeLoaded, save_coloured
from instancefcn.cli.main import app
from instancefcn.errors import DataError
from instancefcn.evaluation.report import format_figure, table
from instancefcn.evaluation.run import evaluate
from instancefcn.inference.predictor import Predictor
from instancefcn.instances import Instances


def write_split(folder: Path, names: tuple[str, ...] = NAMES, split: str = "val") -> Path:
    """Two images with a red and a green object each, exactly as the fake network sees them."""
    objects = {"red": (20, 10, 30, 20), "green": (90, 40, 30, 30)}
    images, annotations = [], []
    for number in (1, 2):
        save_coloured(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 80})
        for name in names:
            x, y, w, h = objects.get(name, (0, 0, 5, 5))
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": 50 - names.index(name),
            }
            annotations.append(annotation | {"bbox": [x, y, w, h], "segmentation": [polygon], "area": w * h})
    categories = [{"id": 50 - i, "name": name} for i, name in enumerate(names)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(FakeLoaded(), "cpu")  # type: ignore[arg-type]


def test_figures_and_files(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_split(tmp_path / "data")
    metrics = evaluate(folder, predictor, out=tmp_path / "report")
    # The data's ids, and so its labels, are in the opposite order of the model's: classes are matched by
    # name.
    assert metrics["mask"]["AP50"] == pytest.approx(1.0)
    assert metrics["box"]["AP50"] == pytest.approx(1.0)
    assert metrics["voc"]["mAP50"] == pytest.approx(1.0)
    assert set(metrics["per_class"]) == {"red", "green"}
    assert set(metrics["proposals"]) == {"AR@10", "AR@100", "AR@1000", "ARs", "ARm", "ARl", "box"}
    assert metrics["proposals"]["AR@10"] == pytest.approx(metrics["mask"]["AP"])
    assert metrics["images"] == 2
    assert metrics["seconds_per_image"] > 0
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == metrics
    for name in ("precision_recall.png", "recall.png", "worst.png", "typical.png"):
        with Image.open(tmp_path / "report" / name) as image:
            assert min(image.size) > 100


@pytest.mark.parametrize("ids", [(-1, -2), (-7, 4), (2**53 - 1, 0)])
def test_images_of_any_ids(tmp_path: Path, predictor: Predictor, ids: tuple[int, int]) -> None:
    """faster-coco-eval does not accept negative ids."""
    folder = write_split(tmp_path)
    expected = evaluate(folder, predictor)
    document = json.loads((folder / "val.json").read_text())
    for records, key in ((document["images"], "id"), (document["annotations"], "image_id")):
        for record in records:
            record[key] = ids[record[key] - 1]
    (folder / "val.json").write_text(json.dumps(document))
    found = evaluate(folder, predictor)
    assert found | {"seconds_per_image": 0} == expected | {"seconds_per_image": 0}


def test_a_class_that_the_model_does_not_know(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_split(tmp_path, ("red", "green", "mauve"))
    with pytest.raises(DataError, match="mauve"):
        evaluate(folder, predictor)


def test_classes_that_the_dataset_lacks_do_not_count(tmp_path: Path, predictor: Predictor) -> None:
    metrics = evaluate(write_split(tmp_path, ("green",)), predictor)
    assert metrics["mask"]["AP50"] == pytest.approx(1.0)
    assert list(metrics["per_class"]) == ["green"]


class ObjectNetwork(ColourNetwork):
    """Finds the same without saying what it is; its category id is not the one of `Dataset.as_objects`."""

    def _find(self, image: torch.Tensor, size: tuple[int, int]) -> Instances:
        found = super()._find(image, size)
        labels = torch.zeros_like(found.labels)
        return replace(found, labels=labels, class_names=("object",), category_ids=(7,))


def test_a_class_agnostic_model_is_measured_on_all_objects(tmp_path: Path) -> None:
    loaded = FakeLoaded(ObjectNetwork(), class_names=("object",), category_ids=(7,))
    predictor = Predictor(loaded, "cpu")  # type: ignore[arg-type]
    # "mauve" is a third object in each image, which the network does not find.
    folder = write_split(tmp_path / "data", ("red", "green", "mauve"))
    metrics = evaluate(folder, predictor, out=tmp_path / "report")
    assert list(metrics["per_class"]) == ["object"]
    assert metrics["proposals"]["box"]["AR@10"] == pytest.approx(2 / 3)
    # Red and green come first without a false alarm: precision 1 up to recall 2/3, that is at 67 of the 101
    # recalls 0, 0.01, ..., 1.
    assert metrics["mask"]["AP50"] == pytest.approx(67 / 101)


def test_a_model_of_objects_on_data_of_objects(tmp_path: Path) -> None:
    """Data of the one class "object" keeps its own category id."""
    loaded = FakeLoaded(ObjectNetwork(), class_names=("object",), category_ids=(7,))
    predictor = Predictor(loaded, "cpu")  # type: ignore[arg-type]
    metrics = evaluate(write_split(tmp_path, ("object",)), predictor)
    assert list(metrics["per_class"]) == ["object"]
    assert metrics["proposals"]["AR@10"] == 0.0, "the split's objects are not the coloured ones"


def test_only_the_named_split_need_exist(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_split(tmp_path, split="holdout")
    assert evaluate(folder, predictor, split="holdout")["images"] == 2
    with pytest.raises(DataError, match=r"val\.json"):
        evaluate(folder, predictor)


def test_table_shows_what_is_not_defined(tmp_path: Path, predictor: Predictor) -> None:
    assert (format_figure(None), format_figure(0.12345)) == ("-", "0.123")
    metrics = evaluate(write_split(tmp_path), predictor)
    lines = table(metrics).splitlines()
    assert lines[0].split() == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert lines[1].split()[0] == "mask"
    assert lines[1].split()[-1] == "-", "no object is large"
    title = next(number for number, line in enumerate(lines) if line.startswith("proposals"))
    assert lines[title].split()[-6:] == ["AR@10", "AR@100", "AR@1000", "ARs", "ARm", "ARl"]
    for line, figures in (
        (lines[title + 1], metrics["proposals"]),
        (lines[title + 2], metrics["proposals"]["box"]),
    ):
        assert line.split()[1:] == [format_figure(figures[name]) for name in lines[title].split()[-6:]]
        assert len(line) == len(lines[0]), "columns stand below those of AP"
    # Metrics in older checkpoints have no proposals.
    del metrics["proposals"]
    assert "proposals" not in table(metrics)


def test_command(tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_split(tmp_path / "data", split="test")
    monkeypatch.setattr("instancefcn.evaluation.run.load", lambda model, **_: predictor)
    arguments = [
        "eval",
        str(folder),
        "--model",
        "any",
        "--split",
        "test",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "mask" in result.stdout
    assert "VOC mAP^r" in result.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures) == {
        *("mask", "box", "voc", "proposals", "attainable", "per_class", "images", "seconds_per_image"),
        *("precision", "max_objects", "limited_images"),
    }


def test_a_limit_below_the_objects_is_said(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_split(tmp_path / "data")
    metrics = evaluate(folder, predictor, max_objects=1)
    assert (metrics["max_objects"], metrics["limited_images"]) == (1, 2)
    assert "Images that may hold more than the limit of 1 objects: 2;" in table(metrics)
    assert metrics["proposals"]["AR@10"] == pytest.approx(0.5)
    metrics = evaluate(folder, predictor, max_objects=2)  # all are found, but there may be more
    assert metrics["limited_images"] == 2
    metrics = evaluate(folder, predictor)
    assert (metrics["max_objects"], metrics["limited_images"]) == (100, 0)
    assert "limit" not in table(metrics)


def test_detections_have_the_ids_of_the_data(tmp_path: Path, predictor: Predictor) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    folder = write_split(tmp_path / "data")
    document = json.loads((folder / "val.json").read_text())
    for records, key in ((document["images"], "id"), (document["annotations"], "image_id")):
        for record in records:
            record[key] = (397133, 5)[record[key] - 1]
    (folder / "val.json").write_text(json.dumps({"info": {}, **document}))
    evaluate(folder, predictor, out=tmp_path / "report")
    found = json.loads((tmp_path / "report" / "detections.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in found] == [
        (id_, category) for id_ in (397133, 5) for category in (50, 49)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = coco.COCO(str(folder / "val.json")).loadRes(str(tmp_path / "report" / "detections.json"))
    assert len(loaded.getAnnIds(imgIds=[397133], catIds=[49])) == 1
