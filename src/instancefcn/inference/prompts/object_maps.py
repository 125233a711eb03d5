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
from torchvision.ops import nms
from torchvision.transforms.v2 import functional as vision

from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.inference.prompts.box_mask import mask_of_window
from instancefcn.inference.prompts.views import Box, Evidence, points_of, view_around
from instancefcn.instances import Instances
from instancefcn.models.instance_fcn import InstanceFCN, tight_cells
from instancefcn.models.preprocessing import Preprocessing
from instancefcn.models.windows import STRIDE, window_boxes

REACH = 8
"""Windows centred at most so many cells from the pointer, along each axis, are looked at: the centre of an
object whose larger side is 12 cells is nearer."""
ASSEMBLED = 100
"""So many of them are assembled at each level, the best by objectness."""
NMS_IOU = 0.5
"""Of two masks under a pointer whose boxes overlap by more than this, the better one is offered."""
EXPECTED_IOU = (0.245, 0.013, 0.275, -0.269)
"""Weights of 1, objectness logit, mean probability in the mask, and distance from pointer to its middle."""
SHRUNK = 0.8
"""Size of a boxed object, as a share of the canonical one."""
VIEW = 256
"""Side of the part of the image around it, in pixels of the network's input."""
WEIGHT = 0.36
WINDOW_WEIGHT = 0.8
"""See `Evidence`: around a box, and of a window under a pointer."""


@dataclass(frozen=True, eq=False)
class ObjectMaps:
    """The maps of an image at all levels.

    Attributes:
        network: in evaluation mode.
        device: of the network.
        image: uint8 [3, H, W].
        levels: what `InstanceFCN.score_maps` returns for each level of the pyramid.
        finer: the same for a level `step` times as large as the first: small objects under a pointer. For
            proposals of the whole image it is not worth its time.
        size: (height, width) of the first level.
    """

    network: InstanceFCN
    device: torch.device
    image: Tensor
    levels: list[tuple[Tensor, Tensor]]
    finer: tuple[Tensor, Tensor]
    size: tuple[int, int]

    @classmethod
    def of(
        cls, image: Tensor, network: InstanceFCN, preprocessing: Preprocessing, device: torch.device
    ) -> ObjectMaps:
        """Run the network on an image uint8 [3, H, W]."""
        pixels = preprocessing(image).to(device)
        size = (pixels.shape[1], pixels.shape[2])
        enlarged = vision.resize(image, network.level_size(size, -1), antialias=True).to(device)
        inputs = [enlarged.float().div_(255), *network.pyramid(pixels)]
        finer, *levels = [_cells_first(*network.score_maps(level)) for level in inputs]
        return cls(network, device, image, levels, finer, size)

    @property
    def bytes(self) -> int:
        """Memory of the maps."""
        return sum(t.numel() * t.element_size() for level in (self.finer, *self.levels) for t in level)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[1], self.image.shape[2]

    def proposals(self, score: float, count: int) -> Instances:
        """The best windows of the whole image."""
        found = self.network.candidates(self.levels, self.size, self.image_size, score)
        return self.network.finish(found, self.image_size, count)

    def at_point(self, x: float, y: float, count: int) -> Instances:
        """The best windows whose mask holds the point (x, y) of the image, by the IoU to expect
        with the object.
        """
        found = [self._near(maps, logits, x, y) for maps, logits in (self.finer, *self.levels)]
        logits, windows, masks = (torch.cat(parts) for parts in zip(*found, strict=True))
        holds = points_of(masks, windows, x, y) >= self.network.spec.mask_threshold
        logits, windows, masks = logits[holds], windows[holds], masks[holds]
        scores = self._expected_iou(logits, windows, masks, x, y)
        cells, _ = tight_cells(masks >= self.network.spec.mask_threshold)
        side = (windows[:, 2:] - windows[:, :2]).repeat(1, 2) / self.network.windows.cells
        boxes = box_ops.clip(windows[:, :2].repeat(1, 2) + cells * side, self.image_size)
        usable = box_ops.have_area(boxes).nonzero()[:, 0]
        kept = usable[nms(boxes[usable], scores[usable], NMS_IOU)[:count]]
        return self._finish(boxes[kept], scores[kept], windows[kept], masks[kept])

    def _finish(self, boxes: Tensor, scores: Tensor, windows: Tensor, masks: Tensor) -> Instances:
        """Windows [P, 4], best first, as instances; `boxes` are around what their masks [P, m, m] hold."""
        logits = masks.logit(eps=1e-4).cpu()
        found = [
            mask_of_window(self.image, (x1, y1, x2, y2), Evidence(grid[None], window[None], WINDOW_WEIGHT))
            for (x1, y1, x2, y2), grid, window in zip(boxes.tolist(), logits, windows.cpu(), strict=True)
        ]
        corners = [(int(x), int(y)) for x, y in (mask.rects[0, :2].tolist() for mask in found)]
        crops = CroppedMasks.from_crops([mask.crop(0) for mask in found], corners, self.image_size)
        filled = crops.areas() > 0
        crops = crops[filled]
        labels = torch.zeros(len(crops), dtype=torch.int64)
        names, ids = self.network.classes.names, self.network.classes.ids
        return Instances(crops.tight_boxes(), scores.cpu()[filled], labels, crops, names, ids)

    def _expected_iou(self, logits: Tensor, windows: Tensor, masks: Tensor, x: float, y: float) -> Tensor:
        """[P], 0 to 1, of windows under a pointer at (x, y). A person points at the middle of an object, so
        how far the middle of the mask is tells more than objectness does.
        """
        inside = (masks >= self.network.spec.mask_threshold).float()
        area = inside.sum((1, 2)).clamp(min=1)
        sureness = (masks * inside).sum((1, 2)) / area
        steps = (torch.arange(masks.shape[1], device=masks.device) + 0.5) / masks.shape[1]
        middle = torch.stack((inside.sum(1) @ steps, inside.sum(2) @ steps), 1) / area[:, None]
        pointer = (windows.new_tensor([x, y]) - windows[:, :2]) / (windows[:, 2:] - windows[:, :2])
        # In units of the side of a square as large as the mask.
        distance = (pointer - middle).norm(dim=1) * masks.shape[1] / area.sqrt()
        one, objectness, sure, far = EXPECTED_IOU
        return (one + objectness * logits + sure * sureness + far * distance).clamp(0, 1)

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


def _cells_first(maps: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same with maps in the operators' order in memory: they are read often."""
    return maps.permute(0, 5, 6, 1, 2, 3, 4).contiguous().permute(0, 3, 4, 5, 6, 1, 2), logits
