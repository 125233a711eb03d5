"""TIFF files of every layout give the same pixels, or an error that is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from images.tiff_files import write_tiff
from instancefcn.data.dataset import ImageRecord
from instancefcn.data.image_checks import inspect_image
from instancefcn.errors import ImageError
from instancefcn.images.decoding import read_image, read_image_size
from instancefcn.images.tiff import TiffPieces, directory, layout_of

SIXTEEN = (np.arange(21 * 34 * 4, dtype=np.uint16) * 7919).reshape(21, 34, 4)
UNIT = (SIXTEEN / 65535).astype(np.float32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"piece": (8, 34)},
    "tiles": {"piece": (16, 16), "tiled": True},
    "big-endian": {"order": ">"},
    "BigTIFF": {"big": True, "piece": (8, 34)},
    "deflate": {"compression": "deflate", "piece": (8, 34)},
    "lzw tiles": {"compression": "lzw", "piece": (16, 16), "tiled": True},
    "differences, big-endian": {"compression": "lzw", "predictor": True, "order": ">"},
}


def pixels_of(path: Path) -> np.ndarray[Any, Any]:
    return read_image(path).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("planes", [False, True], ids=["pixels", "planes"])
def test_colours_of_16_bits(tmp_path: Path, planes: bool, layout: dict[str, Any]) -> None:
    """The high byte is kept, whether the channels lie side by side or each in a plane."""
    write_tiff(tmp_path / "a.tif", SIXTEEN[:, :, :3], planes=planes, **layout)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif"), SIXTEEN[:, :, :3] >> 8)
    assert read_image_size(tmp_path / "a.tif") == (21, 34)
    assert inspect_image(ImageRecord(1, tmp_path / "a.tif", 21, 34)).problem is None


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("planes", [False, True], ids=["pixels", "planes"])
@pytest.mark.parametrize(("kind", "range_"), [("f2", 1), ("f4", 1), ("f4", 255), ("f8", 1)])
def test_colours_as_floats(
    tmp_path: Path, planes: bool, layout: dict[str, Any], kind: str, range_: int
) -> None:
    values = (UNIT[:, :, :3] * range_).astype(kind)
    write_tiff(tmp_path / "a.tif", values, planes=planes, **layout)
    expected = np.round(values.astype(np.float64) * (255 / range_))
    assert abs(pixels_of(tmp_path / "a.tif") - expected).max() <= 1


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("values", [UNIT[:, :, 0], UNIT[:, :, 0].astype("f2"), UNIT[:, :, 0].astype("f8")])
def test_gray_floats(tmp_path: Path, values: np.ndarray[Any, Any], layout: dict[str, Any]) -> None:
    """Pillow reads the bytes of compressed big-endian floats in the wrong order."""
    write_tiff(tmp_path / "a.tif", values, **layout)
    expected = np.round(values.astype(np.float64) * 255)
    assert abs(pixels_of(tmp_path / "a.tif")[:, :, 1] - expected).max() <= 1


@pytest.mark.parametrize("kind", ["i2", "i4", "u4"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_gray_integers(tmp_path: Path, kind: str, layout: dict[str, Any]) -> None:
    values = (SIXTEEN[:, :, 0] // 2).astype(kind)
    write_tiff(tmp_path / "a.tif", values, **layout)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif")[:, :, 2], np.round(values / np.float32(257)))


@pytest.mark.parametrize("planes", [False, True], ids=["pixels", "planes"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_lies_on_white(tmp_path: Path, channels: int, bits: int, planes: bool) -> None:
    values = SIXTEEN[:, :, :channels].copy()
    values[:, :, -1] = 65535
    values[:5, :, -1] = 0
    shown = np.array(np.broadcast_to(values[:, :, :-1] >> 8, (21, 34, 3)))
    shown[:5] = 255
    stored = values if bits == 16 else (values >> 8).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", stored, planes=planes, extra=[2], compression="deflate")
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif"), shown)


def test_a_channel_beside_the_colours_is_left_out(tmp_path: Path) -> None:
    """Near infrared, for example: the tags say that it is not alpha."""
    write_tiff(tmp_path / "a.tif", SIXTEEN, planes=True, extra=[0])
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif"), SIXTEEN[:, :, :3] >> 8)


@pytest.mark.parametrize("planes", [False, True], ids=["pixels", "planes"])
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_channels_without_declared_colours_are_refused(tmp_path: Path, channels: int, planes: bool) -> None:
    values = np.zeros((8, 9, channels), np.uint8)
    extra = [0] * (channels - 1)
    write_tiff(tmp_path / "a.tif", values, planes=planes, photometric=1, extra=extra, compression="lzw")
    with pytest.raises(ImageError, match=rf"a\.tif: has {channels} channels"):
        read_image(tmp_path / "a.tif")
    assert f"{channels} channels" in str(inspect_image(ImageRecord(1, tmp_path / "a.tif", 8, 9)).problem)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_pixels_that_are_missing(tmp_path: Path, compression: str | None) -> None:
    """The tags lie before the pixels, and the file ends early."""
    write_tiff(tmp_path / "a.tif", SIXTEEN[:, :, :3], planes=True, compression=compression)
    content = (tmp_path / "a.tif").read_bytes()
    with Image.open(tmp_path / "a.tif") as image:
        counts = np.array(image.tag_v2[279], "<u4").tobytes()  # type: ignore[attr-defined]
    claimed = np.array([2**20] * 3, "<u4").tobytes() if compression is None else bytes([4, 0, 0, 0] * 3)
    offsets = content.replace(counts, claimed)
    start = np.array([8 + 21 * 34 * 2 * i for i in range(3)], "<u4").tobytes()
    beyond = np.array([len(content) - 9] * 3, "<u4").tobytes()
    (tmp_path / "a.tif").write_bytes(offsets.replace(start, beyond))
    with pytest.raises(ImageError, match=r"a\.tif: is (damaged|truncated)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_part_is_read(tmp_path: Path, layout: dict[str, Any]) -> None:
    write_tiff(tmp_path / "a.tif", SIXTEEN[:, :, :3], planes=True, **layout)
    with (tmp_path / "a.tif").open("rb") as file:
        pieces = TiffPieces(file, layout_of(directory(file)), cache=2**12)
        for x1, y1, x2, y2 in [(0, 0, 34, 21), (3, 7, 20, 9), (33, 20, 34, 21), (15, 0, 17, 21)]:
            np.testing.assert_array_equal(pieces.read(x1, y1, x2, y2), SIXTEEN[y1:y2, x1:x2, :3])


def test_orientation(tmp_path: Path) -> None:
    """A layout that Pillow does not open is rotated as its tag says, like any other."""
    write_tiff(tmp_path / "a.tif", UNIT[:, :, :3])
    content = bytearray((tmp_path / "a.tif").read_bytes())
    at = content.index(b"\x1c\x01\x03\x00\x01\x00\x00\x00")  # planar configuration 1 becomes orientation 6
    content[at : at + 10] = b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00"
    (tmp_path / "b.tif").write_bytes(content)
    upright = Image.fromarray(pixels_of(tmp_path / "a.tif")).transpose(Image.Transpose.ROTATE_270)
    assert read_image_size(tmp_path / "b.tif") == (34, 21)
    np.testing.assert_array_equal(pixels_of(tmp_path / "b.tif"), np.asarray(upright))
