"""The error classes: their codes are part of the public API and never change."""

from __future__ import annotations

import pytest

from instancefcn import errors
from instancefcn.errors import DataError, InstanceFCNError

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
