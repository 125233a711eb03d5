"""Sliding windows of InstanceFCN: which of them an object fills, and which enter the loss.

The paper labels windows "as in DeepMask"; the numbers here are DeepMask's, scaled from its window of 224
pixels to ours of 168. A window is positive for an object that is centred in it and has the right size. The
canonical object's larger side is 128 / 224 of the window (96 pixels), and centres may differ by 16 / 224 (12
pixels) along each axis. DeepMask allows sizes within a factor of 2^(1/4). Our pyramid steps by 1.5, with
which some objects would fit no level, so we allow 1.5^(1/2). A window is negative when each object's centre
is more than 32 / 224 (24 pixels) away or its size differs by more than an octave. Other windows are not used.
"""

from __future__ import annotations

from typing import Annotated

import pydantic.dataclasses
import torch
from pydantic import Field
from torch import Tensor

from instancefcn.models.rpn import covered_by, random_subset
from instancefcn.models.spec_fields import STRICT, Length, SampleCount, Share
from instancefcn.models.targets import Target

STRIDE = 8
"""Pixels per map cell."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class WindowSpec:
    """Windows and how they are labelled. Lengths are shares of the window's side.

    Attributes:
        cells: of the map along each side of a window; odd, as a window is centred on a cell.
        object_side: larger side of the canonical object.
        near: maximum distance between the centres of a positive window and its object, along each axis.
        far: a negative window's centre is farther than this from that of each object, along some axis, unless
            the object's size differs by `far_octaves`.
        size_tolerance: maximum difference in octaves between the larger side of a positive window's object
            and the canonical one.
        far_octaves: a window is negative for objects whose size differs by more than this, in octaves.
        samples: windows of one image in the loss.
        positive_fraction: the maximum share of positive ones among them.
    """

    cells: Annotated[int, Field(ge=1, le=255)] = 21
    object_side: Length = 128 / 224
    near: Length = 16 / 224
    far: Length = 32 / 224
    size_tolerance: Length = 0.2925  # log2(1.5) / 2
    far_octaves: Length = 1.0
    samples: SampleCount = 256
    positive_fraction: Share = 0.5

    @property
    def side(self) -> int:
        """Of a window, in pixels of the network's input."""
        return self.cells * STRIDE

    @property
    def fitting_sides(self) -> tuple[float, float]:
        """Minimum and maximum of the larger side of objects that fit a window, in pixels of the network's
        input.
        """
        canonical = self.object_side * self.side
        return canonical * 2**-self.size_tolerance, canonical * 2**self.size_tolerance


def window_boxes(indices: Tensor, width: int, spec: WindowSpec) -> Tensor:
    """float32 [P, 4]: the windows centred on the cells `indices` (row * width + column) of a map of `width`
    columns, in pixels of the network's input. They may extend beyond the image.
    """
    x = (indices % width + 0.5) * STRIDE
    y = (torch.div(indices, width, rounding_mode="floor") + 0.5) * STRIDE
    half = spec.side / 2
    return torch.stack((x - half, y - half, x + half, y + half), dim=1).float()


def label_windows(height: int, width: int, target: Target, spec: WindowSpec) -> tuple[Tensor, Tensor]:
    """Labels of the windows centred on each cell of a map [height, width].

    Returns:
        int64 [height * width]: 1 positive, 0 negative, -1 not used; and int64 [height * width]: the index of
        each positive window's object, the nearest of several; 0 elsewhere.
    """
    device = target.boxes.device
    windows = window_boxes(torch.arange(height * width, device=device), width, spec)
    labels = torch.zeros(len(windows), dtype=torch.int64, device=device)
    matched = torch.zeros_like(labels)
    centres = (windows[:, :2] + windows[:, 2:]) / 2
    if len(target.boxes):
        boxes = target.boxes
        distance = (centres[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1) / spec.side
        larger = (boxes[:, 2:] - boxes[:, :2]).amax(-1).clamp(min=1e-3)
        octaves = (larger / (spec.object_side * spec.side)).log2().abs()
        positive = (distance <= spec.near) & (octaves <= spec.size_tolerance)
        close = (distance <= spec.far) & (octaves <= spec.far_octaves)
        matched = distance.masked_fill(~positive, torch.inf).argmin(1)
        labels[close.any(1)] = -1
        labels[positive.any(1)] = 1
        matched[labels != 1] = 0
    if len(target.crowd_boxes):
        cells = torch.cat((centres - STRIDE / 2, centres + STRIDE / 2), 1)
        labels[(labels == 0) & (covered_by(cells, target.crowd_boxes) > 0)] = -1
    return labels, matched


def sample_windows(
    labels: Tensor, spec: WindowSpec, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Cell indices of the positive and of the negative windows in the loss: `samples` in all, of which at
    most `positive_fraction` are positive.
    """
    limit = int(spec.samples * spec.positive_fraction)
    positive = random_subset((labels == 1).nonzero()[:, 0], limit, generator)
    negative = random_subset((labels == 0).nonzero()[:, 0], spec.samples - len(positive), generator)
    return positive, negative
