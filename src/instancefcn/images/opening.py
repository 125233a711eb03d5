"""Opening untrusted image files.

A small file can ask for any amount of memory and time. Its header is checked against `instancefcn.limits`
before Pillow acts on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from instancefcn.errors import ImageError
from instancefcn.images.directories import ORDERS, check_directory, page_indices
from instancefcn.images.embedded import image_bytes, is_embedded
from instancefcn.images.pages import count_pages
from instancefcn.images.tiff import PiecewiseTiff, misread
from instancefcn.limits import (
    MAX_FILE_BYTES,
    MAX_LENGTH,
    MAX_NOTES,
    MAX_PIXELS,
    MAX_SCANS,
    MAX_SEGMENTS,
)

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"),
    *(("AVIF",) if features.check("avif") else ()),
    *(("JPEG2000",) if features.check("jpg_2000") else ()),
)
"""Supported formats, by Pillow's names. Pillow knows more, among them EPS, for which it starts a program.
HEIC is another one where the extra `heic` is installed.
"""
HEIC_COMMAND = "pip install 'instancefcn[heic]'"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_UNSUPPORTED = (
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (0, b"8BPS", "a Photoshop image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"<svg", "an SVG drawing"),
    (128, b"DICM", "a DICOM file"),
    (4, b"ftypcrx", "a camera's raw image"),
    (4, b"ftypqt", "a video"),
    (4, b"ftypmp4", "a video"),
    (4, b"ftypisom", "a video"),
)
"""Where in a file its format shows, how, and what to call it."""

CUT = "shrink it or cut it into tiles"
_IN_TIFF = "`predict` with --tile reads a TIFF file piece by piece; otherwise shrink or crop it"
_AS_TIFF = "shrink or crop it, or save it as a TIFF file, which `predict` with --tile reads piece by piece"

_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
"""A JPEG marker that is followed by a length."""
_APPLICATIONS = frozenset(bytes([marker]) for marker in range(0xE0, 0xF0))
_SCAN, _END, _APP1 = b"\xda", b"\xd9", b"\xe1"


@contextmanager
def open_image(
    source: Path | str | bytes,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int | None = None,
    page: int = 1,
) -> Iterator[Image.Image]:
    """Open an image whose header asks for no more than `instancefcn.limits` allows; decode no pixels yet.

    Args:
        source: the file (also a LabelMe file with the image inside), or its bytes.
        formats: the formats to try, by Pillow's names.
        max_pixels: a limit below MAX_PIXELS.
        page: of a file with several pages or frames, from 1.

    Raises:
        ImageError: it asks for too much, has no such page, or is of a known and unsupported kind.
        Exception: whatever the decoders raise; `describe_error` explains it.
    """
    if not isinstance(source, bytes) and is_embedded(Path(source)):
        source = image_bytes(Path(source))
    with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        length = file.seek(0, SEEK_END)
        file.seek(0)
        tiff = file.read(2) in ORDERS
        advice = CUT if max_pixels is not None else _IN_TIFF if tiff else _AS_TIFF
        if length > MAX_FILE_BYTES:
            raise ImageError(f"has more than {MAX_FILE_BYTES / 2**30:g} GB: {advice}")
        file.seek(0)
        if tiff:
            stream: IO[bytes] = file
        else:
            # From memory: reading from a file allocates what a PNG chunk claims to hold, up to 4 GB.
            stream = BytesIO(_checked(file.read()))
        if formats is FORMATS and _is_heic(stream):
            _register_heic()
            formats = (*formats, "HEIF")
        try:
            image = _opened_tiff(stream, formats, page) if tiff else _opened(stream, formats, page)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(_too_many_pixels(max_pixels, advice)) from error
        with image:
            check_image_size(image.height, image.width, max_pixels, advice)
            if isinstance(image, TiffImageFile):
                _check_tiles(image)
            yield image


def _checked(content: bytes) -> bytes:
    """A file's bytes, after checks of what Pillow would read before its pixels. Raises ImageError."""
    if content.startswith(b"\xff\xd8"):
        check_directory(BytesIO(_exif_of_jpeg(content)))
    elif content.startswith(b"GIF"):
        _check_notes(content)
    if not content:
        raise ImageError("is empty")
    return content


