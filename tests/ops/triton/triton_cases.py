"""The Triton kernels against the reference. Not collected by itself: `test_kernels.py` runs it in a process
of its own, in Triton's interpreter, as that must be chosen before Triton is imported; and on a GPU, where
there is one.

The interpreter takes milliseconds for an operation of a kernel, so examples are few and small.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instancefcn.ops import portable, reference
from instancefcn.ops.triton import operators as cuda
from instancefcn.ops.triton import voting as voting_cuda
from ops.test_forms import PAIRED, Case, cases, example, gradient
from ops.voting.test_average import expected_averages, random_votes

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
NAMES = ("class_scores", "ps_average", "mask_logits")
EXAMPLES = 10 if DEVICE == "cpu" else 100


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Any:
    """Programs that share a window cost time in the interpreter; two show that sharing works."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setattr(cuda, "_SPLIT", 2)
        yield


def moved(case: Case) -> Case:
    return Case(case.maps.to(DEVICE), case.rois.to(DEVICE), case.labels.to(DEVICE), case.stride, case.size)


def backward(case: Case, name: str, grad: Tensor) -> Tensor:
    """The kernel's gradient of the maps."""
    n, k, *_, depth, height, width = case.maps.shape
    if name == "class_scores":
        return cuda.class_scores_backward(grad, case.maps, case.rois, case.stride)
    if name == "ps_average":
        return cuda.ps_average_backward(grad, case.rois, case.stride, n, k, height, width)
    return cuda.mask_logits_backward(grad, case.rois, case.labels, case.stride, n, k, depth, height, width)


def both(case: Case, name: str) -> tuple[Tensor, Tensor]:
    """Result and gradient of the kernels; the upstream gradient is that of `test_forms.gradient`."""
    case = moved(case)
    out = case.run(cuda, name)
    upstream = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape).to(DEVICE)
    grad = backward(case, name, upstream)
    assert out.dtype == grad.dtype == case.maps.dtype
    assert out.is_contiguous()
    assert grad.shape == case.maps.shape
    cells_first = (0, grad.dim() - 2, grad.dim() - 1, *range(1, grad.dim() - 2))
    assert grad.permute(cells_first).is_contiguous()
    return out.cpu(), grad.cpu()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=DEVICE == "cpu", database=None)
@given(data=st.data())
def test_equal_to_the_reference_forward_and_backward(name: str, data: st.DataObject) -> None:
    case = data.draw(cases(name, torch.float32))
    if DEVICE == "cpu":  # of the same layout, but smaller
        case.maps = case.maps[:2, :3, :3, ..., :4, :4]
        case.rois, case.labels = case.rois[case.rois[:, 0] < 2][:3], case.labels[case.rois[:, 0] < 2][:3]
    expected, expected_grad = gradient(case, reference, name, case.maps.double())
    out, grad = both(case, name)
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, expected_grad.float(), rtol=1e-4, atol=1e-4)


