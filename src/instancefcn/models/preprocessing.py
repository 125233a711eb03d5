"""How images are scaled before a network sees them."""

from __future__ import annotations

from typing import ClassVar

import pydantic.dataclasses
from torch import Tensor

from instancefcn.geometry.resizing import resize
from instancefcn.models.spec_fields import STRICT, InputSide
from instancefcn.safe_text import shown


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Preprocessing:
    """How an image is scaled before the network sees it.

    Attributes:
        short_side, long_side: pixels of the short side, unless the long side would pass its limit.
        rule: how the scaling is done, one of `RULES`; "smooth" reads every pixel.

    Raises:
        ValidationError: a side is out of range, or there is no such rule.
    """

    RULES: ClassVar[tuple[str, ...]] = ("smooth",)

    short_side: InputSide
    long_side: InputSide
    rule: str = "smooth"

    def __post_init__(self) -> None:
        if self.short_side > self.long_side:
            raise ValueError(f"short_side {self.short_side} is larger than long_side {self.long_side}")
        if self.rule not in self.RULES:
            raise ValueError(f"rule must be one of {', '.join(self.RULES)}, not {shown(self.rule)}")

    def __call__(self, image: Tensor) -> Tensor:
        """The network's input, float32 [3, h, w], 0 to 1, of an image uint8 [3, H, W]."""
        return resize(image, self.short_side, self.long_side)[0]
