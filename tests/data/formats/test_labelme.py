"""LabelMe folders as people have them: stale paths, embedded images, own results, other kinds of shapes."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.conftest import shape
from instancefcn.data.conversion import convert
from instancefcn.data.dataset import Dataset
from instancefcn.data.doctor.examine import examine
from instancefcn.data.doctor.fix import write_repaired_copy
from instancefcn.data.formats.labelme import RESULT_VERSION, VERSION
from instancefcn.data.formats.layouts import open_dataset, read_split
from instancefcn.data.loader import load_scene
from instancefcn.data.unusable import Unusable, without_unusable
from instancefcn.errors import DataError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.decoding import read_image
from instancefcn.inference.result_formats import LabelMe, ResultItem
from instancefcn.instances import Instances

TRIANGLE = [[20.0, 30.0], [60.0, 30.0], [60.0, 80.0]]


def write(path: Path, shapes: list[Any], **fields: Any) -> Path:
    """A file about the image of its name, 280 x 260."""
    whole = {"version": VERSION, "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.jpg"}
    whole |= {"imageData": None, "imageHeight": 260, "imageWidth": 280, **fields}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One annotated image, a.jpg."""
    data = tmp_path / "data"
    write(data / "a.json", [shape("cat", TRIANGLE)])
    noise = np.random.default_rng(0).integers(0, 256, (260, 280, 3), np.uint8)
    Image.fromarray(noise).save(data / "a.jpg")
    return data


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "written", ["C:\\Users\\me\\a.jpg", "/home/me/a.jpg", "../pics/a.jpg", "..\\..\\a.jpg", "old/a.jpg"]
)
def test_a_stale_path_leads_to_the_file_beside(folder: Path, written: str) -> None:
    change(folder / "a.json", imagePath=written)
    shutil.copytree(folder, folder / "deep")
    (folder / "a.json").unlink()
    (folder / "a.jpg").unlink()
    dataset = open_dataset(folder, "train")
    assert [image.path for image in dataset.images] == [folder / "deep" / "a.jpg"]
    assert any(str(folder / "deep" / "a.jpg") in note for note in dataset.notes)


def test_the_problem_of_a_path_names_it_once(folder: Path) -> None:
    change(folder / "a.json", imagePath="C:\\gone.jpg")
    with pytest.raises(DataError) as caught:
        read_split(folder, "train")
    (problem,) = caught.value.problems
    assert problem.count("gone.jpg") == 1
    assert "imagePath" in problem
    assert "file_name" not in problem


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
@pytest.mark.parametrize("path", ["a.jpg", "C:\\me\\a.jpg", None])
def test_an_image_inside_its_file(folder: Path, tmp_path: Path, path: str | None, prefix: str) -> None:
    """It is decoded, inspected, trained on, converted and repaired like any other."""
    pixels = read_image(folder / "a.jpg")
    text = prefix + base64.b64encode((folder / "a.jpg").read_bytes()).decode()
    (folder / "a.jpg").unlink()
    change(folder / "a.json", imagePath=path, imageData=text)
    dataset = open_dataset(folder, "train")
    (image,) = dataset.images
    assert image.path == folder / "a.json"
    assert any("imageData" in note and "(a.json)" in note for note in dataset.notes)
    assert torch.equal(load_scene(image).image, pixels)
    convert(folder, tmp_path / "coco", "coco")
    (converted,) = open_dataset(tmp_path / "coco", "train").images
    assert converted.path.name == "a.jpg"
    assert torch.equal(read_image(converted.path), pixels)
    write_repaired_copy(examine(folder), tmp_path / "copy")
    (copied,) = open_dataset(tmp_path / "copy", "train").images
    assert copied.path.name == "a.jpg"
    assert torch.equal(read_image(copied.path), pixels)


@pytest.mark.parametrize("text", ["", "bm8gaW1hZ2U=", 3])
def test_a_file_without_a_valid_image(folder: Path, text: object) -> None:
    (folder / "a.jpg").unlink()
    change(folder / "a.json", imageData=text)
    with pytest.raises(DataError, match=r"a\.json"):
        open_dataset(folder, "train")


def results(folder: Path, out: Path, count: int = 1) -> Path:
    """What `predict --save labelme` writes for a.jpg, with `count` objects."""
    image = read_image(folder / "a.jpg")
    masks = torch.zeros(count, *image.shape[1:], dtype=torch.uint8)
    masks[:, 100:150, 100:150] = 1
    boxes = torch.tensor([[100.0, 100.0, 150.0, 150.0]] * count).reshape(-1, 4)
    labels = torch.zeros(count, dtype=torch.int64)
    found = Instances(
        boxes, torch.full((count,), 0.75), labels, CroppedMasks.from_dense(masks), ("dog",), (1,)
    )
    (path,) = LabelMe(out, ("dog",), (1,)).write(ResultItem(0, "a", folder / "a.jpg", image, found))
    return path


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("out", ["", "out"])
def test_own_results_are_left_out(folder: Path, out: str, count: int) -> None:
    path = results(folder, folder / out, count)
    dataset = open_dataset(folder, "train")
    assert dataset.class_names == ("cat",)
    assert [len(image.annotations) for image in dataset.images] == [1]
    (note,) = [note for note in dataset.notes if "results" in note]
    assert str(path.relative_to(folder)) in note


