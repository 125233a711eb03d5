"""FCIS's maps, read where a person points.

A window is the box of an object, so a dragged box is read as it is: the class from the window's scores, the
mask from the inside and outside maps of that class. Only around a small box the network runs again, enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from instancefcn.geometry import boxes as box_ops
from instancefcn.inference.prompts.views import Box, Evidence, View, view_around
from instancefcn.instances import Instances
from instancefcn.models.fcis import FCIS, MIN_SCORE, Windows
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.ops import vote_masks

VOTE_NMS_IOU = 0.3
"""Of two windows of one class that overlap by more than this, the better one is an instance."""
NMS_IOU = 0.7
"""Of two windows under a pointer that overlap by more than this, the better one is shown."""
SMALL = 64
"""A boxed object whose larger side is shorter than this, in pixels of the network's input, is enlarged .."""
ENLARGED = 128
""".. to this."""
VIEW = 384
"""Side of the part of the image around it, in pixels of the network's input."""
WEIGHT = 0.8
"""See `Evidence`."""


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """The scored windows of an image or of a part of it.

    Attributes:
        network: in evaluation mode.
        device: of the network.
        image: uint8 [3, H, W]: the whole image.
        windows: what `FCIS.score_windows` returns, in pixels of the network's input.
        view: what the network saw, without its pixels.
    """

    network: FCIS
    device: torch.device
    image: Tensor
    windows: Windows
    view: View

    @classmethod
    def of(
        cls, image: Tensor, network: FCIS, preprocessing: Preprocessing, device: torch.device
    ) -> ClassMaps:
        """Run the network on an image uint8 [3, H, W]."""
        pixels = preprocessing(image)
        scale = (pixels.shape[2] / image.shape[2], pixels.shape[1] / image.shape[1])
        return cls.seen(image, View(pixels, (0, 0), scale), network, device)

    @classmethod
    def seen(cls, image: Tensor, view: View, network: FCIS, device: torch.device) -> ClassMaps:
        """Run the network on a view of an image."""
        batch, sizes = network.collate([view.pixels.to(device)])
        windows = network.score_windows(batch, sizes)
        return cls(network, device, image, windows, replace(view, pixels=view.pixels[:0]))

    @property
    def bytes(self) -> int:
        """Memory of the maps and windows."""
        maps = self.windows.maps
        kept = [maps.features, self.windows.boxes, self.windows.probabilities]
        if maps.whole is not None:
            kept.append(maps.whole)
        return sum(t.numel() * t.element_size() for t in kept)

    def proposals(self, score: float, count: int) -> Instances:
        """The instances of the whole image."""
        return self._voted(self.windows, score, count, VOTE_NMS_IOU)

    def at_point(self, x: float, y: float, count: int) -> Instances:
        """The best instances whose window holds the point (x, y) of the image. Windows that are taken for one
        object in the whole image are offered side by side.
        """
        seen = self.windows
        point = self.view.from_image(torch.tensor([[x, y, x, y]]))[0].to(self.device)
        around = ((seen.boxes[0, :, :2] <= point[:2]) & (seen.boxes[0, :, 2:] > point[2:])).all(1)
        kept = Windows(seen.maps, seen.boxes[:, around], seen.probabilities[:, around])
        return self._voted(kept, MIN_SCORE, count, NMS_IOU)

    def in_box(self, box: Box, classes: Sequence[int] | None) -> tuple[Evidence, int]:
        """What the maps say of the object in a box, and its most probable class among `classes`."""
        x1, y1, x2, y2 = box
        sides, centre = (x2 - x1, y2 - y1), ((x1 + x2) / 2, (y1 + y2) / 2)
        seen = self
        if max(sides) * max(self.view.scale) < SMALL:
            scale = ENLARGED / max(sides)
            view = view_around(self.image, centre, (scale, scale), VIEW)
            seen = self.seen(self.image, view, self.network, self.device)
        window = torch.tensor([box])
        rois = box_ops.to_rois(seen.view.from_image(window).to(self.device), 0)
        logits = self.network.class_logits(seen.windows.maps, rois)[0, 1:]
        allowed = range(len(logits)) if classes is None else sorted(set(classes))
        label = max(allowed, key=lambda label: float(logits[label]))
        grid = self.network.masks(seen.windows.maps, rois, torch.tensor([label + 1], device=self.device))
        return Evidence(grid.cpu(), window, WEIGHT), label

    def _voted(self, windows: Windows, score: float, count: int, nms_iou: float) -> Instances:
        """The best windows after suppression, with their voted masks, in pixels of the image."""
        rois = self.network.rois(windows.boxes)
        voted = vote_masks(
            lambda rows, classes: self.network.masks(windows.maps, rois[rows], classes).sigmoid(),
            self.view.to_image(windows.boxes[0]),
            windows.probabilities[0],
            (self.image.shape[1], self.image.shape[2]),
            nms_iou=nms_iou,
            vote_iou=self.network.head.vote_iou,
            max_instances=count,
            min_score=max(score, MIN_SCORE),
            threshold=self.network.head.mask_threshold,
            extent=self.network.head.extent,
        )
        names, ids = self.network.classes.names, self.network.classes.ids
        return Instances(voted.boxes, voted.scores, voted.classes - 1, voted.masks, names, ids).to("cpu")
