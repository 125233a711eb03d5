"""Opening untrusted image files.

A small file can ask for any amount of memory and time. Its header is checked against `instancefcn.limits`
before Pillow acts on it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from instancefcn.errors import ImageError
from instancefcn.images.embedded import image_bytes, is_embedded
from instancefcn.limits import (
    MAX_FILE_BYTES,
    MAX_LENGTH,
    MAX_NOTES,
    MAX_PIXELS,
    MAX_SCANS,
    MAX_SEGMENTS,
)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Supported formats, by Pillow's names. Pillow knows more, among them EPS, for which it starts a program."""

_UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8)
"""Bytes per value of a TIFF tag, by type."""
_ORDERS: dict[bytes, Literal["<", ">"]] = {b"II": "<", b"MM": ">"}
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
"""A JPEG marker that is followed by a length."""
_APPLICATIONS = frozenset(bytes([marker]) for marker in range(0xE0, 0xF0))
_SCAN, _END, _APP1 = b"\xda", b"\xd9", b"\xe1"


@contextmanager
def open_image(
    source: Path | str | bytes, formats: tuple[str, ...] = FORMATS, max_pixels: int | None = None
) -> Iterator[Image.Image]:
    """Open an image whose header asks for no more than `instancefcn.limits` allows; decode no pixels yet.

    Args:
        source: the file (also a LabelMe file with the image inside), or its bytes.
        formats: the formats to try, by Pillow's names.
        max_pixels: a limit below MAX_PIXELS.

    Raises:
        ImageError: it asks for too much.
        Exception: whatever the decoders raise; `describe_error` explains it.
    """
    if not isinstance(source, bytes) and is_embedded(Path(source)):
        source = image_bytes(Path(source))
    with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        length = file.seek(0, SEEK_END)
        if length > MAX_FILE_BYTES:
            raise ImageError(f"has more than {MAX_FILE_BYTES / 2**30:g} GB: shrink it or cut it into tiles")
        file.seek(0)
        if file.read(2) in _ORDERS:
            check_directory(file)
            file.seek(0)
            stream: IO[bytes] = file
        else:
            # From memory: reading from a file allocates what a PNG chunk claims to hold, up to 4 GB.
            file.seek(0)
            content = file.read()
            if content.startswith(b"\xff\xd8"):
                check_directory(BytesIO(_exif_of_jpeg(content)))
            elif content.startswith(b"GIF"):
                _check_notes(content)
            stream = BytesIO(content)
        try:
            image = Image.open(stream, formats=formats)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(too_large(max_pixels)) from error
        with image:
            check_image_size(image.height, image.width, max_pixels)
            if image.format == "TIFF":
                _check_tiles(image)
            yield image


def check_image_size(height: int, width: int, max_pixels: int | None = None) -> None:
    """Raises ImageError for an image that is too large to decode."""
    if height * width > (MAX_PIXELS if max_pixels is None else max_pixels):
        raise ImageError(too_large(max_pixels))
    if max(height, width) > MAX_LENGTH:
        raise ImageError(f"has a side of more than {MAX_LENGTH:,} pixels: cut it into tiles")


def too_large(max_pixels: int | None = None) -> str:
    """The message about an image with more than `max_pixels` pixels; MAX_PIXELS when None."""
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    return f"has more than {limit:,} pixels: shrink it or cut it into tiles"


def describe_error(error: Exception) -> str:
    """Why an image could not be decoded. Decoders raise almost anything on a broken file."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"is not a supported image file ({', '.join(FORMATS)})"
    if isinstance(error, MemoryError):
        return "does not fit into memory: shrink it or cut it into tiles"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"is damaged or truncated ({error})"


def check_directory(file: IO[bytes]) -> None:
    """Raises ImageError when the tags of a TIFF directory (also of EXIF data) claim more bytes than the file
    holds: every tag is read, and thousands may point at the same bytes. Data without a directory pass;
    reading them fails.
    """
    length = file.seek(0, SEEK_END)
    file.seek(0)
    head = file.read(16)
    order: Literal["<", ">", None] = _ORDERS.get(head[:2])
    if order is None or len(head) < 16:
        return
    big = head[2] == 43  # BigTIFF has 64-bit offsets and counts
    start = (
        struct.unpack_from(f"{order}Q", head, 8)[0] if big else struct.unpack_from(f"{order}L", head, 4)[0]
    )
    if start > length:
        return
    file.seek(start)
    width = 8 if big else 2
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(width).ljust(width, b"\0"))
    entry = np.dtype(
        [("tag", "u2"), ("type", "u2"), ("count", f"u{8 if big else 4}"), ("value", f"V{8 if big else 4}")]
    )
    rows = file.read(min(count * entry.itemsize, length))
    entries = np.frombuffer(rows[: len(rows) // entry.itemsize * entry.itemsize], entry.newbyteorder(order))
    units = np.array(_UNITS, np.float64)[np.where(entries["type"] < len(_UNITS), entries["type"], 0)]
    if float((units * entries["count"]).sum()) > length:
        raise ImageError("is damaged: the tags in its header claim more bytes than the file holds")


def _exif_of_jpeg(content: bytes) -> bytes:
    """The EXIF data of a JPEG file, joined from its segments as Pillow joins them.

    Raises:
        ImageError: it has too many scans or segments.
    """
    exif, scans, segments, offset = bytearray(), 0, 0, 2
    while (found := _MARKER.search(content, offset)) and found[1] != _END:
        length = int.from_bytes(content[found.end() : found.end() + 2], "big")
        offset = found.end() + max(length, 2)
        scans += found[1] == _SCAN
        segments += found[1] in _APPLICATIONS
        if scans > MAX_SCANS or segments > MAX_SEGMENTS:
            raise ImageError(
                f"has more than {MAX_SCANS} scans or {MAX_SEGMENTS} metadata segments: save it again"
            )
        segment = content[found.end() + 2 : offset] if found[1] == _APP1 else b""
        if segment.startswith(b"Exif\0\0"):
            exif += segment[6:]
    return bytes(exif)


def _check_notes(content: bytes) -> None:
    """Raises ImageError for a GIF file with too many comments and extensions before its pixels."""
    offset = 13 + (3 << (content[10] % 8 + 1) if len(content) > 10 and content[10] & 128 else 0)
    first = offset
    while content[offset : offset + 1] == b"!":
        offset += 2
        while length := content[offset : offset + 1].rstrip(b"\0"):
            offset += 1 + length[0]
            if offset - first > MAX_NOTES:
                raise ImageError(f"has more than {MAX_NOTES:,} bytes of comments: save it again")
        offset += 1
        if offset - first > MAX_NOTES:
            raise ImageError(f"has more than {MAX_NOTES:,} bytes of comments: save it again")


def _check_tiles(image: Image.Image) -> None:
    """Raises ImageError for a TIFF file with tiles far larger than its image: tiles are decoded whole."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    tile = [value for value in (tags.get(322), tags.get(323)) if isinstance(value, int)]
    if len(tile) == 2 and tile[0] * tile[1] > max(4 * image.height * image.width, 2**22):
        raise ImageError(f"is damaged: it is cut into tiles of {tile[0]} x {tile[1]} pixels")
