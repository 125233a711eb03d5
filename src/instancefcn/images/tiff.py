"""TIFF files piece by piece: layouts that Pillow refuses or misreads, and images too large for memory.

A TIFF file stores an image in pieces (strips or tiles, perhaps one plane per channel). Pillow opens the usual
layouts. It refuses floats with colours and misreads planes of 16 bits, but its libtiff can decompress any
single piece: each is wrapped as a small gray TIFF file whose row is the piece's row of bytes. What the bytes
mean, NumPy says. So no second decoder with its own codecs is needed. Specification: TIFF 6.0, BigTIFF, and
Adobe's Photoshop TIFF technical note 3 for the predictor of floats.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from instancefcn.errors import ImageError
from instancefcn.images.samples import colours_to_uint8

MAX_PIECE_BYTES = 2**26
"""Size of a compressed piece in memory. Writers make them of kilobytes."""
MAX_SAMPLE_BYTES = 2**31
"""Samples of an image that is read whole: MAX_PIXELS as RGB floats."""
CACHE_BYTES = 2**28
"""Decompressed pieces that are kept: the strips that cross one row of tiles."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 317, 322, 323, 324, 325
_EXTRA, _FORMAT, _JPEG_TABLES, _SUBSAMPLING = 338, 339, 347, 530

_GRAY, _RGB, _CMYK, _YCBCR = 1, 2, 5, 6
_COLOURS = {_GRAY: 1, _RGB: 3, _CMYK: 4}
_UNCOMPRESSED = 1
_BYTES = (5, 8, 32773, 32946, 34925, 50000)
"""Compressions of bytes: LZW, deflate (two numbers), PackBits, LZMA, Zstandard."""
_PIXELS = (7, 50001)
"""Compressions of 8-bit pixels: JPEG and WebP."""
_KINDS = {1: "u", 2: "i", 3: "f"}


@dataclass(frozen=True)
class TiffLayout:
    """How one page of a TIFF file is stored.

    Attributes:
        height, width: of the stored image in pixels.
        samples: channels.
        colours: how many of them are colours (1 gray, 3 RGB, 4 CMYK).
        alpha: whether the channel after the colours is alpha.
        dtype: of a sample, with the file's byte order.
        photometric, compression, predictor: the tags of that name.
        planes: whether each channel is stored by itself.
        piece: (height, width) of a strip or tile; the last strip may be lower, tiles are whole.
        tiled: whether the pieces are tiles.
        offsets, counts: where in the file each piece begins, and its bytes.
        extras: tags that a JPEG piece needs.
    """

    height: int
    width: int
    samples: int
    colours: int
    alpha: bool
    dtype: np.dtype[Any]
    photometric: int
    compression: int
    predictor: int
    planes: bool
    piece: tuple[int, int]
    tiled: bool
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    extras: dict[int, Any]

    @property
    def mode(self) -> str:
        """Pillow's mode of the image that `as_image` makes."""
        if self.samples == 1:
            return {"u1": "L", "u2": "I;16"}.get(self.dtype.str[1:], "F" if self.dtype.kind == "f" else "I")
        return {1: "L", 3: "RGB", 4: "CMYK"}[self.colours] + ("A" if self.alpha else "")


def layout_of(tags: ImageFileDirectory_v2) -> TiffLayout:
    """The layout that a directory's tags describe.

    Raises:
        ImageError: it is not supported, or its meaning is not clear, or it is damaged.
    """
    height, width = _number(tags, _HEIGHT), _number(tags, _WIDTH)
    samples = _number(tags, _SAMPLES, 1)
    photometric = _number(tags, _PHOTOMETRIC, _GRAY)
    compression = _number(tags, _COMPRESSION, _UNCOMPRESSED)
    colours = _COLOURS.get(photometric, 0)
    if compression in _PIXELS and photometric == _YCBCR:
        colours = 3  # the decoder makes RGB of it
    extra = _numbers(tags, _EXTRA)
    alpha = samples > colours and extra[:1] in ((1,), (2,)) and colours != 4
    if not colours:
        raise ImageError(
            f"has colours of a kind that is not supported in this layout ({photometric}): save it as RGB"
        )
    if samples < colours or (colours == 1 and samples > 1 + alpha):
        raise ImageError(
            f"has {samples} channels and does not say which of them are red, green and blue: save those to "
            "be segmented as an RGB or gray image"
        )
    tiled = _TILE_OFFSETS in tags
    if tiled:
        piece = _number(tags, _TILE_HEIGHT), _number(tags, _TILE_WIDTH)
    else:
        piece = min(_number(tags, _ROWS, height), height), width
    layout = TiffLayout(
        height,
        width,
        samples,
        colours,
        alpha,
        _dtype(tags),
        photometric,
        compression,
        _number(tags, _PREDICTOR, 1),
        _number(tags, _PLANAR, 1) == 2 and samples > 1,
        piece,
        tiled,
        _numbers(tags, _TILE_OFFSETS if tiled else _STRIP_OFFSETS),
        _numbers(tags, _TILE_COUNTS if tiled else _STRIP_COUNTS),
        {tag: tags[tag] for tag in (_JPEG_TABLES, _SUBSAMPLING) if tag in tags},
    )
    _check(layout, _number(tags, _FILL_ORDER, 1))
    return layout


