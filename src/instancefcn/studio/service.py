"""What the page and the API share: limits on what strangers send, and a queue before each model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from PIL import UnidentifiedImageError
from torch import Tensor

from instancefcn.errors import ImageError, InstanceFCNError
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.images.opening import describe_error, open_image
from instancefcn.inference.predictor import Predictor
from instancefcn.instances import Instances

MAX_BYTES = 20_000_000
"""Largest file that is taken."""

MAX_PIXELS = 25_000_000
"""Largest image that is decoded: masks have the image's size, and there may be a hundred of them."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's names of what is decoded. Others (EPS starts a program) are not for strangers' files."""

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

WAITING = 16
"""How many may wait for one model, with the one that it works for. Their files lie in memory."""

P = ParamSpec("P")
T = TypeVar("T")


class BusyError(InstanceFCNError):
    """Too many are waiting already."""


class TakenError(InstanceFCNError):
    """Another tab has the labels open."""


def decode_upload(data: bytes) -> Tensor:
    """The image in a file's bytes: uint8 [3, H, W], RGB, upright, as
    `instancefcn.images.decoding.read_image` gives it.

    Raises:
        ImageError: it is of none of FORMATS, damaged, or has more than MAX_PIXELS.
    """
    try:
        # Opening reads the header alone.
        with open_image(data, FORMATS, MAX_PIXELS) as image:
            return to_uint8_rgb(image)
    except UnidentifiedImageError as error:
        known = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
        raise ImageError(f"this is not a supported image file: {known} are read") from error
    except ImageError as error:
        raise ImageError(f"the image {error}") from error
    except Exception as error:  # decoders raise nearly anything on a broken file
        raise ImageError(f"the image {describe_error(error)}") from error


class Turns:
    """Work done one after the other, in the order in which it came, in a thread of its own.

    Args:
        waiting: how many may have a place at once, with the one whose turn it is.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._places = threading.BoundedSemaphore(waiting)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue. It is taken before a body is read, so that the places bound the memory.

        Raises:
            BusyError: all are taken.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("too many images are waiting: try again in a minute")
        try:
            yield
        finally:
            self._places.release()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises. Work whose caller gave up before its turn is left out."""
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))


class ModelQueue:
    """A model behind a queue of its own.

    Args:
        load: gives the predictor; called once, at the first image.
        waiting: see `Turns`.
    """

    def __init__(self, load: Callable[[], Predictor], waiting: int = WAITING) -> None:
        self._load = load
        self._predictor: Predictor | None = None
        self.turns = Turns(waiting)

    async def segment(
        self,
        data: bytes,
        score: float,
        max_objects: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> tuple[Tensor, Instances]:
        """Decode an image and find what is in it, when its turn comes.

        Args:
            data: a file's bytes.
            score: only instances with at least this score, 0 to 1.
            max_objects: at most so many of the best; None for the model's own limit.
            classes: names of the classes to look for; None for all.

        Returns:
            the image, uint8 [3, H, W], and the instances in its pixels.

        Raises:
            ImageError: see `decode`.
            ConfigError: the model does not know a class.
            CheckpointError: the model cannot be loaded.
        """
        return await self.turns.run(self._segment, data, score, max_objects, classes)

    def _segment(
        self, data: bytes, score: float, max_objects: int | None, classes: Sequence[str] | None
    ) -> tuple[Tensor, Instances]:
        image = decode_upload(data)
        if self._predictor is None:
            self._predictor = self._load()
        (found,) = self._predictor.run([image], score, max_objects, classes)
        return image, found
