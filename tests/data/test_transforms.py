"""Resizing, cropping and mirroring keep pixels, masks and boxes together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instancefcn.data.loader import make_target
from instancefcn.data.transforms import (
    Augment,
    Resize,
    Scene,
    crop,
    flip,
    mean_gray,
    turn,
)
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.resizing import resize_scale, resized_size

PLAIN = {"flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def marked_scene(height: int = 48, width: int = 64, objects: int = 3, seed: int = 0) -> Scene:
    """A dark image whose objects are bright rectangles: pixels and masks can be compared."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros((objects, height, width), dtype=torch.bool)
    for i in range(objects):
        x, y = int(torch.randint(0, width - 8, (1,), generator=generator)), 1 + 16 * i % (height - 12)
        masks[i, y : y + 9, x : x + 7] = True
    image = torch.where(masks.any(0), 255, 0).to(torch.uint8).expand(3, -1, -1).clone()
    crowd = torch.tensor([[2.0, 3.0, 10.0, 20.0]])
    return Scene(image, CroppedMasks.from_dense(masks), torch.arange(objects), crowd)


def agrees(scene: Scene) -> bool:
    return torch.equal(scene.image[0] == 255, scene.masks.dense().any(0))


@pytest.mark.parametrize(
    ("size", "limits", "scale", "result"),
    [
        ((600, 800), (600, 1000), 1.0, (600, 800)),
        ((333, 500), (600, 1000), 600 / 333, (600, 901)),  # rounded, as the official code does
        ((281, 500), (600, 1000), 2.0, (562, 1000)),
        ((100, 1000), (600, 1000), 1.0, (100, 1000)),
        ((1, 5000), (400, 640), 640 / 5000, (1, 640)),
        ((5000, 1), (400, 640), 640 / 5000, (640, 1)),
        ((562, 1000), (600, 1000), 1.0, (562, 1000)),
    ],
)
def test_size_table(
    size: tuple[int, int], limits: tuple[int, int], scale: float, result: tuple[int, int]
) -> None:
    assert resize_scale(*size, *limits) == pytest.approx(scale)
    assert resized_size(*size, *limits) == result


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000), st.integers(0, 1000))
@settings(deadline=None)
def test_sizes_obey_the_limits(height: int, width: int, short: int, more: int) -> None:
    h, w = resized_size(height, width, short, short + more)
    assert 1 <= min(h, w) <= short
    assert max(h, w) <= short + more
    assert min(h, w) == short or max(h, w) == short + more


def test_resize_gives_floats_and_exact_scale() -> None:
    image = torch.full((3, 333, 500), 255, dtype=torch.uint8)
    out, (sx, sy) = Resize(600, 1000)(image)
    assert out.shape == (3, 600, 901)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert out.min() == out.max() == 1.0
    assert (500 * sx, 333 * sy) == (pytest.approx(901), pytest.approx(600))


def test_flip_table() -> None:
    masks = torch.zeros((1, 2, 5), dtype=torch.bool)
    masks[0, 1, 0:2] = True
    scene = Scene(
        torch.arange(10, dtype=torch.uint8).reshape(1, 2, 5).expand(3, -1, -1),
        CroppedMasks.from_dense(masks),
        torch.tensor([4]),
        torch.tensor([[0.0, 0.0, 1.5, 2.0]]),
    )
    out = flip(scene)
    assert out.image[0].tolist() == [[4, 3, 2, 1, 0], [9, 8, 7, 6, 5]]
    assert out.masks.dense()[0].int().tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert out.crowd.tolist() == [[3.5, 0.0, 5.0, 2.0]]
    assert torch.equal(flip(out).masks.dense(), masks)


def test_turn_table() -> None:
    """Counter-clockwise: the upper right corner comes to the upper left."""
    masks = torch.zeros((1, 2, 3), dtype=torch.bool)
    masks[0, 0, 1:3] = True
    scene = Scene(
        torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3).expand(3, -1, -1),
        CroppedMasks.from_dense(masks),
        torch.tensor([4]),
        torch.tensor([[0.0, 0.0, 1.5, 2.0]]),
    )
    out = turn(scene, 1)
    assert out.image[0].tolist() == [[2, 5], [1, 4], [0, 3]]
    assert out.masks.dense()[0].int().tolist() == [[1, 0], [1, 0], [0, 0]]
    assert out.crowd.tolist() == [[0.0, 1.5, 2.0, 3.0]]
    assert turn(scene, 2).image[0].tolist() == [[5, 4, 3], [2, 1, 0]]
    assert turn(scene, 0) is scene


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turns_are_those_of_numpy(quarters: int) -> None:
    scene = marked_scene()
    out = turn(scene, quarters)
    assert torch.equal(out.image, scene.image.rot90(quarters, (1, 2)))
    assert torch.equal(out.masks.dense(), scene.masks.dense().rot90(quarters, (1, 2)))
    assert torch.equal(turn(out, (4 - quarters) % 4).crowd, scene.crowd)


