"""What the data ask for: a plan of known data, and a run that follows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import instancefcn
from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.training.plan import Plan, make_plan

Train = Callable[..., Path]


def dataset(
    size: tuple[int, int], objects: tuple[float, float], count: int = 40, folder: Path = Path("none")
) -> Dataset:
    """Images of `size` (width, height), each with one object of (width, height) `objects` in the middle."""
    width, height = size
    w, h = objects
    box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
    one = Annotation(1, 0, box, [[0.0] * 6], w * h)
    images = tuple(ImageRecord(i, folder / f"{i}.png", height, width, (one,)) for i in range(count))
    return Dataset("d", images, ("thing",), (1,))


def planned(data: Dataset, **settings: Any) -> dict[str, Any]:
    asked = {"minutes": 5.0, "batch_size": 4, "bfloat16": False, "general": False} | settings
    return make_plan(data, **asked).settings()


@pytest.mark.parametrize(
    ("size", "side", "short"),
    [
        ((640, 480), 60.0, 480),  # as it is
        ((400, 320), 16.0, 480),  # 24 px are seen well: 1.5 times
        ((400, 320), 4.0, 640),  # at most twice
        ((1600, 1200), 560.0, 480),  # 224 px are ample: two fifths
        ((640, 480), 448.0, 320),  # half would be less than the minimum
    ],
)
def test_the_input_follows_the_objects(size: tuple[int, int], side: float, short: int) -> None:
    plan = planned(dataset(size, (side, side)))
    assert plan["short_side"] == short
    assert plan["long_side"] / plan["short_side"] == pytest.approx(size[0] / size[1], rel=0.12)


def test_large_images_of_small_objects_are_cropped_and_tiled() -> None:
    """30 px in 4000 x 3000 are shrunk to 24 px; whole images would be 2400 px high."""
    plan = planned(dataset((4000, 3000), (30.0, 30.0)))
    assert plan["window"] == 512
    assert (plan["short_side"], plan["long_side"]) == (512, 512)
    assert plan["train_short"] == (256, 512)


def test_enlarged_images_are_cropped_for_training_only() -> None:
    plan = planned(dataset((500, 400), (12.0, 12.0)))
    assert (plan["short_side"], plan["window"]) == (800, 256)


@pytest.mark.parametrize(
    ("objects", "sides", "ratios"),
    [
        ((60.0, 60.0), (48.0, 96.0), None),
        ((150.0, 30.0), (48.0, 96.0), (0.25, 0.5, 1.0, 2.0, 4.0)),
        ((24.0, 24.0), (12.0, 24.0, 48.0), None),
    ],
)
def test_anchors_follow_the_boxes(objects: tuple[float, float], sides: Any, ratios: Any) -> None:
    plan = planned(dataset((640, 480), objects))
    assert plan["anchor_sides"] == sides
    assert plan.get("anchor_ratios") == ratios


def test_anchors_fit_small_images_at_the_smallest_input() -> None:
    """160 px are enlarged to 320, and objects of 36 px to 72."""
    plan = planned(dataset((200, 160), (36.0, 36.0)))
    assert plan["short_side"] == 320
    assert plan["anchor_sides"] == (48.0, 96.0)


def test_small_data_have_enough_steps_and_large_data_twelve_epochs() -> None:
    small = planned(dataset((640, 480), (60.0, 60.0), count=40), minutes=None)
    assert small["epochs"] == 150
    assert small["evaluate_every"] == 15
    assert planned(dataset((640, 480), (60.0, 60.0), count=4000), minutes=None)["epochs"] == 12
    assert "epochs" not in planned(dataset((640, 480), (60.0, 60.0)))


@pytest.mark.parametrize("upright", [True, False])
def test_quarter_turns_need_images_without_a_direction(tmp_path: Path, upright: bool) -> None:
    random = np.random.default_rng(0)
    data = dataset((64, 64), (20.0, 20.0), count=24, folder=tmp_path)
    shift = random.uniform(-9, 9, (24, 2))
    for image, moved in zip(data.images, shift, strict=True):
        pixels = random.integers(90, 110, (64, 64, 3), dtype=np.uint8)
        pixels[:32] += np.uint8(60 if upright else 0)  # the sky
        Image.fromarray(pixels).save(image.path)
        one = image.annotations[0]
        box = tuple(float(side) for side in np.array(one.box) + np.tile(moved, 2) + random.uniform(-1, 1, 4))
        object.__setattr__(image, "annotations", (Annotation(1, 0, box, one.segmentation, 400.0),))  # type: ignore[arg-type]
    assert planned(data)["augment.turn"] == (0.0 if upright else 1.0)


def test_the_machine_and_the_general_weights_are_used() -> None:
    data = dataset((640, 480), (60.0, 60.0))
    assert planned(data, bfloat16=True, general=True).items() >= {
        ("precision", "bf16-mixed"),
        ("init", "fcis-objects"),
    }
    assert planned(data)["precision"] == "32"
    assert "init" not in planned(data)


def test_data_without_objects_have_a_plan() -> None:
    data = dataset((640, 480), (60.0, 60.0))
    empty = Dataset("d", tuple(ImageRecord(i.id, i.path, 480, 640) for i in data.images), ("a",), (1,))
    assert planned(empty)["short_side"] == 480


def test_every_line_has_a_reason(shapes_folder: Path) -> None:
    plan = instancefcn.plan(shapes_folder, minutes=3)
    assert isinstance(plan, Plan)
    assert all(line.reason for line in plan.lines)
    rows = str(plan).splitlines()
    assert [row.split()[0] for row in rows] == [line.setting for line in plan.lines]


def test_what_the_user_sets_is_not_planned(shapes_folder: Path) -> None:
    chosen = {"precision": "32", "augment": {"turn": 0}}
    plan = instancefcn.plan(shapes_folder, **chosen).settings()
    assert not {"precision", "augment.turn"} & plan.keys()
    assert "augment.crop" in plan


def test_a_run_follows_its_plan(tiny_train: Train, tiny_data: Path, tmp_path: Path) -> None:
    """All but what the fixture sets."""
    run = tmp_path / "run"
    tiny_train(run)
    config = json.loads((run / "config.json").read_text())
    plan = {line["setting"]: line["value"] for line in json.loads((run / "plan.json").read_text())}
    assert plan["model"] == config["model"] == "fcis_wide"
    assert plan["anchor_sides"] == config["anchor_sides"] != []
    assert plan["augment.crop"] == config["augment"]["crop"]
    assert "short_side" not in plan
    assert config["short_side"] == 64


def test_a_named_model_has_its_own_recipe(tiny_train: Train, tmp_path: Path) -> None:
    tiny_train(tmp_path / "run", "fcis_fine", train_long=64)
    assert not (tmp_path / "run" / "plan.json").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["augment"]["turn"] == 1.0
