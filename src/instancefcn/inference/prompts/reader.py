"""`PromptReader`: the network once an image, after it any window within milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instancefcn.errors import ConfigError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.inference.predictor import DEFAULT_SCORE, Predictor, load
from instancefcn.inference.prompts.box_mask import Point, enlarged, mask_in_box
from instancefcn.inference.prompts.class_maps import ClassMaps
from instancefcn.inference.prompts.object_maps import ObjectMaps
from instancefcn.inference.prompts.views import Box, Evidence
from instancefcn.instances import Instances
from instancefcn.models.fcis import FCIS
from instancefcn.models.instance_fcn import InstanceFCN


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that is offered to a person.

    Attributes:
        box: x1, y1, x2, y2 around the mask, half-open, in pixels of the image.
        mask: the one mask, in the image.
        score: 0 to 1. Of a proposal: objectness, or the probability of its class. Of a mask in a box, or
            under a pointer when the model knows no classes: the IoU to be expected with the object.
        label: index into the reader's `class_names`; None when the model knows no classes.
    """

    box: Box
    mask: CroppedMasks
    score: float
    label: int | None

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.areas()[0])


@dataclass(frozen=True, eq=False)
class ImageMaps:
    """What a reader knows of one image; the caller keeps it as long as the image is looked at.

    Attributes:
        image: uint8 [3, H, W], RGB.
        maps: the score maps, and the scores of the network's own windows.
        points: the same of the model that answers clicks; `maps` where one model answers all.
    """

    image: Tensor
    maps: ObjectMaps | ClassMaps
    points: ObjectMaps | ClassMaps
    _boxed: dict[tuple[Box, tuple[int, ...] | None], tuple[Evidence, int | None]] = field(
        default_factory=dict, repr=False
    )

    @property
    def bytes(self) -> int:
        """Memory that the image and its maps take."""
        kept = {id(maps): maps for maps in (self.maps, self.points)}
        return self.image.numel() + sum(maps.bytes for maps in kept.values())

    def in_box(self, box: Box, classes: Sequence[int] | None) -> tuple[Evidence, int | None]:
        """What the maps say of the object in a box, and its label; clicks follow, so the answer is kept."""
        key = (box, None if classes is None else tuple(classes))
        found = self._boxed.get(key)
        if found is None:
            found = self.maps.in_box(box, classes)
            self._boxed.clear()
            self._boxed[key] = found
        return found


