"""Sliding windows of InstanceFCN: which of them an object fills, and which enter the loss.

The rule is DeepMask's, scaled from its window of 224 pixels to ours. A window is positive for an object that
is centred in it and of the right size: the canonical one is 128 / 224 of the window on its larger side, which
is 96 pixels here; the centre may be 16 / 224 of the window away (12 pixels) along each axis. DeepMask allows
2^(+-1/4) in size; our pyramid steps by 1.5, so that some objects would never be of the right size: we allow
1.5^(+-1/2), and every object fits one level. A window is negative when it is more than 32 / 224 (24 pixels)
or an octave away from every object; between the two it is not used. (REFERENCE.md, section 10: the paper says
"as in DeepMask" only; the scaled numbers are an inference.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instancefcn.models.rpn import covered_by, random_subset
from instancefcn.models.targets import Target

STRIDE = 8


@dataclass(frozen=True)
class WindowSpec:
    """Windows and how they are labelled; lengths are shares of the window's side.

    Attributes:
        cells: of the map along each side of a window (odd: a window is centred on a cell).
        object_side: larger side of the canonical object.
        near: farthest that the centre of an object may be from a positive window's, along each axis.
        far: a negative window is farther than this from every object, along some axis, or of another size.
        size_tolerance: octaves by which a positive object's larger side may differ from the canonical one.
        far_octaves: octaves beyond which an object is of another size for a negative window.
        samples: windows of one picture in the loss.
        positive_fraction: the most of them that may be positive.
    """

    cells: int = 21
    object_side: float = 128 / 224
    near: float = 16 / 224
    far: float = 32 / 224
    size_tolerance: float = 0.2925  # log2(1.5) / 2
    far_octaves: float = 1.0
    samples: int = 256
    positive_fraction: float = 0.5

    @property
    def side(self) -> int:
        """Pixels of the network's input along each side of a window."""
        return self.cells * STRIDE

    @property
    def fitting_sides(self) -> tuple[float, float]:
        """The least and the greatest larger side of an object that fits a window, pixels of the input."""
        canonical = self.object_side * self.side
        return canonical * 2**-self.size_tolerance, canonical * 2**self.size_tolerance


def window_boxes(indices: Tensor, width: int, spec: WindowSpec) -> Tensor:
    """float32 [P, 4]: the windows centred on cells `indices` (row * width + column) of a map of `width`
    cells, in pixels of the network's input. They may leave the picture.
    """
    x = (indices % width + 0.5) * STRIDE
    y = (torch.div(indices, width, rounding_mode="floor") + 0.5) * STRIDE
    half = spec.side / 2
    return torch.stack((x - half, y - half, x + half, y + half), dim=1).float()


def label_windows(height: int, width: int, target: Target, spec: WindowSpec) -> tuple[Tensor, Tensor]:
    """Labels of the windows on every cell of a map [height, width].

    Returns:
        int64 [height * width]: 1 positive, 0 negative, -1 not used; and int64 [height * width]: the object
        of each positive window, the nearest where there are several; 0 elsewhere.
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
    """Cell indices of the positive and the negative windows in the loss: `samples` in all, at most
    `positive_fraction` of them positive.
    """
    most = int(spec.samples * spec.positive_fraction)
    positive = random_subset((labels == 1).nonzero()[:, 0], most, generator)
    negative = random_subset((labels == 0).nonzero()[:, 0], spec.samples - len(positive), generator)
    return positive, negative
