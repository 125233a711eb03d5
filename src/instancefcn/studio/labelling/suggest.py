"""What the model says about the images: at a point, in a box, and everywhere, computed ahead.

A model looks at an image once; its maps are then read in any window within milliseconds. A thread computes
maps and suggestions for the images that come next, and then for all others, and steps back while a person
works. Suggestions are stored with the labels.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from instancefcn.errors import ImageError, InstanceFCNError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.studio.labelling.opening import Labels
from instancefcn.studio.labelling.pixels import Pixels
from instancefcn.studio.labelling.shapes import rings_of_mask
from instancefcn.studio.labelling.store import Row

GENERAL_MODEL = "fcis-objects"
"""Suggests, and reads boxes, until a model is trained: it knows objects of any class."""

POINTING = "instancefcn-objects"
"""Answers clicks beside GENERAL_MODEL."""

KEPT_MAPS = 4
"""Images whose maps stay in memory."""

FLOOR = 0.05
"""Suggestions with lower scores are not even stored: the page's slider starts here."""

TOP = 300
"""Maximum number of suggestions of one image."""

PATIENCE = 0.6
"""Seconds without a request of a person before the thread works for images that come later."""

UNKNOWN_DOUBT = 0.25
"""How unsure a model counts as that found nothing at all in an image."""

Point = tuple[float, float]
Found = dict[str, Any]
"""A candidate as the page gets it: "rle", "rings", "box", "score", and "class": an id of the data set's, or
None."""


class Candidate(Protocol):
    """One object that a model sees: see `instancefcn.inference.prompts`."""

    @property
    def box(self) -> tuple[float, float, float, float]: ...
    @property
    def mask(self) -> CroppedMasks: ...
    @property
    def score(self) -> float: ...
    @property
    def label(self) -> int | None: ...


class Reader(Protocol):
    """A model whose maps are read where a person points: see `instancefcn.inference.prompts`."""

    class_names: tuple[str, ...]

    def maps(self, image: Tensor) -> Any: ...
    def at_point(self, maps: Any, x: float, y: float, count: int) -> Sequence[Candidate]: ...
    def in_box(
        self, maps: Any, box: Sequence[float], positive: Sequence[Point], negative: Sequence[Point]
    ) -> Candidate: ...
    def proposals(self, maps: Any, *, score: float, count: int) -> Sequence[Candidate]: ...


def load_reader(model: str) -> Reader:
    """The reader of a bundled model, a checkpoint file or the folder of a run. Raises CheckpointError."""
    from instancefcn.inference.prompts import PromptReader

    reader: Reader = PromptReader.load(model, pointing=POINTING if model == GENERAL_MODEL else None)
    return reader