class PromptReader:
    """Reads masks from the score maps of a model, in windows that a person gives.

    `maps` runs the network, once for each image. `at_point` takes milliseconds after that, `in_box` a tenth
    of a second. Results depend on the arguments alone.

    Args:
        predictor: a model of either kind: FCIS, or InstanceFCN, which has no classes.
        pointing: another model that answers clicks instead. InstanceFCN proposes windows all over an image,
            FCIS only where it sees an object, but its masks in a box are better.

    Raises:
        ConfigError: a model is of another kind (converted published weights).
    """

    def __init__(self, predictor: Predictor, pointing: Predictor | None = None) -> None:
        for one in (predictor, pointing):
            if one is not None and not isinstance(one.network, FCIS | InstanceFCN):
                raise ConfigError(
                    "masks under a pointer need a model that this project trained, not converted weights"
                )
        self.class_names = predictor.class_names
        self._predictor, self._pointing = predictor, pointing or predictor

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        pointing: str | Path | None = None,
        device: torch.device | str | None = None,
    ) -> PromptReader:
        """The reader of bundled models, checkpoint files or folders of runs.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
            ConfigError: the model or the device cannot be used.
        """
        return cls(load(model, device=device), load(pointing, device=device) if pointing else None)

    def maps(self, image: NDArray[np.uint8] | Tensor) -> ImageMaps:
        """Run the network on an image.

        Args:
            image: uint8, [H, W, 3] (an array) or [3, H, W] (a tensor), RGB.

        Raises:
            ImageError: `image` is not such an image.
        """
        pixels = to_uint8_rgb(image)
        with torch.inference_mode():
            maps = _maps_of(pixels, self._predictor)
            same = self._pointing is self._predictor
            return ImageMaps(pixels, maps, maps if same else _maps_of(pixels, self._pointing))

    def proposals(
        self, maps: ImageMaps, *, score: float = DEFAULT_SCORE, count: int = 100
    ) -> list[Candidate]:
        """What the network proposes in the whole image: at most `count`, with at least this score, the best
        first.
        """
        with torch.inference_mode():
            return _candidates(maps.maps.proposals(score, count), self._predictor)

    def at_point(self, maps: ImageMaps, x: float, y: float, count: int = 8) -> list[Candidate]:
        """The masks under a pointer, the most likely first; `sorted(found, key=lambda c: c.area)` steps from
        small to large.

        Args:
            maps: of the image.
            x, y: in pixels of the image; the centre of pixel (row i, column j) is (j + 0.5, i + 0.5).
            count: at most so many.

        Returns:
            masks that hold the pixel under the pointer; none where the network sees nothing, or off the
            image.
        """
        height, width = maps.image.shape[1:]
        if not (0 <= x < width and 0 <= y < height):
            return []
        with torch.inference_mode():
            found = _candidates(maps.points.at_point(x, y, count), self._pointing)
        return [one for one in found if _holds(one, x, y)][:count]

    def in_box(
        self,
        maps: ImageMaps,
        box: Sequence[float],
        positive: Sequence[Point] = (),
        negative: Sequence[Point] = (),
        classes: Sequence[int] | None = None,
    ) -> Candidate:
        """The mask of the object that a person has drawn a box around.

        The mask stays inside the box; a positive click outside enlarges the box to it. The mask holds the
        pixels of positive clicks and none of negative ones, and has none where clicks took all away.

        Args:
            maps: of the image.
            box: x1, y1, x2, y2, half-open, in pixels of the image; what lies off the image is cut away.
            positive, negative: clicks (x, y) on the object and off it, in pixels of the image.
            classes: the object is of one of these (indices into `class_names`); of any when None.

        Raises:
            ConfigError: the box has no area on the image, a click is off it, or a class does not exist.
        """
        height, width = maps.image.shape[1:]
        x1, y1, x2, y2 = (float(side) for side in box)
        clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        # NaN fails every comparison.
        if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
            raise ConfigError(f"box {tuple(box)} has no area on the {width} x {height} image")
        if wrong := [label for label in classes or () if not 0 <= label < len(self.class_names)]:
            raise ConfigError(f"classes {wrong} do not exist: labels are 0 to {len(self.class_names) - 1}")
        clicks = [(float(x), float(y)) for x, y in (*positive, *negative)]
        if off := [(x, y) for x, y in clicks if not (0 <= x < width and 0 <= y < height)]:
            raise ConfigError(f"clicks {off} are not on the {width} x {height} image")
        clipped = enlarged(clipped, clicks[: len(positive)])
        with torch.inference_mode():
            evidence, label = maps.in_box(clipped, classes)
            mask, score = mask_in_box(
                maps.image, clipped, evidence, clicks[: len(positive)], clicks[len(positive) :]
            )
        return Candidate(_tight_box(mask), mask, score, label)


def _maps_of(pixels: Tensor, predictor: Predictor) -> ObjectMaps | ClassMaps:
    network, preprocessing, device = predictor.network, predictor.preprocessing, predictor.device
    if isinstance(network, FCIS):
        return ClassMaps.of(pixels, network, preprocessing, device)
    assert isinstance(network, InstanceFCN)
    return ObjectMaps.of(pixels, network, preprocessing, device)


def _candidates(found: Instances, predictor: Predictor) -> list[Candidate]:
    labels = found.labels.tolist() if isinstance(predictor.network, FCIS) else [None] * len(found)
    rows = zip(found.masks.tight_boxes().tolist(), found.scores.tolist(), labels, strict=True)
    return [
        Candidate((x1, y1, x2, y2), found.masks[[index]], score, label)
        for index, ((x1, y1, x2, y2), score, label) in enumerate(rows)
    ]


def _holds(candidate: Candidate, x: float, y: float) -> bool:
    """Whether the pixel at (x, y) belongs to the mask."""
    x1, y1, x2, y2 = candidate.mask.rects[0].tolist()
    column, row = int(x), int(y)
    inside = x1 <= column < x2 and y1 <= row < y2
    return inside and bool(candidate.mask.crop(0)[row - y1, column - x1])


def _tight_box(mask: CroppedMasks) -> Box:
    x1, y1, x2, y2 = mask.tight_boxes()[0].tolist()
    return x1, y1, x2, y2