def _number(tags: ImageFileDirectory_v2, tag: int, default: int | None = None) -> int:
    values = _numbers(tags, tag)
    if not values and default is not None:
        return default
    if not values:
        raise ImageError(f"is damaged: tag {tag} is missing")
    return values[0]


def _numbers(tags: ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(one, int) and one >= 0 for one in values):
        raise ImageError(f"is damaged: tag {tag} holds {value!r}")
    return values


def _dtype(tags: ImageFileDirectory_v2) -> np.dtype[Any]:
    """The type of a sample; the byte order is the file's."""
    bits, kinds = set(_numbers(tags, _BITS) or (1,)), set(_numbers(tags, _FORMAT) or (1,))
    kind = _KINDS.get(next(iter(kinds))) if len(kinds) == 1 else None
    order = "<" if tags.prefix == b"II" else ">"
    known = {"u": {8, 16, 32}, "i": {8, 16, 32}, "f": {16, 32, 64}}
    if len(bits) != 1 or kind is None or not bits <= known[kind]:
        sizes = ", ".join(map(str, sorted(bits)))
        raise ImageError(
            f"has samples of {sizes} bits of an unsupported kind: save it with 8 or 16 bits per sample"
        )
    return np.dtype(f"{order}{kind}{bits.pop() // 8}")


def _check(layout: TiffLayout, fill_order: int) -> None:
    if not (layout.height and layout.width and all(layout.piece)):
        raise ImageError(f"an image of {layout.width} x {layout.height} pixels is empty")
    of_pixels = layout.compression in _PIXELS
    supported = layout.compression in (_UNCOMPRESSED, *_BYTES) or (
        of_pixels and layout.dtype.str[1:] == "u1" and not layout.planes and not layout.alpha
    )
    if not supported or layout.predictor not in (1, 2, 3) or fill_order != 1:
        raise ImageError(
            f"has a compression that is not supported in this layout ({layout.compression}): save it "
            "uncompressed, or with deflate or LZW"
        )
    down, across = _grid(layout)
    pieces = down * across * (layout.samples if layout.planes else 1)
    if not len(layout.offsets) == len(layout.counts) == pieces:
        raise ImageError(f"is damaged: it has {len(layout.offsets)} strips or tiles instead of {pieces}")
    if layout.compression != _UNCOMPRESSED and layout.piece[0] * _row_bytes(layout) > MAX_PIECE_BYTES:
        raise ImageError(
            f"is compressed in pieces of more than {MAX_PIECE_BYTES // 2**20} MB: save it in tiles, or "
            "uncompressed"
        )


