"""A short torture: `train` and `predict` killed at random moments end like undisturbed ones, bit for bit.

The long one is `python tools/torture.py --kills 20`. Full disks, places that cannot be written, and data that
change or vanish: tests/training/test_failures.py, tests/cli/test_resume.py, tests/test_disk.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = Path(__file__).parents[1] / "tools" / "torture.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the attempts are forked")
@pytest.mark.parametrize("verb", ["train", "predict"])
def test_killed_calls_end_like_undisturbed_ones(verb: str) -> None:
    command = [sys.executable, str(TORTURE), "--only", verb, "--kills", "2", "--images", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"{verb}: 2 kills, .*\n(.*\n){{3}}  nothing wrong", done.stdout)
