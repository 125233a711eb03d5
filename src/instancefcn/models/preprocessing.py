"""How images are scaled before a network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from instancefcn.geometry.resizing import resize
from instancefcn.limits import MAX_INPUT
from instancefcn.safe_text import shown


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are scaled before the network sees them.

    Attributes:
        short_side, long_side: pixels: of the short side, and the limit of the long one.
        rule: of scaling, one of `RULES`; "smooth" reads every pixel.
    """

    RULES: ClassVar[tuple[str, ...]] = ("smooth",)

    short_side: int
    long_side: int
    rule: str = "smooth"

    def __call__(self, image: Tensor) -> Tensor:
        """The network's input, float32 [3, h, w], 0 to 1, of a picture uint8 [3, H, W]."""
        return resize(image, self.short_side, self.long_side)[0]

    def check(self) -> None:
        """Raises ValueError when pictures cannot be scaled to these sides, or not by this rule."""
        sides = self.short_side, self.long_side
        if not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
            raise ValueError(f"the sides of pictures are {shown(sides)}")
        if not 1 <= self.short_side <= self.long_side <= MAX_INPUT:
            raise ValueError(
                f"the sides of pictures are {self.short_side} and {self.long_side}, at most {MAX_INPUT} are"
                " taken"
            )
        if self.rule not in self.RULES:
            raise ValueError(
                f"pictures are scaled by the rule {shown(self.rule)}; there are {', '.join(self.RULES)}"
            )
