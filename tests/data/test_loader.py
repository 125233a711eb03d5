"""Samples are a function of (seed, epoch, index); batches are full and equal in number over processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.loader import (
    AspectBatches,
    ImageStore,
    Sample,
    TrainSet,
)
from instancefcn.data.transforms import Augment, Resize
from instancefcn.errors import DataError, ImageError
from instancefcn.training.resumable_loader import read_batches, run_batches
from tiny import resized

AUGMENT = Augment((96, 160), 200, crop=0.5)
WIDE, TALL = (30, 40), (40, 30)


def same(a: Sample, b: Sample) -> bool:
    return (
        torch.equal(a.image, b.image)
        and torch.equal(a.target.boxes, b.target.boxes)
        and torch.equal(a.target.masks.pixels, b.target.masks.pixels)
        and a.record == b.record
        and a.scale == b.scale == a.target.scale
    )


def test_sample_depends_on_seed_epoch_and_index_only(shapes_folder: Path) -> None:
    dataset = open_dataset(shapes_folder, "train")
    one, two, other = (
        TrainSet(dataset, AUGMENT, 1),
        TrainSet(dataset, AUGMENT, 1),
        TrainSet(dataset, AUGMENT, 2),
    )
    _ = one[0, 3], one[5, 0]  # earlier items do not matter
    assert same(one[3, 1], two[3, 1])
    assert not same(one[3, 1], two[4, 1])
    assert not same(one[3, 1], other[3, 1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_workers_change_nothing_over_two_epochs(shapes_folder: Path) -> None:
    dataset = open_dataset(shapes_folder, "train")
    seen: list[list[Sample]] = []
    for workers in (0, 2):
        keys = run_batches(AspectBatches.of(dataset, 2, seed=0), epochs=2)
        batches = read_batches(TrainSet(dataset, AUGMENT, 0), keys, workers)
        seen.append([sample for batch in batches for sample in batch])
    assert len(seen[0]) == len(seen[1]) == 8
    assert all(same(a, b) for a, b in zip(*seen, strict=True))


def test_a_resized_image_keeps_its_masks(shapes_folder: Path) -> None:
    first = resized(open_dataset(shapes_folder, "val").images[0], Resize(256, 400))
    assert first.image.shape == (3, 256, 256)
    assert first.scale == (2.0, 2.0)
    boxes = torch.tensor([a.box for a in first.record.annotations])
    assert torch.equal(first.target.boxes, boxes * 2)
    assert first.target.masks.areas().tolist() == [a.area for a in first.record.annotations]
    assert first.target.labels.tolist() == [a.label for a in first.record.annotations]


@pytest.fixture
def image(tmp_path: Path) -> ImageRecord:
    Image.new("RGB", (60, 40), "gray").save(tmp_path / "a.png")
    return ImageRecord(4, tmp_path / "a.png", 40, 60)


def sample_of(image: ImageRecord) -> Sample:
    return TrainSet(Dataset("d", (image,), ("cat",), (1,)), Augment((80, 80), 200, flip=0.0), 0)[0, 0]


def test_image_without_objects(image: ImageRecord) -> None:
    target = sample_of(image).target
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)
    assert target.crowd_boxes.shape == (0, 4)
    assert target.image_id == 4


def test_crowds_are_ignored_and_empty_masks_left_out(image: ImageRecord) -> None:
    square = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
    speck = [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]
    annotations = (
        Annotation(1, 0, (0.0, 0.0, 9.0, 9.0), square, 9.0, crowd=True),
        Annotation(2, 2, (3.1, 3.1, 3.2, 3.2), speck, 0.1),
        Annotation(3, 1, (10.0, 10.0, 30.0, 30.0), square, 400.0),
    )
    target = sample_of(ImageRecord(4, image.path, 40, 60, annotations)).target
    assert target.labels.tolist() == [1]
    assert target.boxes.tolist() == [[20, 20, 60, 60]]
    assert target.crowd_boxes.tolist() == [[0, 0, 18, 18]]


def test_images_that_changed_on_disk(image: ImageRecord) -> None:
    with pytest.raises(DataError, match=r"a\.png: .*60 x 40.*40 x 60"):
        sample_of(ImageRecord(4, image.path, 60, 40))
    image.path.unlink()
    with pytest.raises(ImageError, match=r"a\.png"):
        sample_of(image)


def test_image_store_keeps_its_records(shapes_folder: Path) -> None:
    images = open_dataset(shapes_folder, "train").images
    store = ImageStore(images)
    assert tuple(store[i] for i in range(len(store))) == images


@given(
    st.lists(st.sampled_from([WIDE, TALL]), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=150)
def test_batches(sizes: list[tuple[int, int]], batch_size: int, world: int, epoch: int) -> None:
    ranks = [AspectBatches(sizes, batch_size, 7, rank, world) for rank in range(world)]
    for batches in ranks:
        batches.set_epoch(epoch)
    given_out = [list(batches) for batches in ranks]
    assert {len(b) for b in given_out} == {len(ranks[0])}, "every process must take as many steps"
    everything = [item for batches in given_out for batch in batches for item in batch]
    assert all(len(batch) == batch_size for batches in given_out for batch in batches)
    assert {e for e, _ in everything} == {epoch}
    times = Counter(index for _, index in everything)
    assert set(times) == set(range(len(sizes))), "every image is seen"
    assert len(everything) - len(sizes) < batch_size * world, (
        "only the last batch is filled with repeated images"
    )
    mixed = sum(
        len({sizes[i] for batches in given_out for _, i in batches[step]}) > 1
        for step in range(len(ranks[0]))
    )
    share = batch_size * world
    leftovers = sum(sizes.count(size) % share for size in (WIDE, TALL))
    assert mixed <= -(-leftovers // share)


def test_epochs_and_seeds_differ() -> None:
    sizes = [WIDE] * 20 + [TALL] * 20

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = AspectBatches(sizes, 4, seed)
        batches.set_epoch(epoch)
        return [[index for _, index in batch] for batch in batches]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_resume_in_the_middle_of_an_epoch() -> None:
    sizes = [WIDE] * 11 + [TALL] * 6
    whole = AspectBatches(sizes, 2, 3)
    whole.set_epoch(5)
    expected = list(whole)
    resumed = AspectBatches(sizes, 2, 3)
    resumed.set_epoch(5, start_batch=4)
    assert len(resumed) == len(whole) == 9
    assert list(resumed) == expected[4:]
    resumed.set_epoch(6)
    whole.set_epoch(6)
    assert list(resumed) == list(whole)


@pytest.mark.parametrize(("sizes", "rank"), [([], 0), ([WIDE], 2)])
def test_impossible_batches(sizes: list[tuple[int, int]], rank: int) -> None:
    with pytest.raises(ValueError, match="batches"):
        AspectBatches(sizes, 1, 0, rank, 2)
