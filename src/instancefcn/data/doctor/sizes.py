"""Are the objects of a size that the model can find? If not: which input size and anchors would suit them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from instancefcn.data.doctor.checked_data import CheckedData, Finding, Split
from instancefcn.geometry.resizing import resize_scale
from instancefcn.models.zoo import ModelSpec, ProposalModelSpec

MANY = 0.05
"""Share of objects of an unsuitable size from which it is a warning."""
FIT = math.sqrt(0.5)
"""An object whose side is this part of an anchor's side (both squares) overlaps it by one half."""
ENLARGED = 2.0
"""An input larger than this many times the model's own is not suggested: time grows with its square."""


def unsuitable_sizes(case: CheckedData) -> Iterator[Finding]:
    """Objects of train that are too small or too large for the model."""
    for split in case.splits:
        if split.name == "train" and (
            sides := object_sides(split, case.spec.short_side, case.spec.long_side)
        ):
            mean, larger = (np.sort(np.array(values)) for values in zip(*sides, strict=True))
            spec = case.spec
            text, share = (
                _for_anchors(mean, spec) if isinstance(spec, ModelSpec) else _for_windows(larger, spec)
            )
            if share > 0:
                yield split.about("object-size", "warning" if share >= MANY else "note", text)


def object_sides(split: Split, short: int, long: int) -> list[tuple[float, float]]:
    """(square root of the box's area, its larger side) of every object, crowds left out, in pixels of the
    network's input.
    """
    sides = []
    for image, annotation, shape in split.objects:
        if shape.area and not annotation.crowd:
            scale = resize_scale(image.height, image.width, short, long)
            width, height = shape.box[2] - shape.box[0], shape.box[3] - shape.box[1]
            sides.append((math.sqrt(width * height) * scale, max(width, height) * scale))
    return sides


def _for_anchors(sides: NDArray[np.float64], spec: ModelSpec) -> tuple[str, float]:
    """What to say about the sides of objects (ascending), and the share of unsuitable ones."""
    stride, scales = spec.anchors.stride, spec.anchors.scales
    least, greatest = min(scales) * stride * FIT, max(scales) * stride / FIT
    small, large = int((sides < least).sum()), int((sides > greatest).sum())
    tiny = int((sides < stride).sum())
    low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95))
    said = [
        f"{small} of {len(sides)} objects ({small / len(sides):.0%}) are smaller than {least:.0f} pixels at "
        f"{spec.name}'s input ({spec.short_side}/{spec.long_side}), too small for its smallest anchor of "
        f"{min(scales) * stride:g}; {tiny} are smaller than one map cell of {stride}"
    ]
    if large:
        said.append(
            f"{large} are larger than {greatest:.0f}, too large for its largest anchor of "
            f"{max(scales) * stride:g}"
        )
    said.append(f"90 % of the sides lie between {low:.0f} and {high:.0f}, the median is {middle:.0f}")
    factor = _enlargement(least / low)
    if factor > 1:
        said.append(_larger_input(spec.short_side, spec.long_side, factor, least / low))
    suited = suggested_scales(low * factor, high * factor, stride)
    said.append(f"anchor scales that suit them: {', '.join(f'{scale:g}' for scale in suited)}")
    return "; ".join(said), (small + large) / len(sides)


def _for_windows(sides: NDArray[np.float64], spec: ProposalModelSpec) -> tuple[str, float]:
    """The same for InstanceFCN, by the objects' larger sides: levels take the place of anchors."""
    least, greatest = spec.windows.fitting_sides
    greatest *= spec.head.step ** (spec.head.levels - 1)
    small, large = int((sides < least).sum()), int((sides > greatest).sum())
    low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95))
    said = [
        f"{small} of {len(sides)} objects ({small / len(sides):.0%}) are smaller than {least:.0f} pixels on "
        f"the first level of {spec.name} ({spec.short_side}/{spec.long_side}) and {large} larger than "
        f"{greatest:.0f}, so no window fits them",
        f"90 % of the larger sides lie between {low:.0f} and {high:.0f}, the median is {middle:.0f}",
    ]
    if (factor := _enlargement(least / low)) > 1:
        said.append(_larger_input(spec.short_side, spec.long_side, factor, least / low))
    return "; ".join(said), (small + large) / len(sides)


def _enlargement(wanted: float) -> float:
    return min(max(wanted, 1.0), ENLARGED)


def _larger_input(short: int, long: int, factor: float, wanted: float) -> str:
    new_short, new_long = (32 * math.ceil(side * factor / 32) for side in (short, long))
    text = f"a larger input helps: --set short_side={new_short} --set long_side={new_long}"
    if wanted > ENLARGED:
        text += f" (it would take {wanted:.1f} times the size for most: cut the pictures into tiles first)"
    return text


def suggested_scales(low: float, high: float, stride: int) -> tuple[float, ...]:
    """Anchor scales in units of the stride, at most a factor of two apart, from objects of side `low` to
    those of side `high` (pixels of the network's input). None is below one cell.
    """
    first = max(low / stride, 1.0)
    last = max(high / stride, first)
    count = max(2, math.ceil(math.log2(last / first)) + 1)
    scales = first * (last / first) ** (np.arange(count) / (count - 1))
    return tuple(dict.fromkeys(float(f"{scale:.2g}") for scale in scales))
