"""InstanceFCN's maps, read where a person points.

The network looks for objects whose larger side is 96 pixels, in windows of 168 (docs/method.md). A pointer is
answered from the maps of the whole image at all levels. A box tells the size of its object exactly, so the
network also runs on the part of the image around it, enlarged or shrunk to that size: a few hundredths of a
second, and small objects are seen as large as others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instancefcn.geometry import boxes as box_ops
from instancefcn.inference.prompts.views import Box, Evidence, points_of, view_around
from instancefcn.instances import Instances
from instancefcn.models.instance_fcn import Candidates, InstanceFCN
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.windows import STRIDE, window_boxes

REACH = 8
"""Windows centred at most so many cells from the pointer, along each axis, are looked at: the centre of an
object whose larger side is 12 cells is nearer."""
ASSEMBLED = 100
"""So many of them are assembled at each level, the best by objectness."""
SHRUNK = 0.8
"""Size of a boxed object, as a share of the canonical one."""
VIEW = 256
"""Side of the part of the image around it, in pixels of the network's input."""
WEIGHT = 0.48
"""See `Evidence`; fitted by `tools/fit_prompts.py`."""


@dataclass(frozen=True, eq=False)
class ObjectMaps:
    """The maps of an image at all levels.

    Attributes:
        network: in evaluation mode.
        device: of the network.
        image: uint8 [3, H, W].
        levels: what `InstanceFCN.score_maps` returns for each level of the pyramid.
        size: (height, width) of the first level.
    """

    network: InstanceFCN
    device: torch.device
    image: Tensor
    levels: list[tuple[Tensor, Tensor]]
    size: tuple[int, int]

    @classmethod
    def of(
        cls, image: Tensor, network: InstanceFCN, preprocessing: Preprocessing, device: torch.device
    ) -> ObjectMaps:
        """Run the network on an image uint8 [3, H, W]."""
        pixels = preprocessing(image).to(device)
        levels = [network.score_maps(level) for level in network.pyramid(pixels)]
        return cls(network, device, image, levels, (pixels.shape[1], pixels.shape[2]))

    @property
    def bytes(self) -> int:
        """Memory of the maps."""
        return sum(t.numel() * t.element_size() for level in self.levels for t in level)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[1], self.image.shape[2]

    def proposals(self, score: float, count: int) -> Instances:
        """The best windows of the whole image."""
        found = self.network.candidates(self.levels, self.size, self.image_size, score)
        return self.network.finish(found, self.image_size, count)

    def at_point(self, x: float, y: float, count: int) -> Instances:
        """The best windows whose mask holds the point (x, y) of the image."""
        found = [self._near(maps, logits, x, y) for maps, logits in self.levels]
        logits, boxes, masks = (torch.cat(parts) for parts in zip(*found, strict=True))
        holds = (points_of(masks, boxes, x, y) >= self.network.spec.mask_threshold).nonzero()[:, 0]
        order = holds[logits[holds].argsort(descending=True, stable=True)]
        kept = Candidates(logits[order].sigmoid(), boxes[order], masks[order])
        return self.network.finish(kept, self.image_size, count)

    def _near(self, maps: Tensor, logits: Tensor, x: float, y: float) -> tuple[Tensor, Tensor, Tensor]:
        """The best windows of a level near a point of the image: objectness logits [P], windows [P, 4] in the
        image, mask probabilities [P, m, m].
        """
        rows, columns = logits.shape
        height, width = self.image_size
        # A level has the image's shape, so a share of its side is one of the image's.
        row, column = int(y / height * rows), int(x / width * columns)
        top, left = max(row - REACH, 0), max(column - REACH, 0)
        around = logits[top : row + REACH + 1, left : column + REACH + 1]
        best, order = around.flatten().topk(min(ASSEMBLED, around.numel()))
        cells = (top + order // around.shape[1]) * columns + left + order % around.shape[1]
        boxes = window_boxes(cells, columns, self.network.windows)
        masks = self.network.assemble(maps, boxes).sigmoid()
        scale = (width / (columns * STRIDE), height / (rows * STRIDE))
        return best, box_ops.scale(boxes, *scale), masks

    def in_box(self, box: Box, classes: Sequence[int] | None) -> tuple[Evidence, None]:
        """What the maps say of the object in a box; the classes do not matter.

        Two views: in its own shape, and stretched so that its box is a square, in which thin objects are
        seen in more detail.
        """
        x1, y1, x2, y2 = box
        centre, sides = ((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1)
        canonical = SHRUNK * self.network.windows.object_side * self.network.windows.side
        logits, around = [], []
        for width, height in ((max(sides), max(sides)), sides):
            scale = (canonical / width, canonical / height)
            view = view_around(self.image, centre, scale, VIEW)
            half = (self.network.windows.side / 2 / scale[0], self.network.windows.side / 2 / scale[1])
            window = torch.tensor(
                [[centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]]
            )
            maps, _ = self.network.score_maps(view.pixels.to(self.device))
            logits.append(self.network.assemble(maps, view.from_image(window).to(self.device)).cpu())
            around.append(window)
        return Evidence(torch.cat(logits), torch.cat(around), WEIGHT), None
