"""The Numba kernels: threads, forks, caches, memory order; and a machine without Numba."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from instancefcn import ops

pytestmark = pytest.mark.skipif(not ops.HAS_KERNELS, reason="needs Numba")

if ops.HAS_KERNELS:
    import numba

    from instancefcn.ops.numba import kernels as numba_kernels
    from instancefcn.ops.numba import operators as cpu
    from instancefcn.ops.numba import threads as parallel


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "SMALL", -1)


def crowded() -> tuple[Tensor, Tensor, Tensor]:
    """Maps and forty windows that overlap a great deal, so that many gradients meet in each cell."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 3, 3, 2, 5, 9, 11, generator=generator)
    corner = torch.rand(40, 2, generator=generator) * 40
    rois = torch.cat([torch.zeros(40, 1), corner, corner + 30], 1)
    rois[::2, 0] = 1
    return maps, rois, torch.arange(40) % 5


def everything() -> list[Tensor]:
    """Results and gradients of all three operators."""
    maps, rois, labels = crowded()
    results = []
    for operator, plain, extra in (
        (ops.class_scores, False, ()),
        (ops.ps_average, True, ()),
        (ops.mask_logits, False, (7,)),
    ):
        leaf = (maps[:, :, :, 0] if plain else maps).clone().requires_grad_()
        arguments = (leaf, rois, labels) if operator is ops.mask_logits else (leaf, rois)
        out = operator(*arguments, 8.0, *extra)
        (grad,) = torch.autograd.grad(out, leaf, torch.linspace(-1, 2, out.numel()).reshape(out.shape))
        results += [out.detach(), grad]
    return results


@pytest.mark.usefixtures("torch_threads", "always_parallel")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    runs = []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        runs.append(everything())
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))


@pytest.mark.usefixtures("torch_threads")
def test_kernels_take_torch_s_threads_and_one_for_little_work() -> None:
    torch.set_num_threads(1)
    with parallel.threads(10**9):
        assert numba.get_num_threads() == 1
    torch.set_num_threads(2)
    with parallel.threads(10**9):
        assert numba.get_num_threads() == min(2, numba.config.NUMBA_NUM_THREADS)
    with parallel.threads(100):
        assert numba.get_num_threads() == 1


@pytest.mark.usefixtures("always_parallel")
def test_python_threads_may_call_together() -> None:
    expected = everything()
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: everything(), range(6)):
            assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


def test_maps_in_the_kernels_order_are_not_copied() -> None:
    conv = torch.randn(2, 9 * 2 * 4, 5, 6).contiguous(memory_format=torch.channels_last)
    maps = conv.permute(0, 2, 3, 1).unflatten(3, (3, 3, 2, 4)).permute(0, 3, 4, 5, 6, 1, 2)
    assert cpu._channels_last(maps, cpu._PAIRED).ctypes.data == conv.data_ptr()
    assert cpu._channels_last(maps.contiguous(), cpu._PAIRED).ctypes.data != conv.data_ptr()


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    njit, asked = numba.njit, []

    def without_cache(function: object, **options: object) -> object:
        asked.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(numba, "njit", without_cache)
    double = numba_kernels.compiled(parallel=False)(lambda value: 2 * value)
    assert double(21) == 42
    assert asked == [True, False]


SCRIPT = """
import os, sys
{setup}
import torch
from instancefcn import ops
maps = torch.arange(72.0).reshape(1, 1, 1, 2, 1, 6, 6).requires_grad_()
rois = torch.tensor([[0.0, 4, 4, 20, 12]])
def check():
    scores = ops.class_scores(maps, rois, 4.0)
    (grad,) = torch.autograd.grad(scores.sum(), maps)
    assert abs(float(scores) - (36 + 11.5)) < 1e-4, scores  # rows 1-2, columns 1-4 of the inside map
    assert abs(float(grad[0, 0, 0, 1].sum()) - 1) < 1e-5
check()
{test}
"""


def run_script(setup: str, test: str) -> None:
    """Runs SCRIPT in a fresh interpreter, which ends well when its assertions hold."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(setup=setup, test=test)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_forked_process_continues_without_the_parents_threads() -> None:
    run_script(
        setup="import instancefcn.ops.numba.threads as parallel; parallel.SMALL = -1",
        test=(
            "assert ops.HAS_KERNELS and parallel.usable()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    assert not parallel.usable()\n"
            "    torch.set_num_threads(1)\n"
            "    check()\n"
            "    os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "assert parallel.usable()\n"
            "check()"
        ),
    )


def test_without_numba_the_portable_form_runs() -> None:
    run_script(setup="sys.modules['numba'] = None", test="assert not ops.HAS_KERNELS")


def test_torch_keeps_its_number_of_threads() -> None:
    """In a process of its own: Numba's first launch is what would change it."""
    code = (
        "import torch; from instancefcn import ops; torch.set_num_threads(1);"
        "maps = torch.rand(1, 7, 7, 2, 21, 30, 40); rois = torch.tensor([[0.0, 0, 0, 640, 480]]);"
        "rois = rois.repeat(99, 1);"
        "ops.class_scores(maps, rois, 16.0); assert torch.get_num_threads() == 1, torch.get_num_threads()"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
