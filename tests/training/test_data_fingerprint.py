"""A resumed run notices that its data are no longer what they were."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from instancefcn.data.conversion import convert
from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.synthetic import write_shapes
from instancefcn.errors import CheckpointError, DataError
from instancefcn.training.data_fingerprint import check_fingerprint, write_fingerprint


@pytest.fixture
def split(tmp_path: Path) -> Dataset:
    return open_dataset(write_shapes(tmp_path / "data", train=4, val=1, size=32), "train")


def test_the_same_data_pass(split: Dataset, tmp_path: Path) -> None:
    check_fingerprint(tmp_path / "data.json", {"train": split})  # an older run has no record
    write_fingerprint(tmp_path / "data.json", {"train": split})
    check_fingerprint(tmp_path / "data.json", {"train": open_dataset(tmp_path / "data", "train")})


def test_what_changed_is_named(split: Dataset, tmp_path: Path) -> None:
    write_fingerprint(tmp_path / "data.json", {"train": split})
    first, second, third, fourth = split.images
    moved = replace(first.annotations[0], area=first.annotations[0].area + 1)
    elsewhere = tmp_path / "new.png"
    elsewhere.write_bytes(b"")
    images = (
        replace(first, annotations=(moved, *first.annotations[1:])),
        second,
        replace(third, path=elsewhere),
        fourth,
    )
    renamed = ("disc", *split.class_names[1:])
    with pytest.raises(DataError) as caught:
        check_fingerprint(
            tmp_path / "data.json",
            {"train": replace(split, images=images, class_names=renamed), "val": split},
        )
    message = str(caught.value)
    for part in (
        "1 of 4 images gone: " + str(third.path),
        "1 of 4 images new: " + str(elsewhere),
        "1 of 4 images changed (file or annotations): " + str(first.path),
        "the classes were [['circle', 3]",
        "val: is new",
        "start a new run in another folder",
    ):
        assert part in message
    assert str(second.path) not in message


def test_a_file_of_another_length_and_another_order_count(split: Dataset, tmp_path: Path) -> None:
    write_fingerprint(tmp_path / "data.json", {"train": split})
    with pytest.raises(DataError, match="another order"):
        check_fingerprint(tmp_path / "data.json", {"train": split.subset((1, 0, 2, 3))})
    with split.images[3].path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"1 of 4 images changed .*train_0003\.png"):
        check_fingerprint(tmp_path / "data.json", {"train": split})


def test_a_damaged_record(split: Dataset, tmp_path: Path) -> None:
    for content in ("{", "[]", '{"train": {}}'):
        (tmp_path / "data.json").write_text(content)
        with pytest.raises(CheckpointError, match="is damaged"):
            check_fingerprint(tmp_path / "data.json", {"train": split})


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "labelme"])
def test_data_that_moved_as_a_whole_are_the_same(to: str, tmp_path: Path) -> None:
    """In every format that `convert` writes; content that changed on the way is still noticed."""
    convert(write_shapes(tmp_path / "shapes", train=3, val=1, size=32), tmp_path / "here" / "data", to)
    splits = {name: open_dataset(tmp_path / "here" / "data", name) for name in ("train", "val")}
    write_fingerprint(tmp_path / "data.json", splits)
    elsewhere = tmp_path / "scratch" / "of" / "a job"
    elsewhere.mkdir(parents=True)
    (tmp_path / "here" / "data").rename(elsewhere / "copy")
    moved = {name: open_dataset(elsewhere / "copy", name) for name in ("train", "val")}
    assert moved["train"].images[0].path != splits["train"].images[0].path
    check_fingerprint(tmp_path / "data.json", moved)

    last = moved["train"].images[-1].path
    content = bytearray(last.read_bytes())
    content[-9] ^= 1
    last.write_bytes(content)
    with pytest.raises(DataError, match=f"1 of 3 images changed .*{last.name}"):
        check_fingerprint(tmp_path / "data.json", moved)
    last.unlink()
    fewer = {**moved, "train": moved["train"].subset((0, 1))}
    with pytest.raises(DataError, match=f"1 of 3 images gone: .*{last.name}"):
        check_fingerprint(tmp_path / "data.json", fewer)


def test_images_in_two_folders_of_which_one_moved(tmp_path: Path) -> None:
    """Only what is no longer there is looked for elsewhere."""
    data = open_dataset(write_shapes(tmp_path / "a", train=2, val=1, size=32), "train")
    beside = tmp_path / "stays" / "last.png"
    beside.parent.mkdir()
    shutil.copy(data.images[1].path, beside)
    two_places = replace(data, images=(data.images[0], replace(data.images[1], path=beside)))
    write_fingerprint(tmp_path / "data.json", {"train": two_places})
    (tmp_path / "a").rename(tmp_path / "b")
    first = replace(data.images[0], path=tmp_path / "b" / "images" / data.images[0].path.name)
    check_fingerprint(
        tmp_path / "data.json", {"train": replace(two_places, images=(first, two_places.images[1]))}
    )


def test_a_record_of_an_older_run_has_no_digest_of_the_files(split: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    write_fingerprint(path, {"train": split})
    record = json.loads(path.read_text())
    record["train"]["images"] = {
        name: digest.split()[0] for name, digest in record["train"]["images"].items()
    }
    path.write_text(json.dumps(record))
    check_fingerprint(path, {"train": split})
    changed = replace(split, images=(replace(split.images[0], height=31), *split.images[1:]))
    with pytest.raises(DataError, match="1 of 4 images changed"):
        check_fingerprint(path, {"train": changed})
