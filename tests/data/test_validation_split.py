"""Held-out images: how many, always the same, no scene of the training images, no class without objects."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instancefcn.data import validation_split
from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.coco import read_coco
from instancefcn.data.synthetic import write_shapes
from instancefcn.data.validation_split import hold_out, with_val
from instancefcn.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=30, val=1, size=64, seed=5)
    return read_coco(folder / "train.json", folder / "images")


def names(dataset: Dataset) -> set[str]:
    return {image.path.name for image in dataset.images}


def test_every_image_is_in_one_part_and_the_share_is_right(shapes: Dataset) -> None:
    rest, kept = hold_out(shapes, 0.2)
    assert (len(rest), len(kept)) == (24, 6)
    assert not names(rest) & names(kept)
    assert all(image in (*rest.images, *kept.images) for image in shapes.images)
    numbers = [shapes.images.index(image) for image in kept.images]
    assert numbers == sorted(numbers), "in the order of the file"
    assert numbers != list(range(numbers[0], numbers[0] + 6)), "hashes decide, not the order"


def test_the_choice_depends_on_names_only_and_hardly_changes_when_images_are_added(shapes: Dataset) -> None:
    _, kept = hold_out(shapes, 0.2)
    _, again = hold_out(replace(shapes, images=shapes.images[::-1]), 0.2)
    assert names(again) == names(kept)
    _, of_fewer = hold_out(shapes.subset(range(25)), 0.2)
    assert len(names(of_fewer) - names(kept)) <= 2


def test_images_that_look_alike_stay_together(shapes: Dataset, tmp_path: Path) -> None:
    """Five images, each three times: the file, a copy of it, and one encoded again."""
    images = []
    for number, image in enumerate(shapes.images[:5]):
        for copy in range(3):
            path = tmp_path / f"{copy}_{number}.png"
            if copy < 2:
                path.write_bytes(image.path.read_bytes())
            else:
                path = path.with_suffix(".jpg")
                Image.open(image.path).convert("RGB").save(path, quality=90)
            images.append(replace(image, id=len(images) + 1, path=path))
    _, kept = hold_out(replace(shapes, images=tuple(images)), 0.45)
    scenes = [path.split("_")[1].split(".")[0] for path in names(kept)]
    assert len(kept) == 6
    assert all(scenes.count(scene) == 3 for scene in scenes)


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.sets(st.integers(0, 3), max_size=3), min_size=2, max_size=12),
    share=st.floats(0.05, 0.95),
)
def test_no_class_is_left_without_an_object_to_train_on(labels: list[set[int]], share: float) -> None:
    box = (0.0, 0.0, 2.0, 2.0)
    images = [
        ImageRecord(i, Path(f"{i}.png"), 4, 4, tuple(Annotation(label, label, box, [], 4.0) for label in own))
        for i, own in enumerate(labels)
    ]
    dataset = Dataset("some", tuple(images), ("a", "b", "c", "d"), (1, 2, 3, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_split, "_groups", lambda dataset, _: [[i] for i in range(len(dataset))])
        try:
            rest, kept = hold_out(dataset, share)
        except DataError:
            alone = [any(sum(x in own for own in labels) == 1 for x in own) for own in labels if own]
            assert all(alone), "each image with objects has the only object of some class"
            return
    assert 1 <= len(kept) <= max(1, round(share * len(labels)))
    assert len(rest) >= 1
    assert any(image.annotations for image in kept.images)
    assert {a.label for p in rest.images for a in p.annotations} == set().union(*labels)


def test_the_only_split_becomes_train_and_others_do_not_change(shapes: Dataset) -> None:
    assert list(with_val({"export": shapes}, 0.1)) == ["train", "val"]
    splits = with_val({"train": shapes, "test": shapes.subset([0, 1])}, 0.1)
    assert [(name, len(split)) for name, split in splits.items()] == [("train", 27), ("val", 3), ("test", 2)]


def test_what_cannot_be_held_out(shapes: Dataset) -> None:
    with pytest.raises(DataError, match=re.escape(shapes.name)):
        hold_out(shapes.subset([3]), 0.5)
    for share in (0.0, 1.0, -0.2, float("nan")):
        with pytest.raises(ConfigError, match=f"{share:g}"):
            with_val({"train": shapes}, share)
    with pytest.raises(ConfigError, match="val"):
        with_val({"train": shapes, "val": shapes}, 0.2)
    with pytest.raises(ConfigError, match="a, b"):
        with_val({"a": shapes, "b": shapes}, 0.2)


def in_groups(shapes: Dataset, groups: list[list[int]], share: float) -> list[str]:
    """The paths of held-out images if the images of each group look alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_split, "_groups", lambda *_: groups)
        return [str(image.path) for image in hold_out(shapes, share)[1].images]


def test_the_error_names_a_share_that_is_large_enough(shapes: Dataset) -> None:
    groups = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(10)]
    with pytest.raises(DataError, match=r" 3;.* 0\.1$"):
        in_groups(shapes, groups, 0.05)
    assert len(in_groups(shapes, groups, 0.1)) == 3


def test_equal_names_in_other_folders_are_shuffled(shapes: Dataset) -> None:
    images = tuple(
        replace(image, path=Path(f"/data/scan{i:02}/image.png")) for i, image in enumerate(shapes.images)
    )
    kept = in_groups(replace(shapes, images=images), [[i] for i in range(30)], 0.2)
    assert kept != [f"/data/scan{i:02}/image.png" for i in range(6)]
    moved = tuple(replace(image, path=Path("/elsewhere") / image.path) for image in images)
    assert in_groups(replace(shapes, images=moved), [[i] for i in range(30)], 0.2) == kept


def test_a_scene_of_many_images_counts_once(shapes: Dataset) -> None:
    """Half of the images are of one scene each, half of five scenes: both are held out equally often."""
    groups = [[i] for i in range(15)] + [[15 + 3 * j + i for i in range(3)] for j in range(5)]
    kept = 0
    for draw in range(40):
        images = tuple(replace(image, path=Path(f"{draw}_{i}.png")) for i, image in enumerate(shapes.images))
        names = in_groups(replace(shapes, images=images), groups, 0.3)
        kept += sum(int(Path(name).stem.split("_")[1]) >= 15 for name in names)
    assert 0.35 < kept / (40 * 9) < 0.6
