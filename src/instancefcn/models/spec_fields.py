"""What the fields of model specifications may hold.

A specification is a frozen pydantic dataclass: its values are checked whenever one is made, by a
constructor, by `dataclasses.replace` or from a checkpoint. The limits keep a stranger's checkpoint from
asking for a network of any size. Types that several specifications share are here, other limits stand beside
their fields.
"""

from __future__ import annotations

from typing import Annotated

import timm
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from instancefcn.limits import MAX_INPUT
from instancefcn.safe_text import shown

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Nothing is converted (true is not a number), and unknown fields are errors."""


def _known_backbone(name: str) -> str:
    # timm also takes addresses of model hubs and folders as names.
    if not name.replace("_", "").isalnum() or not timm.is_model(name):
        raise ValueError(f"timm has no network {shown(name)}")
    return name


BackboneName = Annotated[str, AfterValidator(_known_backbone)]
"""timm's name of a network."""
Prefixes = Annotated[tuple[str, ...], Field(max_length=100)]
"""Beginnings of names of modules."""
Channels = Annotated[int, Field(ge=1, le=65_536)]
Parts = Annotated[int, Field(ge=1, le=64)]
"""k: parts of a window along each side."""
InputSide = Annotated[int, Field(ge=1, le=MAX_INPUT)]
"""Pixels of the network's input."""
Length = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
MaskThreshold = Annotated[float, Field(ge=1e-3, le=1)]
SampleCount = Annotated[int, Field(ge=1, le=1_000_000)]
MAX_BOXES, MAX_KEPT = 100_000, 10_000
BoxCount = Annotated[int, Field(ge=1, le=MAX_BOXES)]
"""Boxes that compete in non-maximum suppression."""
KeptCount = Annotated[int, Field(ge=1, le=MAX_KEPT)]
"""Boxes or instances that are left of one image."""
Factors = Annotated[tuple[Annotated[float, Field(ge=1e-3, le=1e3)], ...], Field(min_length=1, max_length=100)]
"""Scales or ratios of anchors."""


def explain(error: ValidationError) -> str:
    """What is wrong with a specification, in one line: fields, what they need, and what they hold."""
    lines = []
    for problem in error.errors(include_url=False)[:3]:
        field, said = ".".join(map(str, problem["loc"]))[:80], problem["msg"].removeprefix("Value error, ")
        if not field:
            lines.append(said)
        elif problem["type"] in ("missing", "value_error"):
            lines.append(f"{field}: {said}")
        else:
            lines.append(f"{field}: {said} (got {shown(problem['input'])})")
    return "; ".join(lines)
