"""Whether an image is read whole or in tiles, so that objects have the size that the model was trained on.

In a micrograph four times as large as those of training, the network sees nuclei of a quarter of the size. In
a photograph four times as large, it sees animals as large as ever. The size of an image does not tell the two
apart; the objects that are found in the whole image do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instancefcn.data.dataset import Dataset
from instancefcn.geometry.resizing import resize_scale
from instancefcn.inference.tiling import MIN_TILE, tile_boxes
from instancefcn.instances import Instances
from instancefcn.limits import MAX_TILES
from instancefcn.models.preprocessing import Preprocessing

LARGE = 1.5
"""An image may need tiles when its long side exceeds that of the median training image by this factor."""
SMALL = 2.0
"""It is read in tiles when its objects are this many times smaller than in training, which is beyond what the
images of one kind vary by."""
SEEN, ENOUGH = 0.3, 5
"""The size of the objects is the median of those with this score, if there are as many."""


@dataclass(frozen=True)
class TrainedScale:
    """What a model was trained on.

    Attributes:
        image_side: median of the images' long sides, in their pixels.
        object_side: median size of the objects (root of a box's area), in pixels of the network's input.
    """

    image_side: float
    object_side: float

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> TrainedScale | None:
        """What a checkpoint says, see `scale_of`; None when it does not."""
        try:
            training = metadata["training"]
            sides = float(training["image_sides"]["median_long"]), float(training["object_side"])
        except (KeyError, TypeError, ValueError):
            return None
        return cls(*sides) if all(math.isfinite(side) and side > 0 for side in sides) else None

    def may_need_tiles(self, height: int, width: int) -> bool:
        """Whether an image is so large that its objects have to be looked at."""
        return max(height, width) > LARGE * self.image_side

    def tile(self, found: Instances, preprocessing: Preprocessing) -> int | None:
        """The side of tiles, in pixels of the image, in which the objects are as large as in training.

        Args:
            found: in the whole image.
            preprocessing: of the network.

        Returns:
            None when the image is better read whole: its objects are large enough, or too few are known.
        """
        boxes = found.boxes[found.scores >= SEEN]
        if len(boxes) < ENOUGH:
            return None
        scale = resize_scale(*found.image_size, preprocessing.short_side, preprocessing.long_side)
        side = scale * float((boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt().median())
        if side * SMALL > self.object_side:
            return None
        tile = max(MIN_TILE, round(preprocessing.short_side * side / (scale * self.object_side)))
        while len(tile_boxes(*found.image_size, tile)) > MAX_TILES:
            tile *= 2
        return tile


def scale_of(
    dataset: Dataset, preprocessing: Preprocessing, crops: tuple[int, float] | None = None
) -> dict[str, Any]:
    """What a checkpoint says about the images that its model was trained on, as JSON values.

    Args:
        dataset: the train split.
        preprocessing: of the network.
        crops: for a model that is trained on crops, their side in pixels of the image, and network pixels per
            pixel. They count instead of images that would be much smaller as a whole.

    Returns:
        "image_sides" (medians of the short and of the long sides, the largest long side, in pixels), and
        "object_side" as in `TrainedScale`, where there are objects.
    """
    sides, objects = [], []
    for image in dataset.images:
        height, width = image.height, image.width
        scale = resize_scale(height, width, preprocessing.short_side, preprocessing.long_side)
        if crops is not None and scale * LARGE < crops[1]:
            height, width, scale = min(height, crops[0]), min(width, crops[0]), crops[1]
        sides.append(sorted((height, width)))
        objects += [
            scale * math.sqrt((one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))
            for one in image.annotations
            if not one.crowd
        ]
    described: dict[str, Any] = {
        "image_sides": {
            "median_short": round(statistics.median(side[0] for side in sides)),
            "median_long": round(statistics.median(side[1] for side in sides)),
            "largest_long": max(side[1] for side in sides),
        }
    }
    return described | ({"object_side": round(statistics.median(objects), 1)} if objects else {})
