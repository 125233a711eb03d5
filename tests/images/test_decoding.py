"""Every kind of image becomes upright 8-bit RGB; anything else is an ImageError that names the file."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from instancefcn.data.dataset import ImageRecord
from instancefcn.data.formats.index_masks import read_index
from instancefcn.data.image_checks import inspect_image
from instancefcn.errors import ImageError
from instancefcn.images import opening
from instancefcn.images.decoding import decode_image, read_image, read_image_size, to_uint8_rgb

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def pixels_of(path: Path) -> np.ndarray:
    tensor = read_image(path)
    assert tensor.dtype == torch.uint8
    assert tensor.shape[0] == 3
    return tensor.permute(1, 2, 0).numpy()


def test_rgb_png(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), RGB)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Row and column of the upright image's first pixel, from the EXIF standard's table."""
    return {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90(stored, 1),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png"), upright(RGB, orientation))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation(tmp_path: Path, orientation: int, compression: str | None) -> None:
    """Pillow turns TIFF files itself: they must not be turned twice."""
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for stored in (noise, noise[:, :, 0]):
        Image.fromarray(stored).save(path, tiffinfo={0x0112: orientation}, compression=compression)
        seen = upright(stored, orientation)
        height, width = seen.shape[:2]
        colours = np.broadcast_to(seen.reshape(height, width, -1), (height, width, 3))
        np.testing.assert_array_equal(pixels_of(path), colours)
        assert torch.equal(decode_image(path.read_bytes(), "a"), read_image(path))
        assert read_image_size(path) == (height, width)
        Image.fromarray(seen).save(tmp_path / "seen.png")
        expected = inspect_image(ImageRecord(1, tmp_path / "seen.png", height, width))
        found = inspect_image(ImageRecord(1, path, height, width))
        assert (found.problem, found.size, found.turned) == (None, (height, width), orientation != 1)
        np.testing.assert_array_equal(found.thumb, expected.thumb)
    np.testing.assert_array_equal(read_index(path), upright(noise[:, :, 0], orientation))
    unturned = inspect_image(ImageRecord(1, path, 40, 60)).problem
    assert (unturned is not None and unturned.check == "exif-rotation") == (orientation > 4)


def test_exif_data_do_not_turn_a_png_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB[:, :, 0]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_index(tmp_path / "a.png"), RGB[:, :, 0])


def png_of(samples: list[int], bits: int, palette: bool) -> bytes:
    """An image of one row, which Pillow writes with a palette only."""
    row = "".join(f"{sample:0{bits}b}" for sample in samples)
    data = bytes(int(row[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(row), 8))
    head = struct.pack(">2L5B", len(samples), 1, bits, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"PLTE", bytes(range(12)))][: 2 if palette else 1]
    chunks += [(b"IDAT", zlib.compress(b"\0" + data)), (b"IEND", b"")]
    parts = (
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_masks_of_few_bits_are_refused(tmp_path: Path, bits: int) -> None:
    """Pillow turns number 1 into 85 or 17."""
    path = tmp_path / "a.png"
    path.write_bytes(png_of([0, 1, 3], bits, palette=True))
    assert read_index(path).tolist() == [[0, 1, 3]]
    path.write_bytes(png_of([0, 1, 3], bits, palette=False))
    with pytest.raises(ImageError, match=r"a\.png"):
        read_index(path)


@pytest.mark.parametrize("palette", [False, True])
def test_masks_of_one_bit_hold_object_1(tmp_path: Path, palette: bool) -> None:
    (tmp_path / "a.png").write_bytes(png_of([0, 1, 1], 1, palette))
    assert read_index(tmp_path / "a.png").tolist() == [[0, 1, 1]]


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00not a TIFF header")
    assert read_image(tmp_path / "a.jpg").shape == (3, 4, 6)


def test_gray_bilevel_cmyk(tmp_path: Path) -> None:
    gray = RGB[:, :, 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "gray.png"), np.repeat(gray[:, :, None], 3, 2))

    Image.fromarray(gray > 30).save(tmp_path / "bilevel.png")
    assert set(pixels_of(tmp_path / "bilevel.png").reshape(-1).tolist()) == {0, 255}

    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    flat.save(tmp_path / "cmyk.jpg")
    red = pixels_of(tmp_path / "cmyk.jpg")[16, 16]
    assert red[0] > 240
    assert red[1:].max() < 15


