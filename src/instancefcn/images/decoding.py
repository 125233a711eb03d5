"""Pictures from files, Pillow images and arrays, always as 8-bit RGB the way a viewer would show them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from instancefcn.errors import ImageError
from instancefcn.images.opening import check_directory, check_image_size, describe_error, open_image

_ORIENTATION = 0x0112  # the EXIF tag that says how a viewer turns the picture
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
"""Turns that swap width and height."""

_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")


def read_image(path: Path | str) -> Tensor:
    """Decode a picture file.

    EXIF rotation is applied, of an animation the first frame is taken, palettes, gray and CMYK become RGB,
    alpha is dropped (not blended), and 16-bit samples are divided by 257 whatever range they use, so that
    equal values stay equal between pictures. Floats run from 0 to 1, or from 0 to 255 where one is above 1.

    Returns:
        uint8 [3, H, W], RGB; in memory as H x W x 3, the order in which it is resized fastest.

    Raises:
        ImageError: the file is missing, no picture, truncated, larger than limits.py allows, or holds floats
            or whole numbers out of range.
    """
    path = Path(path)
    try:
        with open_image(path) as image:
            return to_uint8_rgb(image)
    except Exception as error:
        raise ImageError(f"{path}: {describe_error(error)}") from error


def decode_image(content: bytes, name: str) -> Tensor:
    """The same for a picture file's bytes; `name` is what an error calls it. See `read_image`."""
    try:
        with open_image(content) as image:
            return to_uint8_rgb(image)
    except Exception as error:
        raise ImageError(f"{name}: {describe_error(error)}") from error


def read_image_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture after EXIF rotation, from the head of the file where that tells it.

    Raises:
        ImageError: the file is missing, no picture, or too large.
    """
    try:
        with open_image(path) as image:
            turn = turn_of(image)
            width, height = image.size
            return (width, height) if turn in SIDEWAYS else (height, width)
    except Exception as error:
        raise ImageError(f"{path}: {describe_error(error)}") from error


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How the pixels that Pillow gives are still to be turned; `image.size` is theirs afterwards. A TIFF file
    is turned by Pillow itself when its pixels are loaded; that is done here, so nothing is left to do.

    Raises:
        Exception: whatever the decoders raise.
    """
    turn = stored_turn(image)
    if turn is not None and image.format == "TIFF":
        image.load()
        turn = stored_turn(image)
    return turn


def stored_turn(image: Image.Image) -> Image.Transpose | None:
    """How the EXIF data (of a TIFF file that is not loaded yet: its tags) want the stored pixels turned.
    Damaged EXIF data count as none: the pixels may be sound.

    Raises:
        Exception: whatever the decoders raise; a PNG file may hold its EXIF data behind the pixels.
    """
    if image.format == "PNG" and not image.info.keys() & {"exif", _RAW_PROFILE}:
        image.load()
    try:
        check_directory(BytesIO(_exif(image)))
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the parsers of EXIF and XMP raise nearly anything
        return None


def _exif(image: Image.Image) -> bytes:
    """EXIF data beside the pixels, also in the form in which ImageMagick writes them as text."""
    data: bytes | None = image.info.get("exif")
    if data is None and _RAW_PROFILE in image.info:
        data = bytes.fromhex("".join(str(image.info[_RAW_PROFILE]).split("\n")[3:]))
    return (data or b"").removeprefix(b"Exif\0\0")


def to_uint8_rgb(image: Image.Image | NDArray[Any] | Tensor) -> Tensor:
    """The same for a Pillow image or an array.

    Arrays (numpy, or tensors, which are taken as numpy would be) are [H, W], [H, W, 1], [H, W, 3] or [H, W,
    4] in RGB order; a tensor may also be [3, H, W]. Kinds: uint8; bool; uint16 (divided by 257); floats from
    0 to 1.

    Raises:
        ImageError: another shape or kind, values out of range, or larger than `instancefcn.limits` allows.
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
        raise ImageError(f"a picture is a Pillow image or an array, not {type(image).__name__}")
    array = image[:, :, None] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"an array of shape {list(image.shape)} is no picture: [H, W] or [H, W, 1, 3 or 4] is"
        )
    check_image_size(array.shape[0], array.shape[1])
    array = np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array[:, :, :3]
    return torch.from_numpy(np.array(_to_uint8(array), order="C")).permute(2, 0, 1)


def _array_of(image: Image.Image) -> NDArray[np.uint8]:
    if 0 in image.size:
        raise ImageError(f"a picture of {image.width} x {image.height} pixels is empty")
    check_image_size(image.height, image.width)
    turn = turn_of(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in _SIXTEEN_BIT_MODES or image.mode in ("I", "F"):
        values = np.asarray(image)
        check_samples(values)
        if image.mode != "F":  # "I" is how Pillow opens some 16-bit files
            values = values.astype(np.uint16)
        elif values.max() > 1:
            values = values / 255
        return np.repeat(_to_uint8(values)[:, :, None], 3, axis=2)
    if image.mode != "RGB":
        # A palette with transparency goes over RGBA, or Pillow warns; its alpha is dropped like any other.
        image = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    return np.array(image)


def check_samples(values: NDArray[Any]) -> None:
    """Raises ImageError for the pixels of a file unless floats run from 0 to 1 or from 0 to 255, and 16 bits
    hold whole numbers.
    """
    low, high = values.min(), values.max()
    if not np.issubdtype(values.dtype, np.floating):
        if low < 0 or high > 65535:
            raise ImageError(
                f"holds whole numbers from {low} to {high}, but they are read from 0 to 65535: "
                "scale them to that, or save the picture with 8 or 16 bits a sample"
            )
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("holds values that are not finite numbers: save it with 8 or 16 bits a sample")
    if low < 0 or high > 255:
        raise ImageError(
            f"holds floats from {low} to {high}, but floats are read from 0 to 1 or from 0 to 255: "
            "scale them to one of the two, or save the picture with 8 or 16 bits a sample"
        )


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.round(array / np.float32(257)).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageError(
                f"a picture of floats runs from 0 to 1, this one from {array.min()} to {array.max()}"
            )
        return np.round(array * np.float32(255)).astype(np.uint8)
    raise ImageError(f"a picture is uint8, uint16, bool or float from 0 to 1, not {array.dtype}")