def small(name: str, dtype: torch.dtype = torch.float32, windows: int = 3) -> Case:
    """Two images, two parts, 3 x 4 cells: windows on, off and across the map, of one cell, without area."""
    case = example(name, dtype, windows=windows)
    case.maps = case.maps[:, :2, :2, ..., :3, :4]
    corners = [(-5.0, 3, 30, 21), (8, 8, 16, 16), (40, 2, 60, 20), (9, 3, 9, 20), (-1e4, -1e4, 1e4, 1e4)]
    case.rois = torch.tensor([(r % 2, *corners[r]) for r in range(windows)]).reshape(windows, 5)
    return case


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_rounded_once_at_the_end(name: str, dtype: torch.dtype) -> None:
    case = small(name, dtype, windows=2)
    exact, exact_grad = gradient(case, portable, name, case.maps.float())
    out, grad = both(case, name)
    torch.testing.assert_close(out, exact.to(dtype))
    torch.testing.assert_close(grad, exact_grad.to(dtype), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_windows_off_the_map_and_without_area_and_of_one_cell(name: str) -> None:
    case = small(name, windows=5)
    case.maps = case.maps.round()  # with ties between inside and outside
    expected, expected_grad = gradient(case, portable, name, case.maps)
    out, grad = both(case, name)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(grad, expected_grad)
    again, grad_again = both(case, name)
    assert torch.equal(out, again)
    assert torch.equal(grad, grad_again)


@pytest.mark.parametrize("name", NAMES)
def test_empty_inputs(name: str) -> None:
    case = small(name, windows=0)
    out, grad = both(case, name)
    assert out.shape == (0, *((7, 7) if name == "mask_logits" else (3,)))
    assert not grad.any()
    case.maps = case.maps[:0]
    assert both(case, name)[1].shape == case.maps.shape


@pytest.mark.parametrize("name", ["class_scores", "ps_average"])
def test_maps_without_cells(name: str) -> None:
    case = small(name)
    case.maps = case.maps[..., :0]
    assert not both(case, name)[0].any()


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_exist_is_not_a_number(name: str) -> None:
    """A GPU is not waited for, so nothing is raised; other windows are correct."""
    case = small(name, windows=5)
    expected = case.run(portable, name)
    case.rois[0, 1], case.rois[1, 0], case.rois[3, 0], case.rois[4, 4] = float("nan"), -1, 2, float("inf")
    if name == "mask_logits":
        case.rois[3, 0], case.labels[3] = 1, 3
    out = moved(case).run(cuda, name).cpu()
    assert out[[0, 1, 3, 4]].isnan().all()
    torch.testing.assert_close(out[2], expected[2])


def test_nan_in_either_map_reaches_the_score() -> None:
    for side in (0, 1):
        case = small("class_scores", windows=2)
        case.maps[0, :, :, side, 1] = float("nan")
        scores = moved(case).run(cuda, "class_scores")
        assert scores[0, 1].isnan()
        assert not scores[:, [0, 2]].isnan().any()


def test_many_classes_and_windows_fill_several_blocks() -> None:
    """More than 128 classes, 16 windows on a line, 32 positions of a line."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn((1, 1, 1, 2, 130, 1, 34), generator=generator)
    x = torch.rand((18, 2), generator=generator) * 34
    rois = torch.stack([torch.zeros(18), x.amin(1), torch.zeros(18), x.amax(1), torch.ones(18)], 1)
    for name, few in (("class_scores", 1), ("ps_average", 9), ("mask_logits", 4)):
        values = maps if name in PAIRED else maps[:, :, :, 0]
        case = Case(values, rois[::few], torch.arange(0, 126, 7)[::few], 1.0, 2)
        expected, expected_grad = gradient(case, portable, name, case.maps)
        out, grad = both(case, name)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


def test_gradients_of_more_windows_than_a_block_of_the_lists() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand((300, 2), generator=generator) * 2
    image = torch.randint(2, (300,), generator=generator)  # in any order
    rois = torch.stack([image, x.amin(1), torch.zeros(300), x.amax(1), torch.ones(300)], 1)
    case = Case(torch.zeros(2, 1, 1, 1, 1, 2), rois, image, 1.0, 2)
    upstream = torch.rand((300, 1), generator=generator)
    leaf = case.maps.clone().requires_grad_()
    (expected,) = torch.autograd.grad(case.run(portable, "ps_average", leaf), leaf, upstream)
    grad = backward(moved(case), "ps_average", upstream.to(DEVICE)).cpu()
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-5)


def test_a_vote_ends_before_a_pixel_whose_centre_is_on_the_border() -> None:
    """The columns' centres are at 0.5 to 4.5; the first box ends at 3.5, the second is far away."""
    votes = (
        torch.ones(2, 2, 2),
        torch.tensor([[0.5, 0.0, 3.5, 1.0], [1e30, -1e30, 2e30, 1e30]]),
        torch.tensor([0, 1]),
        torch.tensor([0.5, 1.0]),
        torch.tensor([0, 2]),
        torch.tensor([[0, 0, 5, 1]]),
    )
    average = voting_cuda.vote_average(*(values.to(DEVICE) for values in votes), None, None)
    assert average.tolist() == [0.5, 0.5, 0.5, 0.0, 0.0]


@settings(max_examples=EXAMPLES, deadline=None, derandomize=DEVICE == "cpu", database=None)
@given(
    seed=st.integers(0, 2**20),
    crops=st.integers(0, 3),
    most=st.integers(0, 3),
    m=st.integers(1, 5),
    size=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    binarize=st.sampled_from([None, 0.4]),
)
def test_vote_average_is_equal_to_the_reference(
    seed: int, crops: int, most: int, m: int, size: tuple[int, int], binarize: float | None
) -> None:
    votes = random_votes(seed, crops, most, m, size)
    there = [values.to(DEVICE) for values in votes]
    average = voting_cuda.vote_average(*there, None, binarize).cpu()
    expected = torch.from_numpy(np.concatenate([*expected_averages(votes, binarize), np.zeros(0)]))
    assert average.dtype == torch.float32
    assert average.shape == expected.shape
    # a vote at 0.4 to the last digit may fall on either side
    assert int(((average - expected).abs() > 2e-6).sum()) <= (0 if binarize is None else 1)
    binary = voting_cuda.vote_average(*there, 0.4, binarize).cpu()
    assert binary.dtype == torch.uint8
    assert torch.equal(binary, (average >= 0.4).to(torch.uint8))


@pytest.mark.skipif(DEVICE == "cpu", reason="the dispatcher sends tensors on a CPU to Numba")
@pytest.mark.parametrize("name", NAMES)
def test_operators_on_a_gpu_use_the_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from instancefcn import ops

    called = []
    kernel = getattr(cuda, name)
    monkeypatch.setattr(cuda, name, lambda *arguments: called.append(name) or kernel(*arguments))
    case = moved(example(name, torch.float32))
    expected = gradient(case, portable, name, case.maps)
    torch.testing.assert_close(gradient(case, ops, name, case.maps), expected, rtol=1e-4, atol=1e-5)
    assert called == [name]
    compiled = torch.compile(lambda maps: case.run(ops, name, maps), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(case.maps), expected[0], rtol=1e-4, atol=1e-5)
