"""A resumed run notices that its data are no longer what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

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
