"""TIFF files beyond the limit on pixels: segmented tile by tile, with the results of the whole image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fakes import FakeLoaded
from images.tiff_files import write_tiff
from instancefcn.errors import ImageError
from instancefcn.images import large, opening
from instancefcn.images.large import open_large
from instancefcn.inference import reduced
from instancefcn.inference.predict import predict
from instancefcn.inference.predictor import Predictor


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """A red rectangle across several tiles and a small green one, more pixels than the lowered limit."""
    for module in (opening, large):
        monkeypatch.setattr(module, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(reduced, "OVERLAY_PIXELS", 2_000)
    monkeypatch.setattr(reduced, "BAND_BYTES", 2**13)
    pixels = np.full((150, 200, 3), 255, np.uint8)
    pixels[40:90, 30:120] = (255, 0, 0)
    pixels[110:130, 150:170] = (0, 255, 0)
    return pixels


LAYOUTS: dict[str, Callable[[np.ndarray[Any, Any]], dict[str, Any]]] = {
    "tiles": lambda _: {"piece": (32, 48), "tiled": True, "compression": "deflate"},
    "strips": lambda _: {"piece": (16, 200), "compression": "lzw"},
    "one strip": lambda _: {},
    "planes, BigTIFF": lambda _: {"planes": True, "big": True, "piece": (64, 64), "tiled": True},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("bits", [8, 16])
def test_results_are_those_of_the_whole_image(
    scene: np.ndarray[Any, Any], tmp_path: Path, layout: Any, bits: int
) -> None:
    values = scene if bits == 8 else scene.astype(np.uint16) * 257
    write_tiff(tmp_path / "a.tif", values, **layout(scene))
    predictor = Predictor(FakeLoaded(), "cpu")
    kinds = ("overlay", "coco", "labelme", "yolo", "csv", "cutouts", "labelmap")
    (result,) = predict(tmp_path / "a.tif", predictor, out=tmp_path / "out", tile=64, save=kinds)
    assert result.error is None
    assert result.image is None
    assert result.instances is not None
    assert result.instances.names == ["red", "green"]
    assert result.instances.masks.areas().tolist() == [50 * 90, 20 * 20]
    assert result.instances.masks.tight_boxes().tolist() == [[30, 40, 120, 90], [150, 110, 170, 130]]
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in result.files)
    cutouts = ["cutouts/a-1-red.png", "cutouts/a-2-green.png"]
    assert written == ["a.coco.json", "a.overlay.png", *cutouts, "labelme/a.json", "labels/a.txt"]
    with Image.open(tmp_path / "out" / cutouts[0]) as cut:
        assert cut.size == (90, 50)
        assert cut.getpixel((45, 25)) == (255, 0, 0, 255)
    with Image.open(tmp_path / "out" / "a.overlay.png") as overlay:
        assert overlay.size == (50, 38)  # a quarter of each side


def test_one_image_as_for_files(scene: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", scene)
    found = Predictor(FakeLoaded(), "cpu")(tmp_path / "a.tif", tile=64)
    assert found.masks.areas().tolist() == [50 * 90, 20 * 20]


def test_the_smaller_copy_is_the_mean(scene: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", scene, piece=(16, 16), tiled=True)
    whole = open_large(tmp_path / "a.tif")
    assert whole is not None
    found = Predictor(FakeLoaded(), "cpu")(tmp_path / "a.tif", tile=64)
    small, seen = reduced.reduced(whole, found)
    assert small.shape == (3, 38, 50)
    means = scene[:148].reshape(37, 4, 50, 4, 3).mean((1, 3))
    np.testing.assert_allclose(small.permute(1, 2, 0)[:37].numpy(), means, atol=0.5)
    assert seen.image_size == (38, 50)
    assert seen.masks.tight_boxes()[0].tolist() == [7, 10, 30, 23]  # half covered is enough
    assert torch.equal(seen.boxes, found.boxes / 4)


def test_what_cannot_be_read_by_tiles_says_so(scene: np.ndarray[Any, Any], tmp_path: Path) -> None:
    """Other formats, other samples, and a TIFF file without --tile; the advice fits each."""
    Image.fromarray(scene).save(tmp_path / "a.png")
    write_tiff(tmp_path / "floats.tif", scene.astype(np.float32))
    write_tiff(tmp_path / "a.tif", scene)
    predictor = Predictor(FakeLoaded(), "cpu")
    for name, tile, said in [
        ("a.png", 64, r"a\.png: has more than 10,000 pixels: .*TIFF"),
        ("floats.tif", 64, r"floats\.tif: .*8 or 16 bits"),
        ("a.tif", None, r"a\.tif: has more than 10,000 pixels: .*--tile"),
    ]:
        with pytest.raises(ImageError, match=said) as caught:
            predictor(tmp_path / name, tile=tile)
        assert "cut it" not in str(caught.value)
