"""Videos and webcams: frames one by one, and the same frames with the objects drawn on them."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from instancefcn.errors import ImageError, MissingPackageError
from instancefcn.files import atomic_write
from instancefcn.images.drawing import draw
from instancefcn.images.opening import check_image_size
from instancefcn.inference.predictor import FileResult
from instancefcn.inference.result_formats import ResultItem, Writer
from instancefcn.inference.sources import MOVIE_SUFFIX
from instancefcn.inference.writers import COCO_SUFFIX, CocoSummary
from instancefcn.instances import Instances

_CONTAINERS = "mov,matroska,avi,mpeg,mpegvideo,m4v,mpegts,asf"
"""FFmpeg's names of the formats that are read. Others, under any suffix, may name further files to open."""


def load_av() -> Any:
    """The package av, which decodes and encodes videos. Raises MissingPackageError where it is missing."""
    try:
        import av
    except ImportError as error:
        raise MissingPackageError("videos and webcams need the package av: pip install av") from error
    av.logging.set_level(None)  # problems come as exceptions
    return av


def video_name(source: Path | int) -> Path | str:
    """The file, or "webcam" for the first webcam (0) and "webcam:1" for the second (1)."""
    return source if isinstance(source, Path) else f"webcam:{source}" if source else "webcam"


@dataclass(frozen=True, eq=False)
class Clock:
    """When the frames of a video are shown.

    Attributes:
        rate: frames per second, on average.
        base: seconds per tick.
        ticks: when each frame so far is shown, by its index.
    """

    rate: Fraction
    base: Fraction
    ticks: dict[int, int]


class Video:
    """A video file or webcam that is open for reading.

    Attributes:
        name: see `video_name`.
        count: number of frames that the file states; 0 when unknown.
        clock: the frames' times.

    Raises:
        MissingPackageError: the package av is missing.
        ImageError: there is no such video, it cannot be read, or has no frames.
    """

    def __init__(self, source: Path | int) -> None:
        av = load_av()
        self.name = video_name(source)
        try:
            self._container = (
                av.open(str(source), options={"format_whitelist": _CONTAINERS})
                if isinstance(source, Path)
                else _open_webcam(av, source)
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ImageError(f"{self.name}: {_why(error, source)}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ImageError(f"{self.name}: has sound but no frames")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.count: int = self._stream.frames
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.clock = Clock(Fraction(rate), Fraction(self._stream.time_base or 1 / Fraction(rate)), {})

    def frames(self, most: int | None = None) -> Generator[FileResult, None, None]:
        """The frames in order, upright, as results without instances, decoded as they are asked for.

        A damaged video ends where the damage begins: the last result has the error. Closes the video.

        Args:
            most: maximum number of frames.
        """
        av = load_av()
        number = 0
        step = max(1, round(1 / (self.clock.rate * self.clock.base)))
        last = -step
        try:
            for frame in islice(self._container.decode(self._stream), most):
                # Times must rise; a stream without times gets those of its rate.
                last = frame.pts if frame.pts is not None and frame.pts > last else last + step
                self.clock.ticks[number] = last
                check_image_size(frame.height, frame.width)
                image = _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
                yield FileResult(
                    self.name, torch.from_numpy(image).permute(2, 0, 1), None, None, frame=number
                )
                number += 1
        except (av.FFmpegError, OSError) as error:
            problem = ImageError(f"{self.name}: cannot be read beyond frame {number} ({error.strerror})")
            yield FileResult(self.name, None, None, problem, frame=number)
        except ImageError as error:
            yield FileResult(self.name, None, None, ImageError(f"{self.name}: {error}"), frame=number)
        finally:
            self._container.close()


def _upright(image: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """Rotate a frame as its file asks (phones film on their side): degrees, counterclockwise."""
    return np.ascontiguousarray(np.rot90(image, round(rotation / 90) % 4))


def _open_webcam(av: Any, number: int) -> Any:
    if sys.platform == "darwin":
        return av.open(str(number), format="avfoundation", options={"framerate": "30"})
    if sys.platform == "win32":
        names = [device.name for device in av.enumerate_input_devices("dshow")]
        if number >= len(names):
            raise FileNotFoundError(f"there are {len(names)}")
        return av.open(f"video={names[number]}", format="dshow")
    return av.open(f"/dev/video{number}", format="v4l2")


def _why(error: Exception, source: Path | int) -> str:
    if isinstance(source, int):
        return (
            f"there is no such webcam, or it cannot be opened ({getattr(error, 'strerror', None) or error})"
        )
    return f"is not a readable video ({getattr(error, 'strerror', None) or error})"


class Movie(Writer):
    """`NAME.overlay.mp4`: the frames with the objects drawn on them, at the times of the original.
    Frames must come in order.

    A context manager: on exit, an unfinished file is removed.

    Args:
        out, name: the folder, and the name before the suffix.
        video: the original.
        labels, fill: as for `draw`.
    """

    def __init__(self, out: Path, name: str, video: Video, *, labels: bool = True, fill: bool = True) -> None:
        super().__init__(out, (), ())
        self.path, self.clock, self.labels, self.fill = (
            out / f"{name}{MOVIE_SUFFIX}",
            video.clock,
            labels,
            fill,
        )
        self._file = ExitStack()
        self._container: Any = None

    def __enter__(self) -> Movie:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._container is not None:
            self._container.close()
            unfinished = InterruptedError()
            with suppress(InterruptedError):
                self._file.__exit__(InterruptedError, unfinished, None)

    def write(self, item: ResultItem) -> list[Path]:
        av = load_av()
        assert item.frame is not None
        image = np.asarray(draw(item.image, item.instances, labels=self.labels, fill=self.fill))
        if self._container is None:
            self._open(av, *image.shape[:2])
        # The encoder halves the resolution of colours: an odd last row or column is shown twice.
        image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self.clock.ticks[item.frame], self.clock.base
        self._container.mux(self._stream.encode(frame))
        return []

    def _open(self, av: Any, height: int, width: int) -> None:
        path = self._file.enter_context(atomic_write(self.path))
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=self.clock.rate)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = self.clock.base
        self._stream.options = {"crf": "20", "preset": "veryfast"}

    def finish(self) -> list[Path]:
        if self._container is None:
            return []
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        self._file.close()
        return [self.path]


class FrameResults(Writer):
    """`NAME.coco.json`: the results of all frames as one COCO dataset. The image id is the frame's index plus
    one; every image also has its "frame", from 0.
    """

    def __init__(
        self, out: Path, name: str, class_names: tuple[str, ...], category_ids: tuple[int, ...]
    ) -> None:
        super().__init__(out, class_names, category_ids)
        self.name, self.summary = name, CocoSummary(class_names, category_ids)

    def collect(
        self, number: int, source: Path | str, instances: Instances, frame: int | None = None
    ) -> None:
        assert frame is not None
        self.summary.add(frame + 1, source, instances, frame)

    def finish(self) -> list[Path]:
        return [self.summary.write(self.out, f"{self.name}{COCO_SUFFIX}")]
