"""The range of an image's samples, and the one rule that makes 8 bits of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from instancefcn.errors import ImageError


def check_samples(values: NDArray[Any]) -> None:
    """Check the range of a file's samples.

    Raises:
        ImageError: floats outside 0 to 1 and 0 to 255, or integers outside 0 to 65535.
    """
    low, high = values.min(), values.max()
    if not np.issubdtype(values.dtype, np.floating):
        if low < 0 or high > 65535:
            raise ImageError(
                f"holds integers from {low} to {high}, but the range is 0 to 65535: "
                "scale them, or save the image with 8 or 16 bits per sample"
            )
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("holds values that are not finite: save it with 8 or 16 bits per sample")
    if low < 0 or high > 255:
        raise ImageError(
            f"holds floats from {low} to {high}, but the range is 0 to 1 or 0 to 255: "
            "scale them, or save the image with 8 or 16 bits per sample"
        )


def to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Samples as 8 bits: 16 bits are divided by 257, floats from 0 to 1 multiplied by 255, booleans become
    0 and 255.

    Raises:
        ImageError: another type, or floats out of range.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.round(array / np.float32(257)).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ImageError(f"floats in an image must be from 0 to 1, got {array.min()} to {array.max()}")
        return np.round(array * np.float32(255)).astype(np.uint8)
    raise ImageError(f"an image must be uint8, uint16, bool or float from 0 to 1, not {array.dtype}")


def colours_to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Several channels of a file as 8 bits. Of 16 bits the high byte is kept, as Pillow does with colours, so
    that an image gives the same pixels however its file is laid out. Floats are from 0 to 1, or from 0 to 255
    if one is above 1.

    Raises:
        ImageError: see `check_samples`.
    """
    if values.dtype == np.uint8:
        return values
    check_samples(values)
    if np.issubdtype(values.dtype, np.floating):
        return to_uint8(values / 255 if values.max() > 1 else values)
    return (values >> 8).astype(np.uint8)
