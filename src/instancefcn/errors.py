"""The few errors that instancefcn raises on purpose.

Every message says what is wrong, where (file, annotation id) and how to mend it. The command line prints them
without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from instancefcn.safe_text import plain


class InstanceFCNError(Exception):
    """Base of all errors that a user can mend."""

    def __str__(self) -> str:
        return plain(super().__str__())


class Problem(str):
    """A line of text that says what is wrong and how to mend it.

    Attributes:
        check: the dataset doctor's name of this kind of problem; "format" where there is no other.
        image: the file it concerns, or None.
        annotation: the id, in the dataset that was read, of the annotation it concerns, or None.
    """

    check: str
    image: Path | None
    annotation: int | None

    def __new__(
        cls, text: str, check: str = "format", *, image: Path | None = None, annotation: int | None = None
    ) -> Self:
        self = super().__new__(cls, text)
        self.check, self.image, self.annotation = check, image, annotation
        return self


class DataError(InstanceFCNError):
    """A dataset cannot be used; `problems` lists everything found, one line each."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        if len(self.problems) == 1:
            text = self.problems[0]
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            text = f"{len(self.problems)} problems in the data:\n{lines}"
        super().__init__(text)


class ConfigError(InstanceFCNError):
    """A setting is unknown, of the wrong kind or out of range."""


class CheckpointError(InstanceFCNError):
    """A model file is missing, damaged, foreign, or does not fit the network."""


class ImageError(InstanceFCNError):
    """A file is no picture, is truncated, or is too large to be decoded safely."""


class TrainingError(InstanceFCNError):
    """Training cannot go on, for example because a loss is not finite."""


class ExportError(InstanceFCNError):
    """A network cannot be written as a graph, or the graph does not give the network's results."""


class OutputError(InstanceFCNError):
    """A result cannot be written: the disk is full, the path is taken, or there is no right to write."""

    code: ClassVar[str] = "output"


class MissingPackageError(InstanceFCNError):
    """An optional package is missing; the message names the one command that installs it."""

    code: ClassVar[str] = "missing-package"
