from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from instancefcn.data.formats.layouts import open_datasets, splits_of
from instancefcn.errors import ConfigError, DataError, OutputError
from instancefcn.studio.labelling.export import write_files
from instancefcn.studio.labelling.opening import Labels, open_labels
from instancefcn.studio.labelling.store import Edit
from labelling import photos, save_image


def opened(source: Path, out: Path | None = None, *classes: str) -> Labels:
    return open_labels(source, out, classes)


def names(labels: Labels) -> list[str]:
    return [name for _, name, _, _ in labels.store.images()]


def label_all(labels: Labels, splits: dict[str, str]) -> None:
    """One object in every image, which is labelled and in the split that `splits` says."""
    for id_, name, _, _ in labels.store.images():
        labels.store.set_size(id_, 200, 150)
        row = labels.store.image(id_)
        one = {
            "image": id_,
            "class": 1,
            "segmentation": [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]],
            "box": [10.0, 10.0, 30.0, 30.0],
            "area": 400.0,
            "crowd": 0,
            "deleted": 0,
        }
        after = {**row, "done": 1, "split": splits[name]}
        number = labels.store.next_id("objects")
        labels.store.change(id_, "x", [Edit("objects", number, None, one), Edit("images", id_, row, after)])


def test_a_folder_of_images(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    save_image(source / "deep" / "4.png")
    labels = opened(source)
    assert labels.store.out == tmp_path / "photos-labelled"
    assert names(labels) == ["0.png", "1.png", "2.png", "deep/4.png"]
    assert labels.store.classes() == {1: "object"}
    labels.store.close()
    # Images that came since are added; classes too. The folder of the labels says the same as the images'.
    save_image(source / "5.png")
    labels = opened(tmp_path / "photos-labelled", None, "cat", "object")
    assert names(labels) == ["0.png", "1.png", "2.png", "deep/4.png", "5.png"]
    assert labels.store.classes() == {1: "object", 2: "cat"}
    labels.store.close()


def test_links_to_images_elsewhere_are_followed(tmp_path: Path) -> None:
    image = save_image(tmp_path / "archive" / "a.png")
    source = tmp_path / "photos"
    source.mkdir()
    (source / "link.png").symlink_to(image)
    labels = opened(source)
    assert names(labels) == ["link.png"]
    labels.store.close()


def test_the_files_are_a_data_set_and_the_images_stay(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    save_image(source / "deep" / "4.png")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.rglob("*.png")}
    labels = opened(source, tmp_path / "set", "cat", "dog")
    label_all(labels, {"0.png": "train", "1.png": "val", "2.png": "train", "deep/4.png": "train"})
    assert write_files(labels) == {"train": 3, "val": 1}
    assert splits_of(tmp_path / "set") == ["train", "val"]
    train, val = open_datasets(tmp_path / "set", ["train", "val"])
    assert train.class_names == val.class_names == ("cat", "dog")
    assert [image.path.relative_to(tmp_path / "set").as_posix() for image in train.images] == [
        "images/0.png",
        "images/2.png",
        "images/deep/4.png",
    ]
    assert val.images[0].annotations[0].area == 400
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.rglob("*.png")} == before

    # An image that is labelled no longer leaves its split.
    row = labels.store.image(2)
    labels.store.change(2, "x", [Edit("images", 2, row, {**row, "done": 0})])
    assert write_files(labels) == {"train": 3}
    assert splits_of(tmp_path / "set") == ["train"]
    labels.store.close()


def test_a_data_set_is_opened_with_its_splits_classes_and_ids(tmp_path: Path, shapes_folder: Path) -> None:
    digest = hashlib.sha256((shapes_folder / "train.json").read_bytes()).digest()
    before = json.loads((shapes_folder / "val.json").read_text())
    labels = opened(shapes_folder, tmp_path / "out")
    assert labels.store.labelled() == (6, 2, 6)
    assert list(labels.store.classes()) == [one["id"] for one in before["categories"]]
    write_files(labels)
    old = open_datasets(shapes_folder, ["train", "val"])
    new = open_datasets(tmp_path / "out", ["train", "val"])
    for a, b in zip(old, new, strict=True):
        assert (a.class_names, a.category_ids) == (b.class_names, b.category_ids)
        outlines = [
            [(o.label, o.box, o.segmentation, o.area) for o in image.annotations] for image in a.images
        ]
        again = [[(o.label, o.box, o.segmentation, o.area) for o in image.annotations] for image in b.images]
        assert outlines == again
    assert hashlib.sha256((shapes_folder / "train.json").read_bytes()).digest() == digest
    labels.store.close()


def test_problems_of_a_data_set_are_kept_to_be_shown(tmp_path: Path) -> None:
    source = tmp_path / "set"
    save_image(source / "images" / "a.png")
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0}
    good = {**annotation, "segmentation": [[10, 10, 30, 10, 30, 30]]}
    bad = {**annotation, "id": 8, "segmentation": [[10, 10]]}
    images = [{"id": 1, "file_name": "a.png", "width": 200, "height": 150}]
    content = {"images": images, "annotations": [good, bad], "categories": [{"id": 1, "name": "cat"}]}
    (source / "train.json").write_text(json.dumps(content))
    labels = opened(source, tmp_path / "out")
    assert labels.store.labelled() == (1, 0, 1)
    (problem,) = labels.store.fact("problems")
    assert "annotation 8" in problem
    assert [id_ for id_, _ in labels.store.objects(1)] == [7]
    labels.store.close()


def test_labels_outlive_the_folder_of_images(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", 2)
    labels = opened(source, tmp_path / "set")
    label_all(labels, {"0.png": "train", "1.png": "train"})
    write_files(labels)
    labels.store.close()
    source.rename(tmp_path / "moved")
    labels = opened(tmp_path / "set")
    assert labels.path(labels.store.image(1)).is_file()
    labels.store.close()


def test_an_opening_that_was_killed_begins_again(tmp_path: Path) -> None:
    from instancefcn.studio.labelling.store import Store

    source = photos(tmp_path / "photos")
    Store(tmp_path / "set").close()  # nothing is in it yet
    labels = opened(source, tmp_path / "set")
    assert len(names(labels)) == 3
    labels.store.close()


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    with pytest.raises(DataError, match="not found"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image found"):
        opened(tmp_path / "empty")
    with pytest.raises(OutputError, match="inside"):
        opened(source, source / "out")
    with pytest.raises(OutputError, match="inside"):
        opened(source, source)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "train.json").write_text("{}")
    with pytest.raises(OutputError, match=r"train\.json"):
        opened(source, tmp_path / "taken")
    with pytest.raises(ConfigError, match="class name"):
        opened(source, None, "good", " ")
    assert not (tmp_path / "photos-labelled").exists()
    labels = opened(source, tmp_path / "set")
    with pytest.raises(ConfigError, match="another server"):
        opened(source, tmp_path / "set")
    labels.store.close()
    with pytest.raises(OutputError, match="labels of"):
        opened(photos(tmp_path / "others"), tmp_path / "set")