def test_all_turns_are_drawn_and_none_unless_asked_for() -> None:
    scene = marked_scene()
    generators = [torch.Generator().manual_seed(seed) for seed in range(80)]
    turned = Augment((48, 48), 1000, turn=1.0, **PLAIN)
    seen = [turned(scene, generator)[1].image for generator in generators]
    counts = [sum(torch.equal(one, scene.image.rot90(q, (1, 2))) for one in seen) for q in range(4)]
    assert sum(counts) == 80
    assert min(counts) >= 8
    plain = Augment((48, 48), 1000, **PLAIN)
    assert all(torch.equal(plain(scene, generator)[1].image, scene.image) for generator in generators)


def test_crop_drops_keeps_and_ignores() -> None:
    masks = torch.zeros((3, 20, 20), dtype=torch.bool)
    masks[0, 5:15, 5:15] = True  # whole
    masks[1, 0:4, 0:4] = True  # outside
    masks[2, 4:5, 0:20] = True
    masks[2, 0:4, 0:20] = True  # 100 pixels, of which the window holds 1 row of 13, minus nothing
    scene = Scene(
        torch.zeros((3, 20, 20), dtype=torch.uint8),
        CroppedMasks.from_dense(masks),
        torch.tensor([7, 8, 9]),
        torch.tensor([[0.0, 0.0, 6.0, 6.0], [0.0, 0.0, 3.0, 3.0]]),
    )
    out = crop(scene, (4, 4, 17, 18))
    assert out.image.shape == (3, 14, 13)
    assert out.labels.tolist() == [7, 9]
    assert out.masks.areas().tolist() == [100, 13]
    assert out.masks.tight_boxes().tolist() == [[1, 1, 11, 11], [0, 0, 13, 1]]
    assert out.crowd.tolist() == [[0, 0, 2, 2]]
    narrow = crop(scene, (11, 4, 20, 18))  # 9 of 100 pixels are a sliver
    assert narrow.labels.tolist() == [7]
    assert narrow.crowd.tolist() == [[0, 0, 9, 1]]


@given(st.integers(0, 2**31), st.integers(0, 4), st.sampled_from([0.3, 0.5, 1.0]))
@settings(deadline=None, max_examples=60)
def test_augmented_pixels_and_masks_stay_together(seed: int, objects: int, min_crop: float) -> None:
    scene = marked_scene(objects=objects, seed=seed)
    augment = Augment(
        (48, 48), 10_000, crop=1.0, min_crop=min_crop, turn=0.5, brightness=0, contrast=0, saturation=0
    )
    image, out, (sx, sy) = augment(scene, torch.Generator().manual_seed(seed))
    height, width = out.masks.image_size
    assert out.image.shape == (3, height, width)
    assert min(height, width) >= round(min_crop * 48)
    assert max(height, width) >= round(min_crop * 64)
    assert image.shape == (3, round(height * sy), round(width * sx))
    assert len(out.labels) == len(out.masks)
    slivers = torch.zeros(out.image.shape[1:], dtype=torch.bool)
    for x1, y1, x2, y2 in out.crowd.round().int().tolist():
        slivers[y1:y2, x1:x2] = True
    assert torch.equal((out.image[0] == 255) | slivers, out.masks.dense().any(0) | slivers)
    if objects:
        assert len(out.masks) >= 1, "the centre of at least one object stays"
    target = make_target(out, (sx, sy), 3)
    assert (target.boxes[:, 2] <= image.shape[2] + 1e-3).all()
    assert (target.boxes[:, 3] <= image.shape[1] + 1e-3).all()
    assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()


def test_target_boxes_are_tight_and_scaled() -> None:
    masks = torch.zeros((1, 10, 20), dtype=torch.bool)
    masks[0, 2:5, 4:9] = True
    scene = Scene(
        torch.zeros((3, 10, 20), dtype=torch.uint8),
        CroppedMasks.from_dense(masks),
        torch.tensor([1]),
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
    )
    target = make_target(scene, (2.0, 3.0), 9)
    assert target.boxes.tolist() == [[8, 6, 18, 15]]
    assert target.crowd_boxes.tolist() == [[2, 6, 6, 12]]
    assert target.image_id == 9
    assert target.scale == (2.0, 3.0)


def test_same_generator_same_result_and_short_sides_cover_the_range() -> None:
    scene = marked_scene()
    augment = Augment((40, 44), 1000, crop=0.5)
    one, two = (augment(scene, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1].masks.rects, two[1].masks.rects)
    plain = Augment((40, 44), 1000, **PLAIN)
    sides = {plain(scene, torch.Generator().manual_seed(s))[0].shape[1] for s in range(60)}
    assert sides == {40, 41, 42, 43, 44}


def test_short_sides_from_a_few_choices() -> None:
    augment = Augment(short_sides=(8, 8), long=1000, choices=(20, 40, 60))
    scene = marked_scene()
    sides = [min(augment(scene, torch.Generator().manual_seed(i))[0].shape[1:]) for i in range(60)]
    assert set(sides) == {20, 40, 60}
    assert all(10 <= sides.count(side) <= 30 for side in (20, 40, 60))


