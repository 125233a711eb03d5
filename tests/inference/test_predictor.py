from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fakes import IDS, NAMES, RED_BOX, ColourNetwork, FakeLoaded, coloured, save_coloured
from instancefcn.errors import CheckpointError, ConfigError, ImageError
from instancefcn.inference import tiling
from instancefcn.inference.predictor import Predictor, load
from instancefcn.instances import Instances


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(FakeLoaded(), "cpu")  # type: ignore[arg-type]


def check(found: Instances) -> None:
    """The two objects of `coloured()`, to within a pixel: the network sees a smaller image."""
    assert found.names == ["red", "green"]
    assert found.image_size == (80, 120)
    expected = torch.tensor([RED_BOX, (90.0, 40.0, 120.0, 70.0)])
    torch.testing.assert_close(found.boxes, expected, atol=1.0, rtol=0)


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image,
        np.asarray,
        lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
        lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255,
        lambda image: image.convert("RGBA"),
    ],
    ids=["pillow", "array", "uint8 tensor", "float tensor", "alpha"],
)
def test_kinds_of_images(predictor: Predictor, convert: Any) -> None:
    found = predictor(convert(coloured()))
    check(found)
    assert found.source is None


@pytest.mark.parametrize("kind", [str, Path])
def test_paths(predictor: Predictor, tmp_path: Path, kind: Any) -> None:
    path = save_coloured(tmp_path / "x.png")
    found = predictor(kind(path))
    check(found)
    assert found.source == str(path)


def test_a_list_gives_a_list_in_its_order(predictor: Predictor, tmp_path: Path) -> None:
    path = save_coloured(tmp_path / "x.png", 60, 90)
    found = predictor([coloured(), path, np.asarray(coloured(200, 100)), coloured()], batch_size=3)
    assert [one.image_size for one in found] == [(80, 120), (90, 60), (100, 200), (80, 120)]
    check(found[3])
    assert predictor([]) == []
    assert len(predictor((coloured(),))) == 1


def test_only_inputs_of_one_size_share_a_batch(predictor: Predictor) -> None:
    predictor([coloured(), coloured(60, 90), coloured()], batch_size=3)
    assert predictor.network.calls == [[(3, 64, 96), (3, 64, 96)], [(3, 96, 64)]]


def test_preprocessing_limits_the_long_side(predictor: Predictor) -> None:
    predictor(coloured(300, 80))
    assert predictor.network.calls == [[(3, 26, 96)]]


def test_score_threshold(predictor: Predictor) -> None:
    assert predictor(coloured(), score=0.6).names == ["red", "green"]
    assert predictor(coloured(), score=0.61).names == ["red"]
    assert predictor(coloured(), score=1).names == []
    with pytest.raises(ConfigError, match="between 0 and 1"):
        predictor(coloured(), score=50)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_of_files_and_pillow_images(
    predictor: Predictor, tmp_path: Path, orientation: int
) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = coloured().transpose(undo[orientation]) if orientation in undo else coloured()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=98, subsampling=0)
    check(predictor(tmp_path / "turned.jpg"))
    with Image.open(tmp_path / "turned.jpg") as image:
        check(predictor(image))


