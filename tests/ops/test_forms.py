"""Every form of the operators against the reference over random shapes, layouts, types and windows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instancefcn import ops
from instancefcn.ops import portable, reference

NAMES = ("class_scores", "ps_average", "mask_logits")
PAIRED = ("class_scores", "mask_logits")
LAYOUTS = ("contiguous", "channels last", "every second", "reversed axes")


@dataclass
class Case:
    maps: Tensor
    rois: Tensor
    labels: Tensor
    stride: float
    size: int

    def run(self, form: object, name: str, maps: Tensor | None = None) -> Tensor:
        """The operator `name` of a form, on this case's maps or on others."""
        arguments = [self.maps if maps is None else maps, self.rois]
        if name == "mask_logits":
            arguments.append(self.labels)
        sizes = [self.size] if name == "mask_logits" else []
        return getattr(form, name)(*arguments, self.stride, *sizes)  # type: ignore[no-any-return]


def lay_out(maps: Tensor, layout: str) -> Tensor:
    """Equal values in another memory order."""
    inner = tuple(range(1, maps.dim() - 2))
    height, width = maps.dim() - 2, maps.dim() - 1
    if layout == "channels last":
        return maps.permute(0, height, width, *inner).contiguous().permute(0, *range(3, maps.dim()), 1, 2)
    if layout == "every second":
        return torch.stack([maps, torch.full_like(maps, float("nan"))], -1).flatten(-2)[..., ::2]
    if layout == "reversed axes":
        order = tuple(reversed(range(maps.dim())))
        return maps.permute(order).contiguous().permute(order)
    return maps.contiguous()


