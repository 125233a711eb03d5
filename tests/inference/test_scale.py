"""Large images are read in tiles where their objects are smaller than those of training, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fakes import IDS, NAMES, FakeLoaded
from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.errors import ConfigError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.inference.predictor import Predictor
from instancefcn.inference.scale import TrainedScale, scale_of
from instancefcn.instances import Instances
from instancefcn.models.preprocessing import Preprocessing

SIDES = {"median_short": 100, "median_long": 100, "largest_long": 100}
PREPROCESSING = Preprocessing(100, 100)


class Squares(nn.Module):
    """Finds the filled boxes of one value of red that are some cells of the network's input wide."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def forward(
        self,
        images: list[Tensor],
        image_sizes: list[tuple[int, int]],
        min_score: float = 0.0,
        max_instances: int = 1000,
    ) -> list[Instances]:
        self.calls += image_sizes
        return [self.find(image, size) for image, size in zip(images, image_sizes, strict=True)]

    def find(self, image: Tensor, size: tuple[int, int]) -> Instances:
        values = (nn.functional.interpolate(image[None], size)[0, 0] * 255).round().long()
        cell = size[1] / image.shape[2]
        wide = []
        for value in values.unique().tolist():
            mask = values == value
            sides = mask.any(0).sum(), mask.any(1).sum()
            # Resizing mixes the values at the borders of squares, which does not give filled boxes.
            if value and min(sides) >= 2.5 * cell and mask.sum() == sides[0] * sides[1]:
                wide.append(mask)
        masks = CroppedMasks.from_dense(
            torch.stack(wide) if wide else torch.zeros(0, *size, dtype=torch.bool)
        )
        scores, labels = torch.full((len(wide),), 0.9), torch.zeros(len(wide), dtype=torch.int64)
        return Instances(masks.tight_boxes(), scores, labels, masks, NAMES, IDS)


def squares(side: int, count: int, size: int) -> Tensor:
    """An image of `size` x `size` pixels with `count` squares on its diagonal, each of a value of its own."""
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    for i in range(count):
        corner = (size - side) * i // max(count - 1, 1)
        image[0, corner : corner + side, corner : corner + side] = 10 * (i + 1)
    return image


def predictor(object_side: Any = 20.0, sides: Any = SIDES) -> Predictor:
    metadata = {"training": {"image_sides": sides, "object_side": object_side}}
    return Predictor(FakeLoaded(Squares(), preprocessing=PREPROCESSING, metadata=metadata), "cpu")  # type: ignore[arg-type]


def test_small_objects_of_a_large_image_are_seen_in_tiles_of_the_right_scale() -> None:
    model, image = predictor(), squares(20, 10, 400)  # 5 pixels of the network's input instead of 20
    found = model(image)
    assert model.network.calls[0] == (400, 400)
    ((height, width),) = set(model.network.calls[1:])
    assert height == width
    assert 50 <= width <= 110  # where they have about 20
    assert len(found) == 10
    assert all(300 <= area <= 440 for area in found.masks.areas().tolist())


@pytest.mark.parametrize(
    ("side", "count", "size"),
    [(8, 8, 150), (56, 7, 400), (20, 4, 400)],
    ids=["not large", "objects as in training", "too few to tell"],
)
def test_other_images_are_read_whole(side: int, count: int, size: int) -> None:
    model = predictor()
    found = model(squares(side, count, size))
    assert (len(found) >= 5) is (count >= 5)
    assert model.network.calls == [(size, size)]


def test_an_object_larger_than_tiles_is_taken_from_the_whole_image() -> None:
    image = squares(20, 10, 400)
    image[0, 150:250, :130] = 200
    found = predictor()(image)
    areas = sorted(found.masks.areas().tolist())
    assert len(areas) == 11
    assert areas[-2] <= 440
    assert 12_000 <= areas[-1] <= 13_500


@pytest.mark.parametrize(
    ("object_side", "sides"),
    [(None, SIDES), ("20", None), (float("nan"), SIDES), (-1.0, SIDES), (20.0, {"median_long": 0})],
)
def test_a_checkpoint_without_a_valid_scale_reads_images_whole(object_side: Any, sides: Any) -> None:
    model = predictor(object_side, sides)
    model(squares(20, 10, 400))
    assert model.network.calls == [(400, 400)]


def test_tiles_do_not_depend_on_the_score_or_the_batch() -> None:
    images = [squares(20, 10, 400), squares(20, 8, 150), squares(20, 10, 400)]
    model = predictor()
    alone = [model(image, score=0.8) for image in images]
    together = model(images, score=0.8, batch_size=3)
    assert [one.masks.areas().tolist() for one in together] == [one.masks.areas().tolist() for one in alone]
    assert len(model(images[0], score=0.95)) == 0


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="'off'"):
        predictor()(squares(20, 1, 50), tile="off")  # type: ignore[call-overload]


def test_the_scale_of_a_dataset() -> None:
    box = (0.0, 0.0, 30.0, 40.0)
    one = Annotation(1, 0, box, [[0.0, 0, 30, 0, 30, 40]], 600.0)
    images = (
        ImageRecord(1, Path("a.png"), 200, 400, (one, replace(one, id=2, crowd=True))),
        ImageRecord(2, Path("b.png"), 50, 100),
        ImageRecord(3, Path("c.png"), 1000, 300),
    )
    described = scale_of(Dataset("train", images, ("x",), (1,)), Preprocessing(100, 150))
    assert described == {
        "image_sides": {"median_short": 200, "median_long": 400, "largest_long": 1000},
        "object_side": round(0.375 * (30 * 40) ** 0.5, 1),
    }
    scale = TrainedScale.of({"training": described})
    assert scale == TrainedScale(400.0, described["object_side"])
