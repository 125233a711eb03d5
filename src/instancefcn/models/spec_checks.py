"""Whether what a checkpoint says of its model can be true, before anything of that size is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import timm

from instancefcn.limits import MAX_CLASSES, MAX_INPUT
from instancefcn.safe_text import is_name, shown

_MOST = 1e6
_RANGES: dict[str, tuple[float, float]] = {
    "short_side": (1, MAX_INPUT),
    "long_side": (1, MAX_INPUT),
    "channels": (1, 65_536),
    "fused_channels": (1, 65_536),
    "k": (1, 64),
    "mask_size": (1, 256),
    "mask_threshold": (1e-3, 1),
    "rpn_level": (0, 5),
    "instances": (1, 10_000),
    "scales": (1e-3, 1e3),
    "ratios": (1e-3, 1e3),
    "stride": (1, 1024),
    "before_nms": (1, 100_000),
    "after_nms": (1, 10_000),
    "levels": (1, 16),
    "step": (1.01, 16),
    "cells": (1, 255),
}
"""Least and greatest value of the fields of a specification; of those not named here 0 and a million."""


def check_spec(spec: Any) -> None:
    """Raises ValueError when a field of a specification (see `models.zoo`) is of another type than declared
    or out of range, or when no backbone has the name.
    """
    types = get_type_hints(type(spec))
    for item in fields(spec):
        value = getattr(spec, item.name)
        if item.name != "training" and not _fits(value, types[item.name], _RANGES.get(item.name, (0, _MOST))):
            raise ValueError(f"{item.name} is {shown(value)}")
    backbone = getattr(spec, "backbone", "vgg16")
    # timm also takes addresses of model hubs as names.
    if not backbone.replace("_", "").isalnum() or not timm.is_model(backbone):
        raise ValueError(f"there is no backbone {shown(backbone)}")


def _fits(value: object, hint: Any, bounds: tuple[float, float]) -> bool:
    if is_dataclass(hint):
        if not isinstance(value, hint):  # type: ignore[arg-type]
            return False
        types = get_type_hints(hint)
        return all(
            _fits(getattr(value, item.name), types[item.name], _RANGES.get(item.name, (0, _MOST)))
            for item in fields(hint)
        )
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        if not isinstance(value, tuple) or len(value) > 100 or (not value and element is not str):
            return False
        return all(_fits(one, element, bounds) for one in value)
    if hint is bool or hint is str:
        return isinstance(value, hint)
    number = isinstance(value, int) if hint is int else isinstance(value, int | float)
    if not number or isinstance(value, bool):
        return False
    assert isinstance(value, int | float)
    return bounds[0] <= value <= bounds[1]


def check_classes(names: Sequence[object], ids: Sequence[object]) -> None:
    """Raises ValueError when these are no names and ids of classes."""
    if (
        not isinstance(names, list)
        or not isinstance(ids, list)
        or not 0 < len(names) == len(ids) <= MAX_CLASSES
    ):
        raise ValueError("class_names and category_ids are not two lists of one length")
    wrong = [name for name in names if not is_name(name)]
    wrong += [id_ for id_ in ids if not isinstance(id_, int) or isinstance(id_, bool) or abs(id_) >= 2**53]
    if wrong or len(set(ids)) < len(ids):
        raise ValueError(f"class_names and category_ids hold {shown(wrong) if wrong else 'an id twice'}")
