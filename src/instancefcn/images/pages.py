"""Pages and frames: how many an image file has, and how one of them is named."""

from __future__ import annotations

import os
import re
from io import SEEK_END
from pathlib import Path
from typing import IO

from PIL import Image

from instancefcn.images.directories import page_indices
from instancefcn.limits import MAX_PAGES

_PAGE = re.compile(r"(.+)#page([1-9]\d{0,8})", re.DOTALL)


def split_page(source: str | Path) -> tuple[str | Path, int]:
    """A file and the page of it that is meant, from 1: `stack.tif#page2` is page 2 of `stack.tif`, unless
    there is a file of the whole name. Any other source is returned as it is, with page 1.
    """
    found = _PAGE.fullmatch(str(source))
    if found is None or "://" in str(source) or os.path.exists(source):
        return source, 1
    return Path(found[1]), int(found[2])


def with_page(source: str | Path, page: int) -> str:
    """What `split_page` splits."""
    return f"{source}#page{page}"


def count_pages(image: Image.Image) -> int:
    """The pages of a TIFF file or the frames of an animation; 1 for other images, and MAX_PAGES for more.

    Args:
        image: as `open_image` gives it, not loaded yet.

    Raises:
        Exception: whatever the decoders raise.
    """
    file: IO[bytes] | None = getattr(image, "fp", None)
    if file is not None and image.format in ("TIFF", "GIF"):
        before = file.tell()
        count = len(page_indices(file)) if image.format == "TIFF" else _gif_frames(file)
        file.seek(before)
        return count
    if image.format in ("PNG", "WEBP", "AVIF", "HEIF"):  # an MPO photo's second image is a smaller copy
        return min(int(getattr(image, "n_frames", 1)), MAX_PAGES)
    return 1


def _gif_frames(file: IO[bytes]) -> int:
    """The frames of a GIF file, whose blocks are skipped: Pillow builds each frame to count it."""
    length = file.seek(0, SEEK_END)
    file.seek(10)
    flags = file.read(3)
    _skip_colours(file, flags[:1])
    frames = 0
    while frames < MAX_PAGES and file.tell() < length:
        kind = file.read(1)
        if kind == b"!":
            file.seek(1, os.SEEK_CUR)
        elif kind == b",":
            frames += 1
            _skip_colours(file, file.read(9)[8:])
            file.seek(1, os.SEEK_CUR)
        else:
            break
        while size := file.read(1).rstrip(b"\0"):
            file.seek(size[0], os.SEEK_CUR)
    return max(frames, 1)


def _skip_colours(file: IO[bytes], flags: bytes) -> None:
    if flags and flags[0] & 128:
        file.seek(3 << (flags[0] % 8 + 1), os.SEEK_CUR)
