"""Images from files, Pillow images and arrays, always as 8-bit RGB as a viewer would show them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from instancefcn.errors import ImageError
from instancefcn.images.directories import check_directory
from instancefcn.images.opening import check_image_size, describe_error, open_image
from instancefcn.images.pages import count_pages, split_page
from instancefcn.images.samples import check_samples, to_uint8

_ORIENTATION = 0x0112  # the EXIF tag that says how a viewer rotates the image
_RAW_PROFILE = "Raw profile type exif"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])
"""Rotations that swap width and height."""

_GRAY_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of gray with more than 8 bits."""


class DecodedImage(NamedTuple):
    """An image, or one page of a file.

    Attributes:
        pixels: uint8 [3, H, W], RGB; in memory H x W x 3, the order that resizes fastest.
        pages: how many pages or frames the file has: see `instancefcn.images.pages`.
    """

    pixels: Tensor
    pages: int


def read_image(path: Path | str) -> Tensor:
    """Decode an image file.

    EXIF rotation is applied; of several pages or frames the first is read, unless the path ends in "#page2"
    or the like; palettes, gray and CMYK become RGB; what is transparent lies on white, as a viewer shows it.
    Gray samples of 16 bits are divided by 257 whatever range they use, so equal values are equal in all
    images; of colours with 16 bits the high byte is kept. Floats range from 0 to 1, or from 0 to 255 if one
    is above 1.

    Returns:
        uint8 [3, H, W], RGB; in memory H x W x 3, the order that resizes fastest.

    Raises:
        ImageError: the file is missing, not an image, truncated, larger than `instancefcn.limits` allows, or
            holds values out of range.
    """
    return decode_page(path).pixels


def decode_page(source: Path | str, content: bytes | None = None) -> DecodedImage:
    """Decode an image file as `read_image` does, and count its pages.

    Args:
        source: the file, or one page of it such as "stack.tif#page2". It names the image in errors.
        content: the file's bytes, where they are in memory already.

    Raises:
        ImageError: see `read_image`.
    """
    try:
        path, page = (source, 1) if content is not None else split_page(source)
        with open_image(Path(path) if content is None else content, page=page) as image:
            pages = count_pages(image)
            return DecodedImage(to_uint8_rgb(image), pages)
    except Exception as error:
        raise ImageError(f"{source}: {describe_error(error)}") from error


def pages_of(path: Path | str) -> int:
    """How many pages or frames an image file has; 1 for one that cannot be read."""
    try:
        with open_image(Path(path)) as image:
            return count_pages(image)
    except Exception:  # reading it reports what is wrong
        return 1


def decode_image(content: bytes, name: str) -> Tensor:
    """Decode the bytes of an image file: see `read_image`. Errors call the image `name`."""
    return decode_page(name, content).pixels


def read_image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image after EXIF rotation, from the file's header where possible.

    Raises:
        ImageError: the file is missing, not an image, or too large.
    """
    try:
        with open_image(path) as image:
            turn = turn_of(image)
            width, height = image.size
            return (width, height) if turn in SIDEWAYS else (height, width)
    except Exception as error:
        raise ImageError(f"{path}: {describe_error(error)}") from error


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How to rotate the pixels that Pillow returns; afterwards `image.size` is their size. Pillow rotates a
    TIFF file itself when it loads the pixels, so a TIFF file is loaded here and needs no rotation.

    Raises:
        Exception: whatever the decoders raise.
    """
    turn = stored_turn(image)
    if turn is not None and image.format == "TIFF":
        image.load()
        turn = stored_turn(image)
    return turn


def stored_turn(image: Image.Image) -> Image.Transpose | None:
    """The rotation that the EXIF data (of an unloaded TIFF file: its tags) ask for. Damaged EXIF data count
    as none, as the pixels may be intact.

    Raises:
        Exception: whatever the decoders raise; a PNG file may store its EXIF data behind the pixels.
    """
    if image.format == "PNG" and not image.info.keys() & {"exif", _RAW_PROFILE}:
        image.load()
    try:
        check_directory(BytesIO(_exif(image)))
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the EXIF and XMP parsers raise almost anything
        return None


def _exif(image: Image.Image) -> bytes:
    """The image's EXIF data, also when ImageMagick has written them as text."""
    data: bytes | None = image.info.get("exif")
    if data is None and _RAW_PROFILE in image.info:
        data = bytes.fromhex("".join(str(image.info[_RAW_PROFILE]).split("\n")[3:]))
    return (data or b"").removeprefix(b"Exif\0\0")


def to_uint8_rgb(image: Image.Image | NDArray[Any] | Tensor) -> Tensor:
    """Convert a Pillow image or an array to uint8 [3, H, W], RGB: see `read_image`.

    Arrays (NumPy or tensors) are [H, W], [H, W, 1], [H, W, 3] or (with alpha) [H, W, 4], RGB; a tensor
    may also be [3, H, W]. Types: uint8, bool, uint16 (divided by 257), or floats from 0 to 1.

    Raises:
        ImageError: another shape or type, values out of range, or larger than `instancefcn.limits` allows.
    """
    if isinstance(image, Image.Image):
        try:
            return torch.from_numpy(_array_of(image)).permute(2, 0, 1)
        except Exception as error:  # Pillow decodes late
            raise ImageError(describe_error(error)) from error
    if isinstance(image, Tensor):
        if image.dim() == 3 and image.shape[0] == 3 and image.shape[2] not in (1, 3, 4):
            image = image.permute(1, 2, 0)
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()  # numpy has no bfloat16
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image must be a Pillow image or an array, not {type(image).__name__}")
    array = image[:, :, None] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(f"an image array must be [H, W] or [H, W, 1, 3 or 4], got shape {list(image.shape)}")
    check_image_size(array.shape[0], array.shape[1])
    samples = to_uint8(array)
    if samples.shape[2] == 4:
        samples = np.asarray(flattened(Image.fromarray(np.ascontiguousarray(samples))))
    whole = np.broadcast_to(samples, (*samples.shape[:2], 3))
    return torch.from_numpy(np.array(whole, order="C")).permute(2, 0, 1)


def _array_of(image: Image.Image) -> NDArray[np.uint8]:
    if 0 in image.size:
        raise ImageError(f"an image of {image.width} x {image.height} pixels is empty")
    check_image_size(image.height, image.width)
    turn = turn_of(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in _GRAY_MODES:
        values = np.asarray(image)
        check_samples(values)
        if image.mode != "F":  # Pillow opens some 16-bit files as "I"
            values = values.astype(np.uint16)
        elif values.max() > 1:
            values = values / 255
        gray = to_uint8(values)
        if image.mode != "F" and isinstance(transparent := image.info.get("transparency"), int):
            gray = np.where(values == transparent, np.uint8(255), gray)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.array(flattened(image).convert("RGB"))


def flattened(image: Image.Image) -> Image.Image:
    """An image without transparency: what was transparent lies on white. Gray of 16 bits and floats are
    returned as they are.
    """
    if not image.has_transparency_data or image.mode in _GRAY_MODES:
        return image
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:  # of 16 bits, of which 8 were read
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    whole = image.convert("RGBA")
    canvas = Image.new("RGB", whole.size, "white")
    canvas.paste(whole, mask=whole)
    return canvas