class Suggester:
    """The current model at work.

    Args:
        labels: the images, and where suggestions are stored.
        pixels: decodes the images.
        model: the first model.
        load: loads a model.

    Attributes:
        model: the current model.
        error: why the latest model could not be loaded; None when it could.
        broken: why images cannot be read, by id.
    """

    def __init__(
        self, labels: Labels, pixels: Pixels, model: str, load: Callable[[str], Reader] = load_reader
    ) -> None:
        self.model, self.error = model, ""
        self.broken: dict[int, str] = {}
        self._labels, self._pixels, self._load = labels, pixels, load
        self._readers: dict[str, Reader] = {}
        self._maps: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock, self._looking = threading.RLock(), threading.Lock()
        self._wake = threading.Condition()
        self._focus: list[int] = []
        self._others: list[int] | None = None
        self._asked = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="suggest", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # -- what the page asks for

    def focus(self, images: Sequence[int]) -> None:
        """Look at these images first, in this order."""
        with self._wake:
            self._focus = list(images)
            self._wake.notify()

    def use(self, model: str) -> None:
        """Suggest what another model sees, from now on."""
        with self._wake:
            self.model, self.error, self._others = model, "", None
            self._readers.pop(model, None)  # a run's file may have changed
            self._wake.notify()

    def refresh(self) -> None:
        """Images were labelled, or no longer are."""
        with self._wake:
            self._others = None
            self._wake.notify()

    def stored(self, image: int) -> list[Found] | None:
        """The suggestions for an image; None until the current model has looked at it."""
        return self._labels.store.suggestions(image, self.model)

    def left(self) -> int:
        """The number of images, not labelled, that the current model has not looked at."""
        return len(set(self._labels.store.without_suggestions(self.model)) - self.broken.keys())

    def ready(self, image: int) -> bool:
        """Whether the image's maps are there, so that points and boxes are answered at once."""
        with self._lock:
            return (self.model, image) in self._maps

    def at_point(self, image: int, x: float, y: float, count: int) -> list[Found]:
        """The best candidates at a point of an image, best first.

        Raises:
            ImageError: the image cannot be read.
            CheckpointError: the model cannot be loaded.
        """
        self._asked = time.monotonic()
        model = self.model
        maps = self._look(model, image)
        candidates = self._reader(model).at_point(maps, x, y, count)
        return self._found(model, candidates)

    def in_box(
        self, image: int, box: Sequence[float], positive: Sequence[Point], negative: Sequence[Point]
    ) -> Found | None:
        """The object in a box, with points that it covers and points that it does not; None when the model
        sees nothing there. Raises as `at_point`.
        """
        self._asked = time.monotonic()
        model = self.model
        maps = self._look(model, image)
        candidate = self._reader(model).in_box(maps, box, positive, negative)
        return next(iter(self._found(model, [candidate])), None)

    # -- the model

    def _reader(self, model: str) -> Reader:
        with self._lock:
            if model not in self._readers:
                self._readers = {model: self._load(model)}
            return self._readers[model]

    def _row(self, image: int) -> Row:
        return self._labels.store.image(image)

    def _look(self, model: str, image: int) -> Any:
        """The maps of an image, computed once."""
        key = (model, image)
        # A person does not wait for the look at another image.
        if (maps := self._kept(key)) is not None:
            return maps
        with self._looking:
            if (maps := self._kept(key)) is not None:
                return maps
            row = self._row(image)
            pixels = self._pixels.image(self._labels.path(row))
            if row["width"] is None:
                self._labels.store.set_size(image, pixels.shape[2], pixels.shape[1])
            maps = self._reader(model).maps(pixels)
            with self._lock:
                self._maps[key] = maps
                while len(self._maps) > KEPT_MAPS:
                    self._maps.popitem(last=False)
            return maps

    def _kept(self, key: tuple[str, int]) -> Any:
        with self._lock:
            if key in self._maps:
                self._maps.move_to_end(key)
            return self._maps.get(key)

    def _found(self, model: str, candidates: Sequence[Candidate]) -> list[Found]:
        names = {name: id_ for id_, name in self._labels.store.classes().items()}
        known = self._reader(model).class_names
        found = []
        for one in candidates:
            crop = one.mask.crop(0).cpu().numpy()
            x, y, *_ = one.mask.rects[0].tolist()
            rings = rings_of_mask(crop, (x, y))
            if rings:
                found.append(
                    {
                        "rle": one.mask.rles()[0],
                        "rings": rings,
                        "box": one.mask.tight_boxes()[0].int().tolist(),
                        "score": round(float(one.score), 4),
                        "class": None if one.label is None else names.get(known[one.label]),
                    }
                )
        return found

    # -- ahead

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._closing:
                    return
                job = self._next()
                if job is None:
                    self._wake.wait()
                    continue
                image, hurried = job
                rest = self._asked + PATIENCE - time.monotonic()
                if rest > 0 and not hurried:
                    self._wake.wait(rest)
                    continue
                model = self.model
            try:
                self._suggest(model, image)
            except ImageError as error:
                self.broken[image] = str(error)
            except InstanceFCNError as error:  # the model: until another one is chosen
                with self._wake:
                    if model == self.model:
                        self.error = str(error)

    def _next(self) -> tuple[int, bool] | None:
        """The image to look at next, and whether a person is waiting for it."""
        if self.error:
            return None
        for place, image in enumerate(self._focus):
            if image in self.broken:
                continue
            if not self.ready(image) or self.stored(image) is None:
                return image, place == 0
        if self._others is None:
            self._others = self._labels.store.without_suggestions(self.model)
            # Not in order: whichever image is the least sure of those seen should come from all over.
            random.Random(0).shuffle(self._others)
        while self._others:
            image = self._others[-1]
            if image in self.broken or self.stored(image) is not None:
                self._others.pop()
                continue
            return image, False
        return None

    def _suggest(self, model: str, image: int) -> None:
        maps = self._look(model, image)
        if self._labels.store.suggestions(image, model) is not None:
            return
        best = apart(self._reader(model).proposals(maps, score=FLOOR, count=TOP))
        found = self._found(model, best)
        self._labels.store.suggest(image, model, doubt([one["score"] for one in found]), found)


def apart(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Of proposals without classes those that may all be accepted: none that shares most of its pixels, or
    most of the other's, with a better one. A network proposes an object several times, whole and in parts.
    """
    kept: list[Candidate] = []
    for one in candidates:
        if one.label is not None or not any(_mostly_shared(one.mask, other.mask) for other in kept):
            kept.append(one)
    return kept


def _mostly_shared(one: CroppedMasks, other: CroppedMasks) -> bool:
    a, b = one.rects[0].tolist(), other.rects[0].tolist()
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    if x1 >= x2 or y1 >= y2:
        return False
    parts = [
        masks.crop(0)[y1 - rect[1] : y2 - rect[1], x1 - rect[0] : x2 - rect[0]]
        for masks, rect in ((one, a), (other, b))
    ]
    shared = int((parts[0] & parts[1]).sum())
    return 2 * shared > min(int(one.areas()[0]), int(other.areas()[0]))


def doubt(scores: Sequence[float]) -> float:
    """How unsure a model is of an image: the mean probability, 0 to 0.5, that a decision at score 0.5 is
    wrong, if the scores are probabilities.
    """
    return sum(min(s, 1 - s) for s in scores) / len(scores) if scores else UNKNOWN_DOUBT
