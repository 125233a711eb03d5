"""The errors that instancefcn raises on purpose, each with a stable `code`.

A message says what is wrong, where (file, annotation id) and how to fix it. The command line prints it
without a traceback. Programs and tests look at the class or its `code`; the wording may change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from instancefcn.safe_text import plain


class InstanceFCNError(Exception):
    """Base of all errors that a user can fix."""

    code: ClassVar[str] = "error"

    def __str__(self) -> str:
        return plain(super().__str__())


class Problem(str):
    """One line of text: what is wrong with a dataset, and how to fix it.

    Attributes:
        check: the dataset doctor's code for this kind of problem; "format" where it has none.
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
    """A dataset cannot be used; `problems` lists everything found, one line each.

    The text groups problems that differ only in names and numbers, and ends with their number and `ways_on`.

    Args:
        problems: at least one.
        ways_on: what the user can do now, as a sentence.
    """

    code: ClassVar[str] = "data"

    def __init__(self, problems: Sequence[str] | str, ways_on: str = "") -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        if len(self.problems) == 1:
            lines = [self.problems[0]]
        else:
            count = f"{len(self.problems):,} problems in the data"
            lines = [f"{count}:", *grouped(self.problems)]
            if len(lines) > EXAMPLES:
                checks = Counter(getattr(problem, "check", "format") for problem in self.problems)
                lines.append(f"{count}: {', '.join(f'{n:,} {check}' for check, n in checks.items())}")
        super().__init__("\n".join([*lines, *([ways_on] if ways_on else [])]))


EXAMPLES = 5
"""How many problems of one kind a text shows."""
_KINDS = 20
"""How many kinds of problems a text shows."""


def grouped(problems: Sequence[str], examples: int = EXAMPLES) -> list[str]:
    """One indented line per problem: the first of each kind, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(kind_of(problem), []).append(problem)
    lines = []
    for found in list(kinds.values())[:_KINDS]:
        lines += [f"  - {problem}" for problem in found[:examples]]
        if len(found) > examples:
            lines.append(f"  .. and {len(found) - examples:,} more like it")
    if rest := sum(map(len, list(kinds.values())[_KINDS:])):
        lines.append(f"  .. and {rest:,} of other kinds")
    return lines


def kind_of(problem: str) -> str:
    """A problem without what differs between problems of one kind: the words with numbers, names or paths."""
    return re.sub(r"\S*[\d/\\'\"()\[\].]\S*", "_", problem)


class ConfigError(InstanceFCNError):
    """A setting is unknown, has the wrong type or is out of range."""

    code: ClassVar[str] = "config"


class CheckpointError(InstanceFCNError):
    """A model file is missing, damaged, not from instancefcn, or does not fit the network."""

    code: ClassVar[str] = "checkpoint"


class ImageError(InstanceFCNError):
    """A file is not an image, is truncated, or is too large to be decoded safely."""

    code: ClassVar[str] = "image"


class OutputError(InstanceFCNError):
    """A file or folder cannot be written: the disk is full, the path is taken, or permission is missing."""

    code: ClassVar[str] = "output"


class MissingPackageError(InstanceFCNError):
    """An optional package is not installed; the message names the one command that installs it."""

    code: ClassVar[str] = "missing-package"


class TrainingError(InstanceFCNError):
    """Training cannot continue, for example because a loss is not finite."""

    code: ClassVar[str] = "training"


class ExportError(InstanceFCNError):
    """A network cannot be exported as a graph, or the graph does not reproduce the network's results."""

    code: ClassVar[str] = "export"
