"""The error classes: their codes are part of the public API and never change."""

from __future__ import annotations

from itertools import product

import pytest

from instancefcn import errors
from instancefcn.errors import EXAMPLES, DataError, InstanceFCNError, Problem

CODES = {
    "InstanceFCNError": "error",
    "DataError": "data",
    "ConfigError": "config",
    "CheckpointError": "checkpoint",
    "ImageError": "image",
    "OutputError": "output",
    "MissingPackageError": "missing-package",
    "TrainingError": "training",
    "ExportError": "export",
}


def test_every_error_class_has_its_own_stable_code() -> None:
    classes = {
        name: value.code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, InstanceFCNError)
    }
    assert classes == CODES
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize(
    "problems", ["a.png: truncated", ["a.png: truncated"], ["a.png: truncated", "b.png: empty"]]
)
def test_a_data_error_holds_and_prints_every_problem(problems: str | list[str]) -> None:
    error = DataError(problems)
    expected = (problems,) if isinstance(problems, str) else tuple(problems)
    assert error.problems == expected
    assert all(problem in str(error) for problem in expected)


def test_messages_do_not_steer_the_terminal() -> None:
    assert "\x1b" not in str(InstanceFCNError("\x1b[2Jname.png"))


def test_equal_problems_are_grouped_and_the_number_comes_last() -> None:
    """They differ in numbers, names and paths. Other problems stay, whatever there are more of."""
    many = [f"/data/a {i}.json: annotation {i} (x{i}.jpg): has no outline" for i in range(3000)]
    error = DataError([*many, "/data/b.json: is not valid", Problem("b.png is small", "size")], "Go on.")
    assert len(error.problems) == 3002
    lines = str(error).splitlines()
    assert len(lines) == 1 + EXAMPLES + 1 + 2 + 2
    assert f"{3000 - EXAMPLES:,} more" in lines[1 + EXAMPLES]
    assert lines[-4:-2] == ["  - /data/b.json: is not valid", "  - b.png is small"]
    assert lines[-2:] == ["3,002 problems in the data: 3,001 format, 1 size", "Go on."]


def test_many_kinds_of_problems_are_not_all_shown() -> None:
    words = ["".join(letters) for letters in product("abcdefgh", repeat=3)]
    lines = str(DataError([f"word {word}" for word in words])).splitlines()
    assert len(lines) < 30
    assert f"{len(words) - 20} of other kinds" in lines[-2]
