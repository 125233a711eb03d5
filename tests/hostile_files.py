"""Images that ask for far more than they hold, made by hand: a few bytes to a megabyte each."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, colour: int = 0) -> bytes:
    """A black image of 8 bits; `colour` 0 is gray, 2 RGB, 6 RGBA. `extra` are parts before the pixels."""
    row = b"\0" * (1 + width * {0: 1, 2: 3, 6: 4}[colour])
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(row * height)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def claims(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it is as large as this."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """A TIFF file with these tags (number, type, count, value or place), and what follows them."""
    rows = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + rows + b"\0\0\0\0" + tail


def many_tags(tags: int = 20_000, size: int = 1_000_000) -> bytes:
    """Tags that all point at the same megabyte: read one by one they are 20 GB."""
    place = 8 + 2 + 12 * tags + 4
    return tiff([(1000 + number, 1, size, place) for number in range(tags)], b"x" * size)


def large_tile() -> bytes:
    """16 x 16 pixels in one tile of 45,680 x 45,680, which is decoded as a whole."""
    packed = zlib.compress(bytes(10_000))
    place = 8 + 2 + 12 * 10 + 4
    values = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 45_680, 323: 45_680, 324: place}
    entries = [(tag, 4, 1, value) for tag, value in values.items()]
    return tiff([*entries, (325, 4, 1, len(packed))], packed)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def many_scans(scans: int = 2000) -> bytes:
    """A progressive JPEG file whose last scan, a few bytes, comes again and again: each time the decoder
    walks over the whole image.
    """
    data = encoded(Image.new("RGB", (512, 512), (90, 90, 90)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * scans + data[-2:]


def jpeg_with_many_tags() -> bytes:
    """EXIF data in several segments, which are joined: more than one segment could hold."""
    data, exif = encoded(Image.new("RGB", (8, 8)), "JPEG"), many_tags(20_000, 1_000_000)
    pieces = (b"Exif\0\0" + exif[i : i + 60_000] for i in range(0, len(exif), 60_000))
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(piece) + 2) + piece for piece in pieces)
    # Without the JFIF segment, which gives a resolution, Pillow looks for one in the EXIF data.
    return data[:2] + segments + data[20:]


def png_with_profile() -> bytes:
    """EXIF data as text, as ImageMagick writes them."""
    exif = many_tags(8_000, 100_000)
    text = f"\nexif\n{len(exif)}\n{exif.hex()}\n".encode()
    return png(8, 8, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)))


def many_comments(comments: int = 400_000) -> bytes:
    """A GIF file of 2 MB with a comment of one letter again and again."""
    data = encoded(Image.new("RGB", (8, 8)), "GIF")
    place = 13 + 3 * 2 ** (data[10] % 8 + 1)
    return data[:place] + b"!\xfe\x01x\0" * comments + data[place:]


def many_notes(notes: int = 200_000) -> bytes:
    """A JPEG file of 2 MB with EXIF data of one byte in each segment."""
    data = encoded(Image.new("RGB", (8, 8)), "JPEG")
    return data[:2] + b"\xff\xe1\0\x09Exif\0\0x" * notes + data[20:]


def far_jumps(width: int = 170_000_000) -> bytes:
    """A run-length encoded BMP file of one row, with a jump over 255 rows."""
    colours, jumps = bytes(1024), bytes([0, 2, 0, 255] * 2)
    place = 54 + len(colours)
    head = b"BM" + struct.pack("<LLL", place + len(jumps), 0, place)
    sizes = struct.pack("<LllHHLLLLLL", 40, width, 1, 1, 8, 1, len(jumps), 0, 0, 256, 0)
    return head + sizes + colours + jumps


BOMBS: dict[str, tuple[bytes, str]] = {
    "claims 60,000 x 60,000": (claims(60_000, 60_000), "[0-9,]{9,} pixels"),
    "claims 4,000,000,000 x 1": (claims(2**31 - 1, 1), "[0-9,]{9,} pixels"),
    "one row of 2,000,000": (png(2_000_000, 1), "1,000,000 pixels"),
    "tags": (many_tags(), "tags"),
    "tags in EXIF": (jpeg_with_many_tags(), "tags"),
    "tile": (large_tile(), "tiles of 45680 x 45680"),
    "scans": (many_scans(), "500 scans"),
    "comments": (many_comments(), "262,144 bytes"),
    "notes": (many_notes(), "1000 metadata"),
    "jumps": (far_jumps(), "[0-9,]{9,} pixels"),
    "EPS": (encoded(Image.new("RGB", (9, 9)), "EPS"), "JPEG, PNG"),
    "text": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "JPEG, PNG"),
}
"""Files, and what their errors name."""

SOUND: dict[str, tuple[bytes, tuple[int, int]]] = {
    "1 x 1": (png(1, 1), (1, 1)),
    "1 x 60,000": (png(1, 60_000), (60_000, 1)),
    "60,000 x 1": (png(60_000, 1, colour=2), (1, 60_000)),
    "tags in EXIF of a PNG": (png(8, 9, chunk(b"eXIf", many_tags())), (9, 8)),
    "tags in EXIF as text": (png_with_profile(), (8, 8)),
    "animated": (
        encoded(
            Image.new("RGB", (7, 5), "red"),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (7, 5))] * 3,
        ),
        (5, 7),
    ),
    "16 bits": (encoded(Image.new("I;16", (7, 5), 40_000), "PNG"), (5, 7)),
    "CMYK": (encoded(Image.new("CMYK", (7, 5), (9, 8, 7, 6)), "JPEG"), (5, 7)),
    "alpha": (png(7, 5, colour=6), (5, 7)),
}
"""Files that look strange and are images, with (height, width)."""