def _opened(stream: IO[bytes], formats: tuple[str, ...], page: int) -> Image.Image:
    try:
        image = Image.open(stream, formats=formats)
    except UnidentifiedImageError:
        if "HEIF" in formats:
            raise ImageError("is damaged or truncated") from None
        stream.seek(0)
        head = stream.read(256)
        for start, signature, name in _UNSUPPORTED:
            if head.startswith(signature, start):
                raise ImageError(f"is {name}, which is not supported: save it as PNG or JPEG") from None
        raise
    if page > 1:
        if page > (pages := count_pages(image)):
            raise ImageError(_no_page(page, pages))
        image.seek(page - 1)
    return image


def _opened_tiff(file: IO[bytes], formats: tuple[str, ...], page: int) -> Image.Image:
    """A page of a TIFF file, by our own reader where Pillow refuses or misreads its layout."""
    check_directory(file)
    index = 0
    if page > 1:
        indices = page_indices(file)
        if page > len(indices):
            raise ImageError(_no_page(page, len(indices)))
        index = indices[page - 1]
    file.seek(0)
    try:
        image = Image.open(file, formats=formats)
        image.seek(index)
        if not isinstance(image, TiffImageFile) or not misread(image.tag_v2):
            return image
    except (UnidentifiedImageError, SyntaxError):
        if "TIFF" not in formats:
            raise
    file.seek(0)
    return PiecewiseTiff(file, index)


def _no_page(page: int, pages: int) -> str:
    return f"has {pages} page{'' if pages == 1 else 's'}, there is no page {page}"


def _is_heic(stream: IO[bytes]) -> bool:
    head = stream.read(12)
    stream.seek(0)
    return head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS


def heic_is_installed() -> bool:
    """Whether the extra `heic` is installed."""
    return find_spec("pillow_heif") is not None


def _register_heic() -> None:
    if not heic_is_installed():
        raise ImageError(f"is a HEIC image: {HEIC_COMMAND} installs what reads it")
    import pillow_heif

    pillow_heif.register_heif_opener()


def check_image_size(height: int, width: int, max_pixels: int | None = None, advice: str = CUT) -> None:
    """Raises ImageError for an image that is too large to decode; `advice` ends its message."""
    if height * width > (MAX_PIXELS if max_pixels is None else max_pixels):
        raise ImageError(_too_many_pixels(max_pixels, advice))
    if max(height, width) > MAX_LENGTH:
        raise ImageError(f"has a side of more than {MAX_LENGTH:,} pixels: {advice}")


def _too_many_pixels(max_pixels: int | None, advice: str) -> str:
    return f"has more than {MAX_PIXELS if max_pixels is None else max_pixels:,} pixels: {advice}"


def describe_error(error: Exception) -> str:
    """Why an image could not be decoded. Decoders raise almost anything on a broken file."""
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"is not a supported image file ({', '.join(FORMATS)})"
    if isinstance(error, MemoryError):
        return "does not fit into memory: shrink or crop it"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"is damaged or truncated ({error})"


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


def _check_tiles(image: TiffImageFile) -> None:
    """Raises ImageError for a TIFF file with tiles far larger than its image: tiles are decoded whole."""
    tags = image.tag_v2
    tile = [value for value in (tags.get(322), tags.get(323)) if isinstance(value, int)]
    if len(tile) == 2 and tile[0] * tile[1] > max(4 * image.height * image.width, 2**22):
        raise ImageError(f"is damaged: it is cut into tiles of {tile[0]} x {tile[1]} pixels")
