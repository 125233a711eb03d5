"""A model ready for use: images of any kind in, `Instances` in their own pixels out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from instancefcn.bfloat16 import chosen_precision
from instancefcn.errors import ConfigError, ImageError
from instancefcn.geometry.resizing import group_by_shape
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.images.download import decode_file_or_url, is_url, read_file_or_url
from instancefcn.images.large import LargeImage, open_large
from instancefcn.images.opening import open_image
from instancefcn.images.pages import split_page
from instancefcn.inference.scale import SEEN, TrainedScale
from instancefcn.inference.threaded_map import threaded_map
from instancefcn.inference.tiling import PER_TILE, segment_tiled
from instancefcn.instances import Instances
from instancefcn.profiling import stage

if TYPE_CHECKING:
    from instancefcn.models.checkpoint import Loaded

DEFAULT_MODEL = "fcis-animals7"
DEFAULT_SCORE = 0.5
"""What people want to see. Evaluation uses 0: everything."""

DARK = 64
"""An image whose brightest sample is below this, of 255, is nearly black."""

Tile: TypeAlias = "int | Literal['auto'] | None"
ImageInput: TypeAlias = "str | Path | Image.Image | NDArray[Any] | Tensor"


@dataclass(frozen=True, eq=False)
class FileResult:
    """The result of one image file, URL, or frame of a video.

    Attributes:
        path: the file; a URL, "webcam" or a page such as "stack.tif#page2" as a string.
        image: uint8 [3, H, W], RGB, upright; None when it could not be read, or when a resumed call had
            segmented it before.
        instances: what was found; None when there is an error.
        error: why it could not be read, or that it has too many tiles; else None.
        pages: how many pages or frames the file has; one of them was read.
        large: the image on the disk, if it was segmented by tiles without being decoded at once.
        seconds: time per image of its batch, without reading the file.
        frame: index of the frame in its video; None for an image.
        files: what was written for this image alone.
        precision: of the convolutions, "32" or "bf16".
    """

    path: Path | str
    image: Tensor | None
    instances: Instances | None
    error: ImageError | None
    seconds: float = 0.0
    frame: int | None = None
    files: tuple[Path, ...] = ()
    precision: str = "32"
    pages: int = 1
    large: LargeImage | None = None

    @property
    def pixels(self) -> Tensor | LargeImage | None:
        """What there is of the image."""
        return self.large if self.image is None else self.image

    @property
    def brightest(self) -> int | None:
        """The largest sample of the image, 0 to 255; None without an image."""
        # In the order of memory: twenty times as fast.
        return None if self.image is None else int(self.image.permute(1, 2, 0).max())


class Predictor:
    """A network with the preprocessing, classes and device it runs with.

    Args:
        loaded: what `instancefcn.published.checkpoint.load_any_checkpoint` returns.
        device: a torch device, or None: the first GPU when there is one, else the CPU.
        precision: of the convolutions, see `load`. All that follows them is float32.

    Attributes:
        precision: "32" or "bf16", which runs.

    Attributes:
        class_names, category_ids: of the model's classes, by label.
        max_objects: maximum number of objects in an image, or in a tile of one, unless a call gives another.

    Raises:
        ConfigError: `device` or `precision` is not valid, or cannot be used here.
    """

    def __init__(
        self, loaded: Loaded, device: torch.device | str | None = None, precision: str = "32"
    ) -> None:
        self.device = _device(device)
        self.precision = precision_of(loaded, precision, self.device)
        try:
            self.network = loaded.network.eval().to(self.device)
        except (RuntimeError, AssertionError) as error:  # a build of PyTorch without CUDA asserts
            said = str(error).strip().split("\n")[0]
            raise ConfigError(f"device {self.device} cannot be used: {said}. Use 'cpu'") from error
        self.class_names: tuple[str, ...] = tuple(loaded.class_names)
        self.category_ids: tuple[int, ...] = tuple(loaded.category_ids)
        self.max_objects: int = getattr(self.network, "max_instances", 100)
        self.preprocessing = loaded.preprocessing
        self.metadata: dict[str, Any] = dict(loaded.metadata)
        self._trained_scale = TrainedScale.of(self.metadata)

    def __repr__(self) -> str:
        sides = f"{self.preprocessing.short_side}/{self.preprocessing.long_side} px"
        kind = "bfloat16" if self.precision == "bf16" else "float32"
        return f"Predictor({len(self.class_names)} classes, {sides}, on {self.device}, {kind})"

    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        score: float = ...,
        batch_size: int = ...,
        tile: Tile = ...,
        max_objects: int | None = ...,
        classes: Sequence[str] | None = ...,
    ) -> list[Instances]: ...

    @overload
    def __call__(
        self,
        images: ImageInput,
        *,
        score: float = ...,
        batch_size: int = ...,
        tile: Tile = ...,
        max_objects: int | None = ...,
        classes: Sequence[str] | None = ...,
    ) -> Instances: ...

    def __call__(
        self,
        images: ImageInput | list[Any] | tuple[Any, ...],
        *,
        score: float = DEFAULT_SCORE,
        batch_size: int = 4,
        tile: Tile = "auto",
        max_objects: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> Instances | list[Instances]:
        """Segment one image or a list of them.

        Args:
            images: a path, an http(s) URL, a Pillow image (its EXIF rotation is applied, as for files), an
                array uint8 [H, W, 3] in RGB order (also gray or with alpha; floats from 0 to 1), a tensor
                likewise or [3, H, W]; or a list or tuple of these, sizes and kinds mixed.
            score: only instances with at least this score (0 to 1) are returned.
            batch_size: how many images of a list (or tiles of an image) run at once, where they have the same
                size.
            tile: read images by overlapping tiles of this side in pixels (see `inference.tiling`). None reads
                them whole. "auto" reads large images in tiles where their objects would be much smaller than
                those of training (see `inference.scale`).
            max_objects: maximum number of objects in an image, the best; None for the model's own limit,
                which in tiles holds for each tile. Results that reach it say so in `limit_reached`.
            classes: names of the classes to look for; None for all.

        Returns:
            one `Instances`, or a list of them in the order of the list; boxes and masks in the pixels of the
            upright original. `source` is the path, when there was one.

        Raises:
            ImageError: an image is unreadable. A list fails as a whole; `files` reports it and continues.
            ConfigError: a setting is out of range.
        """
        _at_least_one(batch_size=batch_size, max_objects=max_objects)
        settings = score, batch_size, tile, max_objects, classes
        if not isinstance(images, (list, tuple)):
            return self._segment([images], *settings)[0]
        step = _together(batch_size, tile)
        starts = range(0, len(images), step)
        chunks = (self._segment(images[i : i + step], *settings) for i in starts)
        return [instances for chunk in chunks for instances in chunk]

    def files(
        self,
        paths: Iterable[Path | str],
        *,
        score: float = DEFAULT_SCORE,
        batch_size: int = 1,
        ahead: int = 0,
        tile: Tile = "auto",
        max_objects: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> Generator[FileResult, None, None]:
        """Segment files one after another; an unreadable one gives a result with an error.

        Args:
            paths: image files and http(s) URLs.
            score: only instances with at least this score are returned.
            batch_size: how many images of the same size run at once. On a CPU 1 is as fast as any.
            ahead: how many images are read ahead, in threads, while the network runs; 0 reads each when it is
                needed.
            tile: side of tiles in pixels, "auto" or None, as for a call.
            max_objects, classes: as for the model itself, `__call__`.

        Raises:
            ConfigError: with the first result, when a setting is out of range or `paths` is a single path;
                and at an item that is not a path.
        """
        if isinstance(paths, (str, Path)):
            raise ConfigError(f"files() takes a list of paths: use files([{str(paths)!r}])")
        known = threaded_map(_weighed, paths, ahead) if ahead else ((path, 0) for path in paths)
        with (
            closing(known) as weighed,
            closing(
                threaded_map(partial(_try_read, tile is not None), weighed, ahead, pixels=itemgetter(1))
            ) as read,
        ):
            yield from self.decoded(
                read,
                score=score,
                batch_size=batch_size,
                tile=tile,
                max_objects=max_objects,
                classes=classes,
            )

    def decoded(
        self,
        read: Iterable[FileResult],
        *,
        score: float = DEFAULT_SCORE,
        batch_size: int = 1,
        tile: Tile = "auto",
        max_objects: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> Generator[FileResult, None, None]:
        """Segment images that have been read (or could not be): fill in the results' instances.

        Args:
            read: results without instances, in any number, drawn batch by batch.
            score, batch_size, tile, max_objects, classes: as for `files`.
        """
        import time

        _at_least_one(batch_size=batch_size, max_objects=max_objects)
        read = iter(read)
        while chunk := list(islice(read, _together(batch_size, tile))):
            images = [pixels for one in chunk if (pixels := one.pixels) is not None]
            start = time.perf_counter()
            try:
                results = iter(self._run(images, score, batch_size, tile, max_objects, classes))
            except ImageError as error:  # too large for its tiles, or a damaged part
                yield from (replace(one, error=ImageError(f"{one.path}: {error}")) for one in chunk)
                continue
            seconds = (time.perf_counter() - start) / max(len(images), 1)
            for one in chunk:
                if one.pixels is None:
                    yield one
                else:
                    found = replace(next(results), source=str(one.path))
                    yield replace(one, instances=found, seconds=seconds, precision=self.precision)

    def run(
        self,
        images: Sequence[Tensor],
        score: float = 0.0,
        max_objects: int | None = None,
        classes: Sequence[str] | None = None,
    ) -> list[Instances]:
        """Segment one batch of decoded images.

        Args:
            images: uint8 [3, H, W] each, RGB, sizes mixed.
            score: only instances with at least this score are returned.
            max_objects, classes: as for the model itself, `__call__`.

        Returns:
            one `Instances` per image, on the CPU.

        Raises:
            ConfigError: `score` or `max_objects` is out of range, or a class is unknown.
        """
        if not 0 <= score <= 1:
            raise ConfigError(f"the score threshold must lie between 0 and 1, got {score}")
        _at_least_one(max_objects=max_objects)
        options: dict[str, Any] = {} if max_objects is None else {"max_instances": max_objects}
        if classes is not None and len(labels := self.labels_of(classes)) < len(self.class_names):
            options["classes"] = labels
        if not images:
            return []
        with stage("resize"):
            inputs = [self.preprocessing(image) for image in images]
        found: dict[int, Instances] = {}
        for indices in group_by_shape(inputs):
            sizes = [(images[i].shape[1], images[i].shape[2]) for i in indices]
            batch = [inputs[i].to(self.device) for i in indices]
            mixed = (
                torch.autocast(self.device.type, torch.bfloat16)
                if self.precision == "bf16"
                else nullcontext()
            )
            with torch.inference_mode(), mixed:
                # What is below the score has no effect on the rest: the network may skip it.
                results = self.network(batch, image_sizes=sizes, min_score=score, **options)
            found.update(zip(indices, results, strict=True))
        return [found[index].to("cpu").filter(score) for index in range(len(images))]

    def _run(
        self,
        images: Sequence[Tensor | LargeImage],
        score: float,
        batch_size: int,
        tile: Tile,
        max_objects: int | None,
        classes: Sequence[str] | None,
    ) -> list[Instances]:
        _check_tile(tile)
        if tile is None:
            whole = [image for image in images if isinstance(image, Tensor)]
            return self.run(whole, score, max_objects, classes)
        if tile == "auto":
            return self._run_at_scale(images, score, batch_size, max_objects, classes)
        return [self._tiled(image, score, batch_size, tile, max_objects, classes) for image in images]

    def _tiled(
        self,
        image: Tensor | LargeImage,
        score: float,
        batch_size: int,
        tile: int,
        max_objects: int | None,
        classes: Sequence[str] | None,
        whole: Instances | None = None,
    ) -> Instances:
        from instancefcn.models.instance_fcn import InstanceFCN

        # The model's own limit suits a tile too, but a larger one means that objects are dense.
        per_tile = None if max_objects is None else max(max_objects, self.max_objects)
        reached: list[int] = []

        def run(tiles: Sequence[Tensor], least: float) -> list[Instances]:
            results = self.run(tiles, least, per_tile, classes)
            for one in results:
                # What a tile leaves out below the score could only have been a piece.
                if one.limit_reached is not None and float(one.scores[-1]) >= score:
                    reached.append(one.limit_reached)
            return results

        # Of proposals each object has many.
        proposals = PER_TILE if isinstance(self.network, InstanceFCN) else None
        found = segment_tiled(run, image, tile, score, batch_size, proposals, whole)
        if max_objects is not None and len(found) >= max_objects:
            return replace(found[:max_objects], limit_reached=max_objects)
        return replace(found, limit_reached=max(reached, default=None))

    def labels_of(self, classes: Sequence[str]) -> list[int]:
        """The labels of classes by their names, ascending. Raises ConfigError for an unknown name or none."""
        if isinstance(classes, str):
            classes = [classes]
        unknown = [name for name in classes if name not in self.class_names]
        if unknown or not classes:
            problem = (
                f"no class of the model is {', '.join(map(repr, unknown))}"
                if unknown
                else "no class is named"
            )
            raise ConfigError(f"classes: {problem}; it knows {', '.join(self.class_names)}")
        return [label for label, name in enumerate(self.class_names) if name in classes]

    def _run_at_scale(
        self,
        images: Sequence[Tensor | LargeImage],
        score: float,
        batch_size: int,
        max_objects: int | None,
        classes: Sequence[str] | None,
    ) -> list[Instances]:
        """Images whole, and once more in tiles those whose objects are too small as a whole; images on the
        disk in tiles of the size of training images.
        """
        scale, size = self._trained_scale, self.preprocessing.long_side
        whole = [image for image in images if isinstance(image, Tensor)]
        look = scale is not None and any(scale.may_need_tiles(*image.shape[1:]) for image in whole)
        # Whether tiles are needed does not depend on the score that is asked for.
        found = iter(self.run(whole, min(score, SEEN) if look else score, max_objects, classes))
        results = []
        for image in images:
            if isinstance(image, LargeImage):
                side: int | None = size if scale is None else round(scale.image_side)
                seen = None
            else:
                seen, side = next(found), None
                if scale is not None and scale.may_need_tiles(*image.shape[1:]):
                    side = scale.tile(seen, self.preprocessing)
            if side is not None:
                results.append(self._tiled(image, score, batch_size, side, max_objects, classes, seen))
            elif seen is not None:
                results.append(seen.filter(score))
        return results

    def _segment(
        self,
        images: Sequence[ImageInput],
        score: float,
        batch_size: int,
        tile: Tile,
        max_objects: int | None,
        classes: Sequence[str] | None,
    ) -> list[Instances]:
        decoded = [_decode(image, tile is not None) for image in images]
        found = self._run(decoded, score, batch_size, tile, max_objects, classes)
        sources = [str(image) if isinstance(image, (str, Path)) else None for image in images]
        return [replace(one, source=source) for one, source in zip(found, sources, strict=True)]


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
) -> Predictor:
    """Load a model for use.

    Args:
        model: the name of a bundled model, a checkpoint file, or the folder of a run (its best checkpoint).
        device: a torch device such as "cpu" or "cuda:1"; None takes a GPU when there is one.
        precision: of the convolutions: "32" for float32; "bf16" for bfloat16; "auto" for bfloat16 on a CPU
            that computes it natively (AVX-512 BF16 or AMX), else float32. With "auto" converted weights run
            in float32.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: `device` or `precision` is not valid, or cannot be used here.
    """
    from instancefcn.published.checkpoint import load_any_checkpoint

    return Predictor(load_any_checkpoint(model), device, precision)


def precision_of(loaded: Loaded, precision: str, device: torch.device) -> str:
    """The precision that runs, "32" or "bf16", where `precision` is asked for, see `load`.

    Raises:
        ConfigError: `precision` is not valid, or cannot be used there.
    """
    from instancefcn.published.network import PublishedFCIS

    converted = isinstance(loaded.network, PublishedFCIS)
    return "32" if converted and precision == "auto" else chosen_precision(precision, device)


def _at_least_one(**settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def _check_tile(tile: object) -> None:
    if tile is not None and tile != "auto" and not isinstance(tile, int):
        raise ConfigError(f"tile must be a number of pixels, 'auto' or None, not {tile!r}")


def _together(batch_size: int, tile: Tile) -> int:
    """How many images are drawn at once: tiles fill a batch by themselves."""
    return 1 if isinstance(tile, int) else batch_size


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"{device!r} is not a valid device: use 'cpu', 'cuda' or 'cuda:1'") from error


def _decode(image: Any, by_tiles: bool) -> Tensor | LargeImage:
    if isinstance(image, (str, Path)):
        large = open_large(image) if by_tiles and not is_url(image) else None
        return read_file_or_url(image) if large is None else large
    if isinstance(image, (Image.Image, np.ndarray, Tensor)):
        return to_uint8_rgb(image)
    raise ImageError(
        "an image must be a path, a URL, a Pillow image, an array or a tensor (or a list of these), "
        f"not {type(image).__name__}"
    )


def _weighed(path: Path | str) -> tuple[Path | str, int]:
    """A file and its number of pixels, 0 where its header does not say."""
    try:
        file, page = split_page(path)
        with open_image(Path(file), page=page) as image:
            return path, image.width * image.height
    except Exception:  # reading it reports what is wrong; a URL is not fetched twice
        return path, 0


def _try_read(by_tiles: bool, weighed: tuple[Any, int]) -> FileResult:
    path, _ = weighed
    if not isinstance(path, (str, Path)):
        kind = type(path).__name__
        raise ConfigError(f"files() takes paths and URLs, not {kind}: call the model itself on an image")
    try:
        if by_tiles and not is_url(path) and (large := open_large(path)) is not None:
            return FileResult(path, None, None, None, large=large)
        image, pages = decode_file_or_url(path)
        return FileResult(path, image, None, None, pages=pages)
    except ImageError as error:
        return FileResult(path, None, None, error)
