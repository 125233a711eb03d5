"""Runs `triton_cases.py` and `triton_suppression_cases.py`: in Triton's interpreter wherever Triton is, and
on the GPU where there is one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from instancefcn import ops
from instancefcn.ops import forms

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
FOLDER = Path(__file__).resolve().parent
FILES = (FOLDER / "triton_cases.py", FOLDER / "triton_suppression_cases.py")


@pytest.mark.slow
@pytest.mark.parametrize("interpreted", [True, False], ids=["interpreter", "gpu"])
def test_triton_kernels(interpreted: bool) -> None:
    """In a process of its own: the interpreter must be chosen before anything imports Triton."""
    if not interpreted and not torch.cuda.is_available():
        pytest.skip("needs a GPU that PyTorch can use")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if interpreted else {}
    environment.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not set
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, FILES)],
        cwd=FOLDER.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    if interpreted and "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("the interpreter of this Triton does not work with this NumPy (3.6 does not with 2.4)")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_the_kernels_compile_for_an_h100(tmp_path: Path) -> None:
    """What is wrong for the compiler may be right for the interpreter."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parents[1]), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(FOLDER / "triton_compiling.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "compiled\n"


def test_tensors_on_a_gpu_take_the_kernels_where_triton_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice alone: a tensor on a GPU need not exist for it."""

    class OnGpu:
        device = torch.device("cuda")
        dtype = torch.bfloat16

    maps: Any = OnGpu()
    for has_triton in (True, False):
        monkeypatch.setattr(forms, "_triton", has_triton)
        assert ops._portable(maps) is not has_triton
    monkeypatch.setattr(forms, "_triton", True)
    with ops.using("portable"):
        assert ops._portable(maps)
    maps.dtype = torch.float64
    assert ops._portable(maps)


@pytest.mark.parametrize("there", [True, False])
def test_triton_is_optional_and_its_kernels_are_imported_late(there: bool) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            + ("" if there else "sys.modules['triton'] = None\n")
            + "from instancefcn.ops import forms\n"
            + ("assert 'instancefcn.ops.triton.operators' not in sys.modules\n" if there else "")
            + f"assert forms.has_triton() is {there}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