def _grid(layout: TiffLayout) -> tuple[int, int]:
    """Pieces of a plane: (rows, columns)."""
    return -(-layout.height // layout.piece[0]), -(-layout.width // layout.piece[1])


def _row_bytes(layout: TiffLayout) -> int:
    """Bytes in a row of a piece."""
    return layout.piece[1] * (1 if layout.planes else layout.samples) * layout.dtype.itemsize


class TiffPieces:
    """Reads any part of one page.

    Args:
        file: the file; it remains open.
        layout: of the page.
        cache: bytes of decompressed pieces to keep for the next call.
    """

    def __init__(self, file: IO[bytes], layout: TiffLayout, cache: int = 0) -> None:
        self.file, self.layout, self.cache = file, layout, cache
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def read(self, x1: int, y1: int, x2: int, y2: int) -> NDArray[Any]:
        """The samples [y2 - y1, x2 - x1, samples] of a part that lies inside the image, native byte order.

        Raises:
            ImageError: the file is truncated.
            Exception: whatever the decoders raise.
        """
        layout = self.layout
        result = np.empty((y2 - y1, x2 - x1, layout.samples), layout.dtype.newbyteorder("="))
        height, width = layout.piece
        down, across = _grid(layout)
        for row in range(y1 // height, -(-y2 // height)):
            for column in range(x1 // width, -(-x2 // width)):
                top, left = row * height, column * width
                # Of the piece, and of the result.
                rows, columns = (max(y1, top), min(y2, top + height)), (max(x1, left), min(x2, left + width))
                target = result[rows[0] - y1 : rows[1] - y1, columns[0] - x1 : columns[1] - x1]
                part = (rows[0] - top, rows[1] - top, columns[0] - left, columns[1] - left)
                for plane in range(layout.samples if layout.planes else 1):
                    number = (plane * down + row) * across + column
                    values = self._part(number, row, *part)
                    if layout.planes:
                        target[:, :, plane] = values[:, :, 0]
                    else:
                        target[:] = values
        return result

    def _part(self, number: int, row: int, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """Rows and columns of one piece: [rows, columns, channels of a plane]."""
        layout = self.layout
        if layout.counts[number] == 0:  # GDAL leaves out what is empty
            return np.zeros((bottom - top, right - left, 1), layout.dtype)
        if layout.compression == _UNCOMPRESSED and layout.predictor == 1:
            return self._stored(number, top, bottom, left, right)
        if number in self._kept:
            self._kept.move_to_end(number)
        else:
            rows = layout.piece[0]
            if not layout.tiled:
                rows = min(rows, layout.height - row * rows)
            self._kept[number] = self._decompressed(number, rows)
        piece = self._kept[number]
        while sum(one.nbytes for one in self._kept.values()) > self.cache and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return piece[top:bottom, left:right]

    def _stored(self, number: int, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """A part of a piece that is not compressed, without reading the rest of it."""
        layout = self.layout
        channels = 1 if layout.planes else layout.samples
        pixel = channels * layout.dtype.itemsize
        rows = []
        for row in range(top, bottom):
            self.file.seek(layout.offsets[number] + row * _row_bytes(layout) + left * pixel)
            rows.append(self.file.read((right - left) * pixel))
        return _values(b"".join(rows), layout, bottom - top, right - left)

    def _decompressed(self, number: int, rows: int) -> NDArray[Any]:
        """A whole piece: [rows, width, channels of a plane]."""
        layout = self.layout
        self.file.seek(layout.offsets[number])
        data = self.file.read(layout.counts[number])
        if layout.compression in _PIXELS:
            pixels = _decode(data, layout, rows, layout.piece[1], layout.samples)
            return pixels.reshape(rows, layout.piece[1], -1)[:, :, : layout.samples]
        if layout.compression != _UNCOMPRESSED:
            data = _decode(data, layout, rows, _row_bytes(layout), 1).tobytes()
        return _without_predictor(data, layout, rows)


def _values(data: bytes, layout: TiffLayout, rows: int, width: int) -> NDArray[Any]:
    channels = 1 if layout.planes else layout.samples
    if len(data) < rows * width * channels * layout.dtype.itemsize:
        raise ImageError("is truncated: the file ends before its pixels")
    values = np.frombuffer(data, layout.dtype, rows * width * channels).reshape(rows, width, channels)
    return values.astype(layout.dtype.newbyteorder("="), copy=False)


def _without_predictor(data: bytes, layout: TiffLayout, rows: int) -> NDArray[Any]:
    """The samples of a piece whose rows may be stored as differences."""
    width = layout.piece[1]
    values = _values(data, layout, rows, width)
    if layout.predictor == 1:
        return values
    size, channels = layout.dtype.itemsize, values.shape[2]
    if layout.predictor == 2:
        whole = values.view(f"u{size}")
        return np.cumsum(whole, axis=1, dtype=whole.dtype).view(values.dtype)
    # The bytes of all samples of a row, the highest byte of each first, as differences to the pixel before.
    stored = np.frombuffer(data, np.uint8, rows * _row_bytes(layout)).reshape(rows, -1, channels)
    planes = np.cumsum(stored, axis=1, dtype=np.uint8).reshape(rows, size, width * channels)
    whole = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{size}")
    return whole.reshape(rows, width, channels).astype(values.dtype)


def _decode(data: bytes, layout: TiffLayout, rows: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Decompress a piece with Pillow: as a TIFF file of its own with 8-bit samples."""
    tags = ImageFileDirectory_v2()
    for tag, value in layout.extras.items():
        if layout.compression in _PIXELS:
            tags[tag] = value
    tags[_WIDTH], tags[_HEIGHT], tags[_ROWS] = width, rows, rows
    tags[_BITS], tags[_SAMPLES], tags[_COMPRESSION] = (8,) * channels, channels, layout.compression
    tags[_PHOTOMETRIC] = layout.photometric if channels > 1 else _GRAY
    tags[_STRIP_OFFSETS], tags[_STRIP_COUNTS] = 0, len(data)  # the offset counts from the end of the tags
    file = BytesIO()
    tags.save(file)
    file.write(data)
    with Image.open(file, formats=("TIFF",)) as image:
        return np.asarray(image)


def as_image(values: NDArray[Any], layout: TiffLayout) -> Image.Image:
    """A Pillow image of samples [h, w, samples]: gray keeps its bits, colours get 8. Channels after the
    colours and alpha are left out.

    Raises:
        ImageError: values out of range.
    """
    size = (values.shape[1], values.shape[0])
    if layout.samples == 1:
        gray = values[:, :, 0]
        if layout.mode == "F":
            gray = gray.astype(np.float32)
        elif layout.mode == "I":
            gray = gray.clip(None, 2**31 - 1).astype(np.int32)
        return Image.frombuffer(layout.mode, size, gray.tobytes(), "raw", layout.mode, 0, 1)
    colours = colours_to_uint8(values[:, :, : layout.colours])
    if layout.alpha:
        alpha = values[:, :, layout.colours : layout.colours + 1]
        colours = np.concatenate((colours, colours_to_uint8(alpha)), axis=2)
    return Image.frombytes(layout.mode, size, np.ascontiguousarray(colours).tobytes())


def directory(file: IO[bytes], index: int = 0) -> ImageFileDirectory_v2:
    """The tags of the page at `index`, of a file whose directories have been checked."""
    file.seek(0)
    head = file.read(8)
    tags = ImageFileDirectory_v2(head + (file.read(8) if head[2:3] == b"+" or head[3:4] == b"+" else b""))
    for _ in range(index + 1):
        file.seek(tags.next)
        tags.load(file)
    return tags


class PiecewiseTiff(ImageFile.ImageFile):
    """A page of a TIFF file as a Pillow image whose pixels are read when they are asked for.

    Args:
        file: the file.
        index: of the page.
    """

    format = "TIFF"
    format_description = "TIFF, piece by piece"

    def __init__(self, file: IO[bytes], index: int = 0) -> None:
        self._index, self._read = index, False
        super().__init__(file)

    def _open(self) -> None:
        assert self.fp is not None
        tags = directory(self.fp, self._index)
        self._layout = layout_of(tags)
        self._mode, self._size = self._layout.mode, (self._layout.width, self._layout.height)
        exif = Image.Exif()
        exif[_ORIENTATION] = _number(tags, _ORIENTATION, 1)
        self.info["exif"] = exif.tobytes()

    def load(self) -> Any:
        """Read the pixels, once."""
        if not self._read:
            layout = self._layout
            if layout.height * layout.width * layout.samples * layout.dtype.itemsize > MAX_SAMPLE_BYTES:
                raise ImageError("does not fit into memory: save it with 8 bits per sample, or shrink it")
            assert self.fp is not None
            self.im = as_image(TiffPieces(self.fp, layout).read(0, 0, *self._size), layout).im
            self._read = True
        return super().load()


def misread(tags: ImageFileDirectory_v2) -> bool:
    """Whether Pillow opens this layout and gives wrong pixels: planes, except three or four of 8 bits that
    are colours; gray with other channels than alpha, as which some releases take them; and compressed samples
    of 32 bits, or of 16 with a sign, in big-endian files.
    """
    samples, bits = _number(tags, _SAMPLES, 1), _numbers(tags, _BITS)
    gray = _number(tags, _PHOTOMETRIC, _GRAY) <= _GRAY
    if gray and samples > 1 and not (samples == 2 and _numbers(tags, _EXTRA) in ((1,), (2,))):
        return True
    if _number(tags, _PLANAR, 1) == 2 and samples > 1:
        return gray or set(bits) != {8} or samples not in (3, 4)
    compressed = _number(tags, _COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED
    wide = max(bits, default=1) > (8 if _numbers(tags, _FORMAT)[:1] == (2,) else 16)
    return compressed and tags.prefix == b"MM" and wide
