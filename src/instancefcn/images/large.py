"""TIFF files too large to be decoded at once, of which any part is read."""

from __future__ import annotations

from pathlib import Path

from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from instancefcn.errors import ImageError
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.images.directories import ORDERS, check_directory, page_indices
from instancefcn.images.opening import describe_error
from instancefcn.images.pages import split_page
from instancefcn.images.tiff import CACHE_BYTES, TiffPieces, as_image, directory, layout_of
from instancefcn.limits import MAX_FILE_BYTES, MAX_PIXELS

_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274


class LargeImage:
    """One page of a TIFF file, on the disk. Not for several threads at once.

    Args:
        path: the file.
        tags: of the page.

    Attributes:
        height, width: in pixels.

    Raises:
        ImageError: its layout is not supported.
    """

    def __init__(self, path: Path, tags: ImageFileDirectory_v2) -> None:
        layout = layout_of(tags)
        if layout.dtype.str[1:] not in ("u1", "u2"):
            raise ImageError(
                "has samples that are not read piece by piece: save it with 8 or 16 bits per sample"
            )
        if tags.get(_ORIENTATION, 1) != 1:
            raise ImageError("is stored rotated, which is not read piece by piece: save it upright")
        self.path, self.height, self.width = path, layout.height, layout.width
        self._layout = layout
        self._pieces = TiffPieces(path.open("rb"), layout, CACHE_BYTES)

    def crop(self, x1: int, y1: int, x2: int, y2: int) -> Tensor:
        """A part that lies inside the image, as `read_image` decodes it: uint8 [3, y2 - y1, x2 - x1].

        Raises:
            ImageError: the file is damaged.
        """
        try:
            return to_uint8_rgb(as_image(self._pieces.read(x1, y1, x2, y2), self._layout))
        except Exception as error:
            raise ImageError(describe_error(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._pieces.file.close()

    def __del__(self) -> None:
        if hasattr(self, "_pieces"):
            self.close()


def open_large(source: Path | str) -> LargeImage | None:
    """A TIFF file with more pixels or bytes than are decoded at once; None for any other file.

    Args:
        source: the file, or one page of it such as "stack.tif#page2".

    Raises:
        ImageError: it is damaged, or of a layout that is not read piece by piece.
    """
    path, page = split_page(source)
    try:
        with Path(path).open("rb") as file:
            if file.read(2) not in ORDERS:
                return None
            check_directory(file)
            indices = page_indices(file) if page > 1 else [0]
            if page > len(indices):
                return None  # reading it says so
            tags = directory(file, indices[page - 1])
    except Exception:  # reading it says what is wrong
        return None
    height, width = tags.get(_HEIGHT, 0), tags.get(_WIDTH, 0)
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    if height * width <= MAX_PIXELS and Path(path).stat().st_size <= MAX_FILE_BYTES:
        return None
    try:
        return LargeImage(Path(path), tags)
    except Exception as error:
        raise ImageError(f"{source}: {describe_error(error)}") from error
