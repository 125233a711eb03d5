"""Binary masks that cost memory only where their objects are.

An object is a small rectangle of 0/1 pixels and its position in the image. Annotations, training targets and
results share this structure, so an image with a thousand nuclei never needs a thousand full-size masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instancefcn.geometry.rle import decode_crop, run_lengths


def _crop_areas(rects: Tensor) -> Tensor:
    return (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])


def _run_lengths(crop: NDArray[np.uint8], x: int, y: int, height: int, width: int) -> list[int]:
    """Alternating runs of 0 and 1 down the columns of an image that is 0 but for `crop` [h, w] at (x, y)."""
    columns = np.pad(crop.T.astype(np.int8), ((0, 0), (1, 1)))
    edges = np.diff(columns, axis=1)
    starts, stops = ((x + j) * height + y + i for j, i in (np.nonzero(edges == 1), np.nonzero(edges == -1)))
    # A run that reaches the bottom of the image continues at the top of the next column.
    apart = starts[1:] != stops[:-1]
    starts, stops = starts[np.r_[True, apart][: len(starts)]], stops[np.r_[apart, True][: len(stops)]]
    changes = np.concatenate(([0], np.stack((starts, stops), 1).reshape(-1), [height * width]))
    counts: list[int] = np.diff(changes).tolist()
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]


@dataclass(frozen=True, eq=False)
class CroppedMasks:
    """G binary masks, each stored inside its own rectangle.

    Attributes:
        pixels: uint8 [sum of the rectangles' areas], 0 or 1: the rows of rectangle 0, then those of rectangle
            1, and so on.
        rects: int64 [G, 4]: x1, y1, x2, y2, half-open, in whole pixels, inside the image. A rectangle may be
            empty (x1 == x2).
        image_size: (height, width) of the image.

    Raises:
        ValueError: the shapes, types or rectangles do not fit together. Values are checked on the CPU only:
            on a GPU the check would wait for the device.
    """

    pixels: Tensor
    rects: Tensor
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 1:
            raise ValueError(f"pixels must be uint8 [P], got {self.pixels.dtype} {tuple(self.pixels.shape)}")
        if self.rects.dtype != torch.int64 or self.rects.dim() != 2 or self.rects.shape[1] != 4:
            raise ValueError(f"rects must be int64 [G, 4], got {self.rects.dtype} {tuple(self.rects.shape)}")
        if self.rects.is_cuda:
            return
        height, width = self.image_size
        x1, y1, x2, y2 = self.rects.unbind(1)
        inside = (x1 >= 0) & (y1 >= 0) & (x1 <= x2) & (y1 <= y2) & (x2 <= width) & (y2 <= height)
        if not bool(inside.all()):
            wrong = int((~inside).nonzero()[0])
            raise ValueError(
                f"rectangle {wrong} {self.rects[wrong].tolist()} is not inside the {width} x {height} image"
            )
        area = int(_crop_areas(self.rects).sum())
        if area != self.pixels.numel():
            raise ValueError(f"the rectangles hold {area} pixels, pixels has {self.pixels.numel()}")
        if self.pixels.numel() and int(self.pixels.max()) > 1:
            raise ValueError(f"pixels must be 0 or 1, got {int(self.pixels.max())}")

    def __len__(self) -> int:
        return self.rects.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the views of `_crops`: each would be pickled with the pixels of all."""
        return {name: value for name, value in self.__dict__.items() if name != "_crops"}

    @property
    def offsets(self) -> Tensor:
        """int64 [G + 1]: where each rectangle starts in `pixels`."""
        return torch.nn.functional.pad(_crop_areas(self.rects).cumsum(0), (1, 0))

    @cached_property
    def _crops(self) -> list[Tensor]:
        """The pixels of every rectangle, uint8 [h, w] each (views)."""
        pieces = self.pixels.split(_crop_areas(self.rects).tolist()) if len(self) else ()
        return [
            p.view(y2 - y1, x2 - x1) for p, (x1, y1, x2, y2) in zip(pieces, self.rects.tolist(), strict=True)
        ]

    def crop(self, index: int) -> Tensor:
        """uint8 [h, w]: the pixels of one rectangle (a view)."""
        return self._crops[index]

    def __getitem__(self, index: Tensor | Sequence[int] | slice) -> CroppedMasks:
        """The masks at `index` (integers, booleans or a slice), in that order."""
        every = torch.arange(len(self), device=self.rects.device)
        if not isinstance(index, Tensor | slice):
            index = torch.as_tensor(index) if len(index) else every[:0]
        chosen = every[index]
        pieces = [self._crops[i].reshape(-1) for i in chosen.tolist()]
        pixels = torch.cat(pieces) if pieces else self.pixels[:0]
        return CroppedMasks(pixels, self.rects[chosen], self.image_size)

    def paste(self, index: int) -> Tensor:
        """bool [H, W]: one mask at the size of the image."""
        full = torch.zeros(self.image_size, dtype=torch.bool, device=self.pixels.device)
        x1, y1, x2, y2 = self.rects[index].tolist()
        full[y1:y2, x1:x2] = self.crop(index).bool()
        return full

    def dense(self) -> Tensor:
        """bool [G, H, W]: all masks at the size of the image. Costs G x H x W bytes: prefer the crops."""
        full = torch.zeros((len(self), *self.image_size), dtype=torch.bool, device=self.pixels.device)
        for i, (x1, y1, x2, y2) in enumerate(self.rects.tolist()):
            full[i, y1:y2, x1:x2] = self._crops[i].bool()
        return full

    def areas(self) -> Tensor:
        """int64 [G]: the number of pixels of each mask."""
        sums = [crop.sum(dtype=torch.int64) for crop in self._crops]
        return torch.stack(sums) if sums else self.rects[:, 0]

    def tight_boxes(self) -> Tensor:
        """float32 [G, 4]: half-open boxes around the pixels that are 1; zeros for a mask without any."""
        boxes = torch.zeros((len(self), 4), dtype=torch.float32, device=self.pixels.device)
        for i, crop in enumerate(self._crops):
            rows, columns = crop.any(1).nonzero()[:, 0], crop.any(0).nonzero()[:, 0]
            if len(rows):
                x0, y0 = float(self.rects[i, 0]), float(self.rects[i, 1])
                edges = (columns[0] + x0, rows[0] + y0, columns[-1] + x0 + 1, rows[-1] + y0 + 1)
                boxes[i] = torch.stack(edges)
        return boxes

    def rles(self) -> list[dict[str, Any]]:
        """COCO's compressed run-length encodings at the size of the image, made from the crops alone."""
        from faster_coco_eval.core import mask as coco_mask

        height, width = self.image_size
        encoded = []
        for crop, (x, y) in zip(self._crops, self.rects[:, :2].tolist(), strict=True):
            counts = _run_lengths(crop.cpu().numpy(), x, y, height, width)
            rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
            text = rle["counts"]
            text = text.decode("ascii") if isinstance(text, bytes) else text
            encoded.append({"size": [height, width], "counts": text})
        return encoded

    def flip_horizontal(self) -> CroppedMasks:
        """The masks of the mirrored image (left becomes right)."""
        flipped = [crop.flip(1).reshape(-1) for crop in self._crops]
        rects = self.rects.clone()
        rects[:, 0], rects[:, 2] = (
            self.image_size[1] - self.rects[:, 2],
            self.image_size[1] - self.rects[:, 0],
        )
        return CroppedMasks(torch.cat(flipped) if flipped else self.pixels, rects, self.image_size)

    def transpose(self) -> CroppedMasks:
        """The masks of the transposed image (rows become columns)."""
        turned = [crop.t().reshape(-1) for crop in self._crops]
        pixels = torch.cat(turned) if turned else self.pixels
        return CroppedMasks(pixels, self.rects[:, [1, 0, 3, 2]], (self.image_size[1], self.image_size[0]))

    def crop_to(self, x1: int, y1: int, x2: int, y2: int) -> CroppedMasks:
        """The part of every mask inside a window of the image, in the window's pixels.

        Masks outside the window are kept with an empty rectangle, so that indices do not change.
        """
        pieces, rects = [], []
        for i, (a1, b1, a2, b2) in enumerate(self.rects.tolist()):
            c1, d1 = max(a1, x1), max(b1, y1)
            c2, d2 = max(min(a2, x2), c1), max(min(b2, y2), d1)
            if c2 == c1 or d2 == d1:
                rects.append((0, 0, 0, 0))
                continue
            pieces.append(self.crop(i)[d1 - b1 : d2 - b1, c1 - a1 : c2 - a1].reshape(-1))
            rects.append((c1 - x1, d1 - y1, c2 - x1, d2 - y1))
        pixels = torch.cat(pieces) if pieces else self.pixels[:0]
        cropped = torch.tensor(rects, dtype=torch.int64, device=self.rects.device).reshape(-1, 4)
        return CroppedMasks(pixels, cropped, (y2 - y1, x2 - x1))

    def sample(self, x: Tensor, y: Tensor, which: Tensor) -> Tensor:
        """Read masks bilinearly at points of the image.

        Args:
            x, y: float [...]: image coordinates; the centre of pixel (row i, column j) is (j + 0.5, i + 0.5).
            which: int64, broadcastable to x: the mask that each point reads.

        Returns:
            float32, like x: 0 to 1; pixels outside a mask's rectangle count as 0.
        """
        x, y, which = torch.broadcast_tensors(x, y, which)
        rects = self.rects.to(x.device)
        x0, y0, x1, y1 = (column[which] for column in rects.unbind(1))
        start, row_length = self.offsets.to(x.device)[which], x1 - x0
        left, top = torch.floor(x - 0.5), torch.floor(y - 0.5)
        fx, fy = x - 0.5 - left, y - 0.5 - top
        pixels = (self.pixels if self.pixels.numel() else self.pixels.new_zeros(1)).to(x.device)
        value = torch.zeros_like(x, dtype=torch.float32)
        for row, weight_y in ((top, 1 - fy), (top + 1, fy)):
            for column, weight_x in ((left, 1 - fx), (left + 1, fx)):
                i, j = row.long() - y0, column.long() - x0
                inside = (i >= 0) & (i < y1 - y0) & (j >= 0) & (j < row_length)
                address = torch.where(inside, start + i * row_length + j, torch.zeros_like(start))
                value += torch.where(inside, pixels[address].float() * weight_x * weight_y, 0.0)
        return value

    def to(self, device: torch.device | str) -> CroppedMasks:
        """The same masks on another device."""
        return CroppedMasks(self.pixels.to(device), self.rects.to(device), self.image_size)

    @classmethod
    def empty(cls, image_size: tuple[int, int]) -> CroppedMasks:
        """No masks, for an image of (height, width)."""
        return cls(torch.zeros(0, dtype=torch.uint8), torch.zeros((0, 4), dtype=torch.int64), image_size)

    @classmethod
    def from_crops(
        cls, crops: Sequence[Tensor], corners: Sequence[tuple[int, int]], image_size: tuple[int, int]
    ) -> CroppedMasks:
        """Masks from their rectangles' pixels ([h, w] each, on one device) and upper left corners (x, y)."""
        if not crops:
            return cls.empty(image_size)
        rects = [(x, y, x + c.shape[1], y + c.shape[0]) for c, (x, y) in zip(crops, corners, strict=True)]
        pixels = torch.cat([crop.reshape(-1).to(torch.uint8) for crop in crops])
        return cls(pixels, torch.tensor(rects, dtype=torch.int64, device=pixels.device), image_size)

    @classmethod
    def from_dense(cls, masks: Tensor) -> CroppedMasks:
        """Masks from bool or uint8 [G, H, W]; each is stored inside its tight box."""
        crops, corners = [], []
        for mask in masks.bool():
            rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            if len(rows):
                y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
            else:
                x1 = y1 = x2 = y2 = 0
            crops.append(mask[y1:y2, x1:x2])
            corners.append((x1, y1))
        return cls.from_crops(crops, corners, (masks.shape[1], masks.shape[2]))

    @classmethod
    def from_rles(cls, rles: Sequence[dict[str, Any]], image_size: tuple[int, int]) -> CroppedMasks:
        """Masks from COCO run-length encodings of images of `image_size`, decoded one at a time.

        Raises:
            ValueError: an encoding has another size or is damaged.
        """
        height, width = image_size
        crops, corners = [], []
        for rle in rles:
            if tuple(rle["size"]) != (height, width):
                raise ValueError(f"the RLE has size {list(rle['size'])}, the image {list(image_size)}")
            total = int(run_lengths(rle["counts"]).sum())
            if total != height * width:
                raise ValueError(f"the RLE covers {total} pixels, the image has {height * width}")
            crop, corner = decode_crop(rle["counts"], height)
            crops.append(crop)
            corners.append(corner)
        return cls.from_crops(crops, corners, (height, width))