def half_hidden() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours, their alpha (0, 128 and 255, two columns each), and what a viewer shows on white."""
    alpha = np.repeat(np.array([[0, 0, 128, 128, 255, 255]], np.uint8), 4, axis=0)
    share = alpha[:, :, None] / 255
    return RGB, alpha, np.round(RGB * share + 255 * (1 - share)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["png", "webp", "tif", "array", "floats"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, kind: str) -> None:
    colours, alpha, shown = half_hidden()
    whole = np.dstack((colours, alpha))
    if kind in ("array", "floats"):
        given = whole if kind == "array" else whole.astype(np.float32) / 255
        np.testing.assert_array_equal(to_uint8_rgb(given).permute(1, 2, 0), shown)
        return
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    Image.fromarray(whole).save(tmp_path / f"a.{kind}", **options)
    np.testing.assert_array_equal(pixels_of(tmp_path / f"a.{kind}"), shown)
    gray = Image.fromarray(np.dstack((colours[:, :, 0], alpha)), "LA")
    gray.save(tmp_path / f"g.{kind}", **options)
    np.testing.assert_array_equal(pixels_of(tmp_path / f"g.{kind}")[:, :, 2], shown[:, :, 0])


def test_a_transparent_colour_is_white(tmp_path: Path) -> None:
    """PNG and GIF may name one colour or one index that is transparent."""
    palette = Image.fromarray(RGB).quantize(256)
    shown = np.array(palette.convert("RGB"))
    shown[np.asarray(palette) == 3] = 255
    palette.save(tmp_path / "palette.png", transparency=3)
    np.testing.assert_array_equal(pixels_of(tmp_path / "palette.png"), shown)
    levels = bytes([255] * 3 + [0] + [255] * 252)
    palette.save(tmp_path / "levels.png", transparency=levels)
    np.testing.assert_array_equal(pixels_of(tmp_path / "levels.png"), shown)
    palette.save(tmp_path / "palette.gif", transparency=3)
    np.testing.assert_array_equal(pixels_of(tmp_path / "palette.gif"), shown)
    Image.fromarray(RGB).save(tmp_path / "colour.png", transparency=tuple(RGB[1, 2].tolist()))
    assert (pixels_of(tmp_path / "colour.png") != RGB).any(axis=2).nonzero() == (1, 2)
    assert pixels_of(tmp_path / "colour.png")[1, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", [0, 4, 6])
def test_transparency_with_16_bits(tmp_path: Path, kind: int) -> None:
    """PNG of gray with a transparent value (0), of gray with alpha (4), and of RGB with alpha (6)."""
    rows = {
        0: [[0x1234], [0x8000]],
        4: [[0x1234, 0], [0x8000, 0xFFFF]],
        6: [[9, 9, 9, 0], [0x8000] * 3 + [0xFFFF]],
    }
    data = np.array(rows[kind], ">u2").tobytes()
    chunks = [b"IHDR" + struct.pack(">LLBBBBB", 2, 1, 16, kind, 0, 0, 0)]
    chunks += [b"tRNS" + struct.pack(">H", 0x1234)] if kind == 0 else []
    chunks += [b"IDAT" + zlib.compress(b"\0" + data), b"IEND"]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(one) - 4) + one + struct.pack(">L", zlib.crc32(one)) for one in chunks
    )
    (tmp_path / "a.png").write_bytes(content)
    assert pixels_of(tmp_path / "a.png").tolist() == [[[255] * 3, [128] * 3]]


def test_equal_looks_are_near_duplicates(tmp_path: Path) -> None:
    """The thumbnail shows what is visible, not what alpha hides."""
    for name, colour in (("a", (9, 9, 9, 0)), ("b", (200, 0, 0, 0))):
        Image.new("RGBA", (20, 20), colour).save(tmp_path / f"{name}.png")
    thumbs = [inspect_image(ImageRecord(1, tmp_path / f"{name}.png", 20, 20)).thumb for name in "ab"]
    assert thumbs[0].min() == thumbs[1].min() == 255


def test_sixteen_bit_and_float(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535], [128 * 257, 514, 100]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert pixels_of(tmp_path / "a.png")[:, :, 1].tolist() == [[0, 1, 255], [128, 2, 0]]
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert pixels_of(tmp_path / "a.tif")[:, :, 1].tolist() == [[0, 1, 255], [128, 2, 0]]
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(tmp_path / "unit.tif")
    assert pixels_of(tmp_path / "unit.tif")[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0, 100, 255]], dtype=np.float32)).save(tmp_path / "wide.tif")
    assert pixels_of(tmp_path / "wide.tif")[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([250, 1810.5], r"250\.0 .*1810\.5"),
        ([-0.25, 0.75], r"-0\.25 .*0\.75"),
        ([0, 255.5], r"255\.5"),
        ([0, np.nan], "finite"),
        ([0, np.inf], "finite"),
    ],
)
def test_floats_out_of_range(tmp_path: Path, values: list[float], named: str) -> None:
    """The check refuses what reading refuses, with the same message."""
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([values], dtype=np.float32)).save(path)
    with pytest.raises(ImageError, match=named) as caught:
        read_image(path)
    problem = inspect_image(ImageRecord(1, path, 1, 2)).problem
    assert problem is not None
    assert str(caught.value).removeprefix(f"{path}: ") in problem


@pytest.mark.parametrize(("values", "named"), [([0, 70000], "70000"), ([-1, 9], "-1")])
def test_integers_beyond_16_bits(tmp_path: Path, values: list[int], named: str) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([values], dtype=np.int32)).save(path)
    with pytest.raises(ImageError, match=named):
        read_image(path)
    assert named in str(inspect_image(ImageRecord(1, path, 1, 2)).problem)
    Image.fromarray(np.array([[0, 514, 65535]], dtype=np.int32)).save(path)
    assert pixels_of(path)[0, :, 0].tolist() == [0, 2, 255]


def test_floats_in_range_pass_the_check(tmp_path: Path) -> None:
    for values in ([0, 1], [0.25, 0.5], [0, 255], [1, 2]):
        Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
        read_image(tmp_path / "a.tif")
        assert inspect_image(ImageRecord(1, tmp_path / "a.tif", 1, 2)).problem is None


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels_of(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_errors_name_the_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("jpg", "png"):
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "JPEG" if kind == "jpg" else "PNG")
        (tmp_path / f"short.{kind}").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("short.jpg", "short.png", "text.jpg", "empty.jpg", "folder.jpg", "missing.jpg"):
        with pytest.raises(ImageError, match=re.escape(str(tmp_path / name))):
            read_image(tmp_path / name)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(opening, "MAX_PIXELS", 23)
    with pytest.raises(ImageError, match=r"a\.png: .*\b23 pixels"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"\b23 pixels"):
        to_uint8_rgb(RGB)


def test_decompression_bomb(tmp_path: Path) -> None:
    """A header of a few bytes that claims 60,000 x 60,000 pixels."""
    header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + (60_000).to_bytes(4, "little") * 2
    header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    (tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(ImageError, match="pixels"):
        read_image(tmp_path / "bomb.bmp")


def test_arrays() -> None:
    channels_first = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    assert torch.equal(to_uint8_rgb(RGB), channels_first)
    assert torch.equal(to_uint8_rgb(torch.from_numpy(RGB.copy())), channels_first)
    assert torch.equal(to_uint8_rgb(channels_first), channels_first)
    assert torch.equal(to_uint8_rgb(Image.fromarray(RGB)), channels_first)
    assert torch.equal(to_uint8_rgb(np.asfortranarray(RGB)[:, :, :1])[2], channels_first[0])
    assert torch.equal(to_uint8_rgb(RGB[:, :, 0])[1], channels_first[0])
    assert to_uint8_rgb(np.array([[0.0, 0.5, 1.0]]))[0].tolist() == [[0, 128, 255]]
    assert to_uint8_rgb(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16))[0].tolist() == [[0, 255]]
    assert to_uint8_rgb(np.array([[False, True]]))[0].tolist() == [[0, 255]]
    assert to_uint8_rgb(np.array([[257, 65535]], dtype=np.uint16))[0].tolist() == [[1, 255]]
    copy = to_uint8_rgb(RGB)
    copy.zero_()
    assert RGB.any(), "the caller's array must not be shared"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.zeros((4, 6, 2), np.uint8), r"\[4, 6, 2\]"),
        (np.zeros((2, 4, 6, 3), np.uint8), r"\[2, 4, 6, 3\]"),
        (np.zeros((0, 6, 3), np.uint8), r"\[0, 6, 3\]"),
        (np.array([[0.0, 255.0]]), r"255\.0"),
        (np.array([[0.0, np.nan]]), "nan"),
        (np.zeros((4, 6), np.int64), "int64"),
        ("a.jpg", "str"),
    ],
)
def test_unsupported_arrays(value: object, named: str) -> None:
    with pytest.raises(ImageError, match=named):
        to_uint8_rgb(value)  # type: ignore[arg-type]


def test_bytes_are_decoded_as_files_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert torch.equal(decode_image(path.read_bytes(), "a"), read_image(path))
    with pytest.raises(ImageError, match=r"^its name: "):
        decode_image(path.read_bytes()[:600], "its name")


@pytest.mark.parametrize(
    ("suffix", "feature", "options"),
    [("avif", "avif", {"quality": 100, "subsampling": "4:4:4"}), ("jp2", "jpg_2000", {})],
)
def test_formats_that_pillow_may_lack(
    tmp_path: Path, suffix: str, feature: str, options: dict[str, Any]
) -> None:
    if not features.check(feature):
        pytest.skip(f"this Pillow lacks {feature}")
    flat = np.full((32, 48, 3), (200, 60, 90), np.uint8)
    Image.fromarray(flat).save(tmp_path / f"a.{suffix}", **options)
    assert abs(pixels_of(tmp_path / f"a.{suffix}").astype(int) - flat).max() <= 3


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    pillow_heif.register_heif_opener()
    Image.new("RGB", (64, 48), (200, 60, 90)).save(tmp_path / "a.heic", quality=100)
    assert abs(pixels_of(tmp_path / "a.heic").astype(int) - (200, 60, 90)).max() <= 4
    (tmp_path / "short.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:40])
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "short.heic")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"HEIC.*instancefcn\[heic\]"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
        (b"%PDF-1.7" + bytes(40), "PDF"),
        (b"8BPS" + bytes(40), "Photoshop"),
        (b"", "empty"),
    ],
)
def test_other_formats_are_named(
    tmp_path: Path, content: bytes, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "heic_is_installed", lambda: False)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.jpg: .*{named}"):
        read_image(tmp_path / "a.jpg")
