"""Pages of image files: how many there are, and reading one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from images.tiff_files import write_tiff
from instancefcn.errors import ImageError
from instancefcn.images.decoding import decode_page, pages_of, read_image
from instancefcn.images.download import path_of
from instancefcn.images.pages import split_page

LEVELS = (10, 90, 200)
KINDS = ("tif", "gif", "png", "webp", *(["avif"] if features.check("avif") else []))


@pytest.fixture(params=KINDS)
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three gray pages."""
    pages = [Image.new("L", (32, 24), level) for level in LEVELS]
    path = tmp_path / f"stack.{request.param}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def test_each_page_is_read(stack: Path) -> None:
    assert decode_page(stack).pages == pages_of(stack) == 3
    assert abs(int(read_image(stack).max()) - LEVELS[0]) <= 2
    for number, level in enumerate(LEVELS, 1):
        pixels, pages = decode_page(f"{stack}#page{number}")
        assert pages == 3
        assert pixels.shape == (3, 24, 32)
        assert abs(int(pixels.max()) - level) <= 2


def test_a_page_that_is_not_there(stack: Path) -> None:
    with pytest.raises(ImageError, match=r"#page4: has 3 pages.* 4"):
        read_image(f"{stack}#page4")


def test_other_images_have_one_page(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    assert [pages_of(tmp_path / name) for name in ("a.jpg", "a.png", "broken.png", "none.png")] == [1] * 4
    with pytest.raises(ImageError, match="has 1 page,"):
        read_image(tmp_path / "a.jpg#page2")


def test_smaller_copies_are_not_pages(tmp_path: Path) -> None:
    """Pyramids and thumbnails of a TIFF file carry a tag that says so."""
    large, copy, other = (Image.new("L", (size, size), size) for size in (32, 16, 8))
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "a.tif", save_all=True, append_images=[copy, other])
    assert pages_of(tmp_path / "a.tif") == 2
    assert read_image(tmp_path / "a.tif#page2").shape == (3, 8, 8)


def test_a_page_that_pillow_does_not_open(tmp_path: Path) -> None:
    """The second page holds colours as floats."""
    values = np.linspace(0, 1, 5 * 6 * 3, dtype=np.float32).reshape(5, 6, 3)
    write_tiff(tmp_path / "floats.tif", values)
    content = bytearray((tmp_path / "floats.tif").read_bytes())
    Image.new("L", (6, 5), 7).save(tmp_path / "a.tif")
    first = bytearray((tmp_path / "a.tif").read_bytes())
    with Image.open(tmp_path / "a.tif") as image:
        end = int.from_bytes(first[4:8], "little") + 2 + 12 * len(image.tag_v2)  # type: ignore[attr-defined]
    first += bytes(len(first) % 2)
    shift = len(first)
    start = int.from_bytes(content[4:8], "little")
    first[end : end + 4] = (shift + start).to_bytes(4, "little")
    for at in range(start + 2, len(content) - 11, 12):  # offsets in the second file move with it
        tag, count = (int.from_bytes(content[at + i : at + j], "little") for i, j in ((0, 2), (4, 8)))
        far = tag == 273 or (tag in (258, 339) and count > 2)
        if far:
            value = int.from_bytes(content[at + 8 : at + 12], "little") + shift
            content[at + 8 : at + 12] = value.to_bytes(4, "little")
        if tag == 339:
            break
    (tmp_path / "a.tif").write_bytes(first + content)
    assert pages_of(tmp_path / "a.tif") == 2
    shown = read_image(tmp_path / "a.tif#page2").permute(1, 2, 0).numpy()
    assert abs(shown - np.round(values * 255)).max() <= 1


def test_names_of_pages(tmp_path: Path) -> None:
    (tmp_path / "b.tif#page2").write_bytes(b"a file of that name")
    assert split_page("a.tif#page12") == (Path("a.tif"), 12)
    for whole in (
        "a.tif",
        "a.tif#page0",
        "a.tif#page",
        str(tmp_path / "b.tif#page2"),
        "http://x/a.tif#page2",
    ):
        assert split_page(whole) == (whole, 1)
    assert path_of("folder/a.tif#page2") == Path("folder/a#page2.tif")
    assert path_of(Path("folder/a.tif")) == Path("folder/a.tif")
