"""A short campaign of `tools/fuzz.py`: every reader, some hundred mutated files in all."""

from __future__ import annotations

import pytest

from fuzz_targets import Targets
from fuzzing import Target, attempt

pytestmark = pytest.mark.fuzz
SEED, CASES = 1, 40
NAMES = (
    "images",
    "index masks",
    "COCO",
    "LabelMe",
    "YOLO's YAML",
    "YOLO's labels",
    "VOC's lists",
    "SBD",
    "run lengths",
    "checkpoint bytes",
    "checkpoint documents",
    "last.ckpt",
    "config.json",
    "the API",
    "videos",
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {target.name: target for target in Targets(tmp_path_factory.mktemp("fuzz")).all()}


def test_all_targets_are_here(targets: dict[str, Target]) -> None:
    assert set(targets) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read_and_others_end_in_our_error(targets: dict[str, Target], name: str) -> None:
    if name not in targets:
        pytest.skip(f"{name}: its packages are not installed")
    target = targets[name]
    valid = [attempt(target, SEED, number) for number in range(len(target.seeds))]
    if name != "the API":  # its queries vary too
        assert set(valid) == {"result"}
    for number in range(len(valid), len(valid) + max(4, round(CASES * target.share))):
        try:
            attempt(target, SEED, number)
        except BaseException as error:
            raise AssertionError(f"{name}, seed {SEED}, case {number}: {error!r}") from error