def test_results_without_a_mark_are_left_out(folder: Path) -> None:
    """The first version wrote them."""
    path = results(folder, folder / "out")
    assert json.loads(path.read_text())["version"] == RESULT_VERSION
    change(path, version=VERSION)
    assert open_dataset(folder, "train").class_names == ("cat",)


def test_a_result_that_was_saved_in_labelme_is_an_annotation(folder: Path) -> None:
    path = results(folder, folder)
    (folder / "a.json").unlink()
    with pytest.raises(DataError) as caught:
        open_dataset(folder, "train")
    assert "labelme/a.json" in str(caught.value)
    change(path, version="5.8.1")
    assert open_dataset(folder, "train").class_names == ("dog",)


def test_other_json_files_are_left_out_and_named(folder: Path) -> None:
    (folder / "settings.json").write_text('{"zoom": 2}')
    (folder / "list.json").write_text("[]")
    dataset, problems = read_split(folder, "train")
    assert problems == []
    (note,) = [note for note in dataset.notes if "settings.json" in note]
    assert "2 JSON files" in note
    (folder / "torn.json").write_text('{"imagePath": "a.jpg"}')
    (problem,) = read_split(folder, "train")[1]
    assert problem.startswith(str(folder / "torn.json"))


def test_two_files_for_one_image_are_an_error(folder: Path) -> None:
    copy = write(folder / "a (copy).json", [shape("cat", TRIANGLE)], imagePath="a.jpg")
    dataset, (problem,) = read_split(folder, "train")
    assert isinstance(problem, Unusable)
    assert ["a.json" in problem, copy.name in problem] == [True, True]
    assert problem.image == folder / "a.jpg"
    assert without_unusable(dataset, [problem]).dataset.images == ()


@pytest.mark.parametrize("kind", ["rotation", "quadrilateral", "oriented_rectangle", "rectangle"])
def test_rotated_rectangles(folder: Path, kind: str) -> None:
    corners = [[100, 50], [150, 100], [100, 150], [50, 100]]
    write(folder / "a.json", [shape("cat", corners, kind)])
    (annotation,) = open_dataset(folder, "train").images[0].annotations
    assert annotation.segmentation == [[100, 50, 150, 100, 100, 150, 50, 100]]
    assert annotation.area == pytest.approx(100 * 100 / 2, rel=0.03)


def test_numbers_as_labels(folder: Path) -> None:
    write(folder / "a.json", [shape(1, TRIANGLE), shape("1", TRIANGLE), shape(2.5, TRIANGLE)])  # type: ignore[arg-type]
    dataset = open_dataset(folder, "train")
    assert dataset.class_names == ("1", "2.5")
    assert [a.label for a in dataset.images[0].annotations] == [0, 0, 1]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (shape("x", [[1, 1], [9, 9]], "line"), ["'line'", "no area"]),
        (shape("x", [[1, 1], [9, 9], [9, 1]], "ellipse"), ["'ellipse'", "not read"]),
        (shape(None, TRIANGLE), ["has no label"]),  # type: ignore[arg-type]
        (shape(True, TRIANGLE), ["True"]),  # type: ignore[arg-type]
        (shape("a\0", TRIANGLE), ["'a\\x00'"]),
    ],
)
def test_what_is_said_of_other_shapes(folder: Path, bad: dict[str, Any], words: list[str]) -> None:
    write(folder / "a.json", [shape("cat", TRIANGLE), bad])
    dataset, (problem,) = read_split(folder, "train")
    assert all(word in problem for word in words), problem
    assert isinstance(problem, Unusable)
    region = without_unusable(dataset, [problem]).dataset.images[0].annotations[1]
    xs, ys = np.array(bad["points"]).T
    assert region.crowd
    assert region.box == (xs.min(), ys.min(), xs.max(), ys.max())


def test_a_point_costs_its_image(folder: Path) -> None:
    """Where its object ends is not known."""
    write(folder / "a.json", [shape("cat", TRIANGLE), shape("cat", [[100, 100]], "point")])
    dataset, problems = read_split(folder, "train")
    usable = without_unusable(dataset, problems)
    assert usable.dataset == Dataset(dataset.name, (), ("cat",), (1,), dataset.notes)
    assert [what for what, _ in usable.done] == ["image left out, because one of its objects cannot be read"]


def test_images_of_two_names_keep_them_in_a_copy(folder: Path, tmp_path: Path) -> None:
    """A file a.json with an image inside, and an a.jpg that another file annotates."""
    Image.new("RGB", (280, 260), "red").save(tmp_path / "red.png")
    text = base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    write(folder / "b.json", [shape("cat", TRIANGLE)], imagePath="a.jpg")
    write(folder / "a.json", [shape("cat", TRIANGLE)], imagePath="gone.png", imageData=text)
    (folder / "b.json").rename(folder / "z.json")
    shutil.copy(folder / "a.jpg", folder / "a.png")
    change(folder / "z.json", imagePath="a.png")
    write_repaired_copy(examine(folder), tmp_path / "copy")
    names = sorted(image.path.name for image in open_dataset(tmp_path / "copy", "train").images)
    assert names == ["a.json.png", "a.png"]
