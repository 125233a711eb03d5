"""Check that the model can find objects of these sizes; if not, suggest an input size and anchors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split
from instancefcn.geometry.resizing import resize_scale
from instancefcn.models.zoo import ModelSpec, ProposalModelSpec

MANY = 0.05
"""Minimum share of objects of unsuitable size for a warning instead of a note."""
FIT = math.sqrt(0.5)
"""A square of this share of an anchor's side has IoU 1/2 with it."""
ENLARGED = 2.0
"""Maximum suggested enlargement of the input: time grows with its square."""


def unsuitable_sizes(data: CheckedData) -> Iterator[Finding]:
    """Objects in train that are too small or too large for the model."""
    spec = data.spec
    if spec is None:
        return
    for split in data.splits:
        if split.name == "train" and (sides := object_sides(split, spec.short_side, spec.long_side)):
            mean, larger = (np.sort(np.array(values)) for values in zip(*sides, strict=True))
            text, share = (
                _for_anchors(mean, spec) if isinstance(spec, ModelSpec) else _for_windows(larger, spec)
            )
            if share > 0:
                yield split.finding("object-size", "warning" if share >= MANY else "note", text)


def object_sides(split: Split, short: int, long: int) -> list[tuple[float, float]]:
    """(square root of the box's area, larger side of the box) of each object, in network pixels.

    Crowds and objects without a pixel are left out. `short` and `long` are the sides of the network's input.
    """
    sides = []
    for image, annotation, shape in split.objects:
        if shape.area and not annotation.crowd:
            scale = resize_scale(image.height, image.width, short, long)
            width, height = shape.box[2] - shape.box[0], shape.box[3] - shape.box[1]
            sides.append((math.sqrt(width * height) * scale, max(width, height) * scale))
    return sides


def _for_anchors(sides: NDArray[np.float64], spec: ModelSpec) -> tuple[str, float]:
    """The message about object sides (ascending, for anchors), and the share of unsuitable ones."""
    stride, scales = spec.anchors.stride, spec.anchors.scales
    low_limit, high_limit = min(scales) * stride * FIT, max(scales) * stride / FIT
    small, large = int((sides < low_limit).sum()), int((sides > high_limit).sum())
    tiny = int((sides < stride).sum())
    low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95))
    parts = [
        f"{small} of {len(sides)} objects ({small / len(sides):.0%}) are smaller than {low_limit:.0f} pixels "
        f"at {spec.name}'s input ({spec.short_side}/{spec.long_side}), too small for its smallest anchor of "
        f"{min(scales) * stride:g}; {tiny} are smaller than one map cell of {stride}"
    ]
    if large:
        parts.append(
            f"{large} are larger than {high_limit:.0f}, too large for its largest anchor of "
            f"{max(scales) * stride:g}"
        )
    parts.append(f"90 % of the sides lie between {low:.0f} and {high:.0f}, the median is {middle:.0f}")
    factor = _enlargement(low_limit / low)
    if factor > 1:
        parts.append(_larger_input(spec.short_side, spec.long_side, factor, low_limit / low))
    suited = suggested_scales(low * factor, high * factor, stride)
    parts.append(f"anchor scales that suit them: {', '.join(f'{scale:g}' for scale in suited)}")
    return "; ".join(parts), (small + large) / len(sides)


def _for_windows(sides: NDArray[np.float64], spec: ProposalModelSpec) -> tuple[str, float]:
    """The same for InstanceFCN: the larger sides of the objects, and pyramid levels instead of anchors."""
    low_limit, high_limit = spec.windows.fitting_sides
    high_limit *= spec.head.step ** (spec.head.levels - 1)
    small, large = int((sides < low_limit).sum()), int((sides > high_limit).sum())
    low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95))
    parts = [
        f"{small} of {len(sides)} objects ({small / len(sides):.0%}) are smaller than {low_limit:.0f} pixels "
        f"on the first level of {spec.name} ({spec.short_side}/{spec.long_side}) and {large} larger than "
        f"{high_limit:.0f}, so no window fits them",
        f"90 % of the larger sides lie between {low:.0f} and {high:.0f}, the median is {middle:.0f}",
    ]
    if (factor := _enlargement(low_limit / low)) > 1:
        parts.append(_larger_input(spec.short_side, spec.long_side, factor, low_limit / low))
    return "; ".join(parts), (small + large) / len(sides)


def _enlargement(wanted: float) -> float:
    return min(max(wanted, 1.0), ENLARGED)


def _larger_input(short: int, long: int, factor: float, wanted: float) -> str:
    new_short, new_long = (32 * math.ceil(side * factor / 32) for side in (short, long))
    text = f"a larger input helps: --set short_side={new_short} --set long_side={new_long}"
    if wanted > ENLARGED:
        text += f" (most objects need {wanted:.1f} times the size: cut the images into tiles first)"
    return text


def suggested_scales(low: float, high: float, stride: int) -> tuple[float, ...]:
    """Anchor scales for objects of side `low` to `high` (network pixels), in units of the stride.

    Neighbouring scales differ by at most a factor of two, and no scale is below 1.
    """
    first = max(low / stride, 1.0)
    last = max(high / stride, first)
    count = max(2, math.ceil(math.log2(last / first)) + 1)
    scales = first * (last / first) ** (np.arange(count) / (count - 1))
    return tuple(dict.fromkeys(float(f"{scale:.2g}") for scale in scales))
