"""Images as the page shows them: a small one of the whole, tiles of the original, thumbnails."""

from __future__ import annotations

import threading
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

from PIL import Image
from torch import Tensor

from instancefcn.errors import ImageError
from instancefcn.images.decoding import read_image, to_uint8_rgb
from instancefcn.images.opening import describe_error, open_image

WHOLE = 2048
"""Longer side, in pixels, of the image of the whole; smaller images are shown as they are."""

TILE = 1024
"""Side of a tile, in pixels of the original."""

THUMB = 96
"""Longer side of a thumbnail, in pixels."""

KEPT_BYTES = 160_000_000
"""Decoded images that stay in memory: two of 24 megapixels."""

KEPT_THUMBS = 2000


class Pixels:
    """Decodes image files, and keeps the latest. Its methods may be called from any thread."""

    def __init__(self, budget: int = KEPT_BYTES) -> None:
        self._budget, self._used = budget, 0
        self._images: OrderedDict[Path, Tensor] = OrderedDict()
        self._thumbs: OrderedDict[Path, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()

    def image(self, path: Path) -> Tensor:
        """uint8 [3, H, W], RGB, upright.

        Raises:
            ImageError: see `read_image`.
        """
        if (image := self._kept(path)) is not None:
            return image
        with self._decoding:  # the page and the model ask for the same image at the same time
            if (image := self._kept(path)) is not None:
                return image
            image = read_image(path)
        with self._lock:
            self._images[path] = image
            self._used += image.nbytes
            while self._used > self._budget and len(self._images) > 1:
                self._used -= self._images.popitem(last=False)[1].nbytes
        return image

    def _kept(self, path: Path) -> Tensor | None:
        with self._lock:
            if path in self._images:
                self._images.move_to_end(path)
            return self._images.get(path)

    def whole(self, path: Path) -> bytes:
        """A JPEG file of the whole image, its longer side at most WHOLE. Raises ImageError."""
        image = _pillow(self.image(path))
        scale = min(1.0, WHOLE / max(image.size))
        if scale < 1:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        return _jpeg(image, 90)

    def tile(self, path: Path, column: int, row: int) -> bytes | None:
        """A JPEG file of TILE x TILE pixels of the original, less at its right and lower border; None when
        there is no such tile. Raises ImageError.
        """
        image = self.image(path)
        part = image[:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        return _jpeg(_pillow(part), 92) if part.numel() else None

    def thumb(self, path: Path) -> bytes:
        """A JPEG file, its longer side THUMB. Raises ImageError."""
        with self._lock:
            if path in self._thumbs:
                return self._thumbs[path]
        try:
            with open_image(path) as opened:
                opened.draft("RGB", (2 * THUMB, 2 * THUMB))  # a JPEG file is decoded at an eighth of its size
                image = _pillow(to_uint8_rgb(opened))
        except Exception as error:  # decoders raise nearly anything on a broken file
            raise ImageError(f"{path}: {describe_error(error)}") from error
        image.thumbnail((THUMB, THUMB), Image.Resampling.BILINEAR)
        data = _jpeg(image, 80)
        with self._lock:
            self._thumbs[path] = data
            if len(self._thumbs) > KEPT_THUMBS:
                self._thumbs.popitem(last=False)
        return data


def _pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
