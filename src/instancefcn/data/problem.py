"""What is wrong with a dataset, as a line that also knows where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

REPAIRS = "repairs.json"
"""The list of repairs lies beside the splits of a mended copy and is none of them."""


class Problem(str):
    """A line of text that says what is wrong and how to mend it.

    Attributes:
        check: the dataset doctor's name of this kind of problem; "format" where there is no other.
        picture: the file it concerns, or None.
        annotation: the id, in the dataset that was read, of the annotation it concerns, or None.
    """

    check: str
    picture: Path | None
    annotation: int | None

    def __new__(
        cls, text: str, check: str = "format", *, picture: Path | None = None, annotation: int | None = None
    ) -> Self:
        self = super().__new__(cls, text)
        self.check, self.picture, self.annotation = check, picture, annotation
        return self