def test_a_short_side_at_which_an_object_fits() -> None:
    """The larger side of the object is a quarter of the image's short side: at 40 pixels it has 10."""
    masks = CroppedMasks.from_crops([torch.ones((10, 4), dtype=torch.uint8)], [(3, 5)], (40, 60))
    image = torch.zeros((3, 40, 60), dtype=torch.uint8)
    scene = Scene(image, masks, torch.zeros(1, dtype=torch.int64), torch.zeros((0, 4)))

    def sides(scene: Scene, fits: tuple[float, float]) -> list[int]:
        augment = Augment((8, 8), 1000, choices=(20, 40, 80), fits=fits)
        draws = [augment(scene, torch.Generator().manual_seed(i))[0] for i in range(90)]
        return [min(image.shape[1:]) for image in draws]

    fitting = sides(scene, (9, 11))
    # Two thirds, and one in three of the rest.
    assert 58 <= fitting.count(40) <= 82
    assert set(fitting) == {20, 40, 80}
    both = sides(scene, (9, 20))
    assert both.count(20) < 20 < min(both.count(40), both.count(80))
    # An object that fits at no side, or no object: any side.
    without = Scene(image, CroppedMasks.empty((40, 60)), scene.labels[:0], scene.crowd)
    for drawn in (sides(scene, (1, 2)), sides(without, (9, 11))):
        assert min(drawn.count(side) for side in (20, 40, 80)) >= 20


def test_one_setting_does_not_change_the_draws_of_the_others() -> None:
    scene = marked_scene()
    jittered = Augment((40, 60), 1000, flip=0.5)
    plain = Augment((40, 60), 1000, flip=0.5, brightness=0, contrast=0, saturation=0)
    for seed in range(8):
        a = jittered(scene, torch.Generator().manual_seed(seed))
        b = plain(scene, torch.Generator().manual_seed(seed))
        assert a[0].shape == b[0].shape
        assert torch.equal(a[1].masks.rects, b[1].masks.rects)


def test_colours_change_and_stay_in_range() -> None:
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scene = Scene(image, CroppedMasks.empty((32, 32)), torch.zeros(0, dtype=torch.int64), torch.zeros((0, 4)))
    augment = Augment((32, 32), 100, flip=0, brightness=0.5, contrast=0.5, saturation=0.5)
    outs = [augment(scene, torch.Generator().manual_seed(s))[0] for s in range(5)]
    assert all(float(o.min()) >= 0 and float(o.max()) <= 1 for o in outs)
    assert not torch.equal(outs[0], outs[1])
    unchanged, _, _ = Augment((32, 32), 100, **PLAIN)(scene, torch.Generator().manual_seed(0))
    assert torch.equal(unchanged, image.float() / 255)


def test_contrast_keeps_the_mean_luma() -> None:
    image = torch.tensor([[[255, 0]], [[255, 0]], [[255, 0]]], dtype=torch.uint8)
    assert mean_gray(image) == pytest.approx(0.5)
    assert mean_gray(torch.tensor([[[255]], [[0]], [[51]]], dtype=torch.uint8)) == pytest.approx(0.3218)
    scene = Scene(image, CroppedMasks.empty((1, 2)), torch.zeros(0, dtype=torch.int64), torch.zeros((0, 4)))
    augment = Augment((1, 1), 2, flip=0, brightness=0, contrast=1, saturation=0)
    for seed in range(6):
        out = augment(scene, torch.Generator().manual_seed(seed))[0]
        assert float(out[0].mean()) == pytest.approx(0.5, abs=1e-6), "the mean does not change"


@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"short_sides": (5, 4)}, "short_sides"),
        ({"short_sides": (0, 4)}, "short_sides"),
        ({"flip": 1.5}, "flip"),
        ({"crop": -0.1}, "crop"),
        ({"min_crop": 0.0}, "min_crop"),
    ],
)
def test_settings_out_of_range(settings_: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Augment(**{"short_sides": (4, 5), "long": 9, **settings_})  # type: ignore[arg-type]


def test_scene_agrees_before() -> None:
    assert agrees(marked_scene())
    assert agrees(flip(marked_scene()))


@pytest.mark.parametrize(("size", "crop"), [((300, 400), (200, 200)), ((150, 400), (150, 200))])
def test_windows_of_large_images(size: tuple[int, int], crop: tuple[int, int]) -> None:
    """A window of 200 pixels becomes 100 pixels of the network, however much of it there is."""
    height, width = size
    masks = CroppedMasks.from_crops(
        [torch.ones(10, 10, dtype=torch.uint8)], [(width - 40, height - 40)], size
    )
    scene = Scene(
        torch.zeros(3, height, width, dtype=torch.uint8), masks, torch.tensor([0]), torch.zeros(0, 4)
    )
    augment = Augment((100, 100), long=400, window=200)
    for seed in range(8):
        image, found, scale = augment(scene, torch.Generator().manual_seed(seed))
        assert tuple(found.image.shape[1:]) == crop
        assert tuple(image.shape[1:]) == (crop[0] // 2, crop[1] // 2)
        assert scale == (0.5, 0.5)
        assert len(found.masks) == 1, "a window holds the centre of an object"