def test_what_is_not_an_image(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("not an image")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        predictor(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="not dict"):
        predictor({})  # type: ignore[call-overload]
    with pytest.raises(ImageError, match="not int"):
        predictor([coloured(), 3])  # type: ignore[list-item]


def test_files_reports_an_unreadable_one_and_continues(predictor: Predictor, tmp_path: Path) -> None:
    paths = [save_coloured(tmp_path / "a.png"), tmp_path / "b.png", save_coloured(tmp_path / "c.png")]
    paths[1].write_bytes(paths[0].read_bytes()[:60])
    results = list(predictor.files(paths, batch_size=2))
    assert [result.path for result in results] == paths
    assert [result.error is None for result in results] == [True, False, True]
    assert "b.png" in str(results[1].error)
    for result in (results[0], results[2]):
        assert result.instances is not None
        assert result.instances.source == str(result.path)
        assert result.image is not None
        assert result.image.shape == (3, 80, 120)


def test_an_image_with_too_many_tiles_is_reported_and_the_others_are_segmented(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "MAX_TILES", 4)
    paths = [save_coloured(tmp_path / f"{side}.png", side, 80) for side in (100, 300, 90)]
    found = list(predictor.files(paths, tile=64, batch_size=3))
    assert [one.instances is None for one in found] == [False, True, False]
    assert "300.png: tiles of 64 pixels" in str(found[1].error)
    with pytest.raises(ConfigError, match="a tile needs at least 32 pixels"):
        list(predictor.files(paths, tile=16))


def test_files_reads_only_what_is_asked_for(predictor: Predictor, tmp_path: Path) -> None:
    first = save_coloured(tmp_path / "a.png")

    def paths() -> Any:
        yield first
        raise AssertionError("read too far")

    assert next(predictor.files(paths())).path == first


def test_classes_and_device(predictor: Predictor) -> None:
    assert predictor.class_names == NAMES
    assert predictor.category_ids == IDS
    assert predictor.device == torch.device("cpu")
    assert "2 classes" in repr(predictor)
    with pytest.raises(ConfigError, match="device"):
        Predictor(FakeLoaded(), "toaster")  # type: ignore[arg-type]


def test_load_says_what_there_is() -> None:
    with pytest.raises(CheckpointError, match="no-such-model"):
        load("no-such-model")


def test_no_more_than_the_best_are_made(tmp_path: Path) -> None:
    """The network is told, so that it saves the work."""
    path = save_coloured(tmp_path / "two.png")
    predictor = Predictor(FakeLoaded(), "cpu")
    (image,) = [result.image for result in predictor.files([path])]
    assert image is not None
    (one,) = predictor.run([image], max_objects=1)
    assert one.names == ["red"]
    for tile in (None, 64):
        ((best,), (both,)) = (list(predictor.files([path], max_objects=top, tile=tile)) for top in (1, None))
        assert best.instances is not None
        assert both.instances is not None
        assert (len(best.instances), len(both.instances)) == (1, 2)


def test_nonsense_is_refused_before_an_image_is_lost(predictor: Predictor, tmp_path: Path) -> None:
    path = save_coloured(tmp_path / "a.png")
    for settings, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_objects": 0}, "max_objects must be at least 1, got 0"),
        ({"max_objects": -1, "tile": 64}, "max_objects must be at least 1, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            list(predictor.files([path], **settings))
    with pytest.raises(ConfigError, match=r"files\(\['a.png'\]\)"):
        list(predictor.files("a.png"))
    with pytest.raises(ConfigError, match="not Image"):
        list(predictor.files([Image.new("RGB", (9, 9))], ahead=2))


def test_empty_images_and_foreign_byte_orders(predictor: Predictor) -> None:
    with pytest.raises(ImageError, match="0 x 5 pixels is empty"):
        predictor(Image.new("RGB", (0, 5)))
    image = np.asarray(coloured()).astype(np.uint16) * 257
    check(predictor(image.astype(">u2"), score=0.5))
    check(predictor((image / 65535).astype(">f4"), score=0.5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda", "cuda"), ("gpu", "'gpu'")],
)
def test_a_device_that_is_not_there(device: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Predictor(FakeLoaded(network=torch.nn.Linear(1, 1)), device)  # type: ignore[arg-type]


@pytest.mark.parametrize("tile", [None, 64])
def test_a_limit_that_is_reached_is_said(predictor: Predictor, tmp_path: Path, tile: int | None) -> None:
    path = save_coloured(tmp_path / "two.png")
    limits = [predictor(path, max_objects=most, tile=tile).limit_reached for most in (1, 2, 3, None)]
    assert limits == [1, 2, None, None]
    # Whatever the limit leaves out scores less than what is kept, and so less than this.
    assert predictor.run([coloured_tensor()], 0.0, max_objects=2)[0].filter(0.7).limit_reached is None
    (result,) = predictor.files([path], max_objects=1, tile=tile)
    assert result.instances is not None
    assert result.instances.limit_reached == 1


def test_a_tile_that_reaches_the_limit_is_said(tmp_path: Path) -> None:
    """Each tile may have one object; the image has two, in different tiles, and both are found."""

    class One(ColourNetwork):
        max_instances = 1

        def forward(self, images: Any, image_sizes: Any, min_score: float = 0, max_instances: int = 1) -> Any:
            return super().forward(images, image_sizes, min_score, max_instances)

    predictor = Predictor(FakeLoaded(One()), "cpu")  # type: ignore[arg-type]
    found = predictor(coloured(), tile=64)
    assert sorted(found.names) == ["green", "red"]
    assert found.limit_reached == 1
    assert predictor(coloured(), tile=64, score=0.95).limit_reached is None
    assert predictor(coloured(), tile=64, max_objects=3).limit_reached is None


@pytest.mark.parametrize("tile", [None, 64])
def test_only_the_named_classes(predictor: Predictor, tile: int | None) -> None:
    found = predictor(coloured(), classes=["green"], tile=tile)
    assert found.names == ["green"]
    assert (found.class_names, found.category_ids) == (NAMES, IDS)
    # The limit counts what is asked for alone.
    assert predictor(coloured(), classes=["green"], max_objects=1, tile=tile).names == ["green"]
    assert predictor(coloured(), classes=("green", "red"), tile=tile).names == ["red", "green"]


@pytest.mark.parametrize("classes", [["red", "mauve"], ["Red"], []])
def test_unknown_classes_are_named_with_the_known_ones(predictor: Predictor, classes: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        predictor(coloured(), classes=classes)
    for name in {*classes, *NAMES} - {"red"}:
        assert name in str(caught.value)


def coloured_tensor() -> torch.Tensor:
    return torch.from_numpy(np.array(coloured())).permute(2, 0, 1)