@st.composite
def cases(draw: st.DrawFn, name: str, dtype: torch.dtype = torch.float64) -> Case:
    k = draw(st.integers(1, 7))
    images, depth = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    stride = draw(st.sampled_from([1.0, 4.0, 10.5, 16.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (images, k, k, *((2,) if name in PAIRED else ()), depth, height, width)
    maps = torch.randn(shape, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        maps = maps.round()  # many ties between inside and outside
    sixteenth = st.integers(-32, 128).map(
        lambda value: value / 16
    )  # in cells, so borders are often hit exactly
    anywhere = st.floats(-1e4, 1e4, width=32) | st.floats(-2, 8, width=32)
    corner = sixteenth | anywhere
    windows = draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=4))
    rois = torch.zeros(len(windows), 5, dtype=draw(st.sampled_from([torch.float32, torch.float64])))
    rois[:, 0] = torch.randint(images, (len(windows),), generator=generator)
    if windows:
        rois[:, 1:] = torch.tensor(windows) * stride
        thin = (rois[:, 3:] - rois[:, 1:3]).abs() < 1e-3 * stride  # rounding decides below: make them empty
        rois[:, 3:] = torch.where(thin, rois[:, 1:3], rois[:, 3:])
    labels = torch.randint(depth, (len(windows),), generator=generator)
    return Case(
        lay_out(maps.to(dtype), draw(st.sampled_from(LAYOUTS))), rois, labels, stride, draw(st.integers(1, 8))
    )


@pytest.mark.parametrize("name", ["class_scores", "ps_average"])
@pytest.mark.parametrize("far", [1e12, 1e20, 1e30])
def test_windows_of_any_size(name: str, far: float) -> None:
    """Their corners, in cells, would overflow an integer of 64 bits."""
    shape = (1, 2, 2, *((2,) if name in PAIRED else ()), 3, 4, 5)
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    windows = [(0.0, 0.0, far, 4.0), (-far, -far, far, far), (-far, 1.0, 3.0, far), (far, 0.0, 2 * far, 4.0)]
    rois = torch.tensor([(0.0, *window) for window in windows], dtype=torch.float64)
    case = Case(maps, rois, torch.zeros(4, dtype=torch.int64), 1.0, 3)
    expected = case.run(reference, name)
    for form in (ops, portable):
        torch.testing.assert_close(case.run(form, name), expected)


def gradient(case: Case, form: object, name: str, maps: Tensor) -> tuple[Tensor, Tensor]:
    maps = maps.detach().requires_grad_()
    out = case.run(form, name, maps)
    if not out.requires_grad:  # the reference without a window
        return out, torch.zeros_like(maps)
    upstream = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    (grad,) = torch.autograd.grad(out, maps, upstream)
    return out.detach(), grad


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_forms_equal_the_reference_forward_and_backward(name: str, data: st.DataObject) -> None:
    case = data.draw(cases(name))
    expected, expected_grad = gradient(case, reference, name, case.maps)
    for form in (ops, portable):
        out, grad = gradient(case, form, name, case.maps)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_float32(name: str, data: st.DataObject) -> None:
    case = data.draw(cases(name, torch.float32))
    expected, expected_grad = gradient(case, reference, name, case.maps.double())
    for form in (ops, portable):
        out, grad = gradient(case, form, name, case.maps)
        assert out.dtype == grad.dtype == torch.float32
        torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(grad, expected_grad.float(), rtol=1e-4, atol=1e-4)


def example(name: str, dtype: torch.dtype = torch.float64, windows: int = 5, seed: int = 0) -> Case:
    """One fixed case: two images, three classes, k = 3, maps of 5 x 6 cells at stride 8."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 3, *((2,) if name in PAIRED else ()), 3, 5, 6)
    maps = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    corner = torch.rand(windows, 2, generator=generator) * 40 - 8
    rois = torch.cat(
        [torch.zeros(windows, 1), corner, corner + 4 + torch.rand(windows, 2, generator=generator) * 40], 1
    )
    rois[:, 0] = torch.arange(windows) % 2
    return Case(maps, rois, torch.arange(windows) % 3, 8.0, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_rounded_once_at_the_end(name: str, dtype: torch.dtype) -> None:
    case = example(name, dtype)
    for form in (ops, portable):
        out, grad = gradient(case, form, name, case.maps)
        exact, exact_grad = gradient(case, form, name, case.maps.float())
        assert out.dtype == grad.dtype == dtype
        torch.testing.assert_close(out, exact.to(dtype))
        torch.testing.assert_close(
            grad, exact_grad.to(dtype), rtol=2e-2, atol=2e-2
        )  # the upstream gradient is rounded too


@pytest.mark.parametrize("form", [ops, portable], ids=["fastest", "portable"])
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(form: object, name: str) -> None:
    case = example(name, windows=3)
    maps = case.maps[:, :2, :2, ..., :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: case.run(form, name, values), maps)


@pytest.mark.parametrize("form", [reference, portable, ops], ids=["reference", "portable", "fastest"])
@pytest.mark.parametrize("name", NAMES)
def test_empty_inputs(form: object, name: str) -> None:
    case = example(name, windows=0)
    tail = {"class_scores": (3,), "ps_average": (3,), "mask_logits": (7, 7)}[name]
    assert case.run(form, name).shape == (0, *tail)
    assert case.run(form, name, case.maps[:0]).shape == (0, *tail)  # no image either
    if form is not reference:
        _, grad = gradient(case, form, name, case.maps)
        assert grad.shape == case.maps.shape
        assert not grad.any()


@pytest.mark.parametrize("form", [reference, portable, ops], ids=["reference", "portable", "fastest"])
@pytest.mark.parametrize("name", ["class_scores", "ps_average"])
def test_maps_without_cells_or_channels(form: object, name: str) -> None:
    case = example(name)
    for maps in (case.maps[..., :0, :], case.maps[..., :0]):
        assert not case.run(form, name, maps).any()
    assert case.run(form, name, case.maps[..., :0, :, :]).shape[:2] == (5, 0)


@pytest.mark.parametrize("form", [ops, portable], ids=["fastest", "portable"])
def test_nan_in_either_map_reaches_the_score(form: object) -> None:
    for side in (0, 1):
        case = example("class_scores", torch.float32)
        case.maps[0, :, :, side, 1] = float("nan")
        scores = case.run(form, "class_scores")
        assert scores[0::2, 1].isnan().all()
        assert not scores[:, [0, 2]].isnan().any()


@pytest.mark.parametrize("form", [ops, portable], ids=["fastest", "portable"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_channels_last_and_inputs_are_unchanged(form: object, name: str) -> None:
    case = example(name, torch.float32)
    maps, rois = case.maps.clone(), case.rois.clone()
    _, grad = gradient(case, form, name, case.maps)
    assert torch.equal(case.maps, maps)
    assert torch.equal(case.rois, rois)
    if form is ops and ops.HAS_KERNELS:
        cells_first = (0, grad.dim() - 2, grad.dim() - 1, *range(1, grad.dim() - 2))
        assert grad.permute(cells_first).is_contiguous()
