"""The quantised pooling against ChainerCV 0.13.1 (`avg` of its PS RoI pooling), forward.

`tests/golden/pooling.npz` is an excerpt of the whole golden file: case a, and one output channel of case b
(group 7, size 21, the published setting). RoIs are y1, x1, y2, x2 in image pixels at stride 16, channels
ordered (output, row part, column part).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instancefcn.ops.forms import using
from instancefcn.published import reference
from instancefcn.published.pooling import psroi_average_pool

EXCERPT = Path(__file__).parents[1] / "golden" / "pooling.npz"


RAMP = torch.arange(16.0).reshape(1, 1, 1, 1, 4, 4)  # cell (i, j) holds 4 i + j; one part, one channel
PARTS = (
    torch.tensor([[0.0, 1.0], [10.0, 11.0]]).reshape(1, 2, 2, 1, 1, 1).expand(1, 2, 2, 1, 4, 4)
)  # 10 p + q
Form = Callable[..., Tensor]


def portable(*arguments: Any) -> Tensor:
    with using("portable"):
        return psroi_average_pool(*arguments)


@pytest.fixture(params=["reference", "portable", "fastest"])
def form(request: pytest.FixtureRequest) -> Form:
    return {"reference": reference.psroi_average_pool, "portable": portable, "fastest": psroi_average_pool}[
        request.param
    ]


def window(*corners: float) -> Tensor:
    return torch.tensor([[0.0, *corners]])


def compare(form: Form, arrays: np.lib.npyio.NpzFile, case: str) -> None:
    depth, k, size = arrays[f"pool_{case}_meta_outc_group_out"].tolist()
    y1, x1, y2, x2 = torch.from_numpy(arrays[f"pool_{case}_rois_yxyx"]).unbind(1)
    batch = torch.from_numpy(arrays[f"pool_{case}_roi_indices"]).float()
    planes = torch.from_numpy(arrays[f"pool_{case}_x"])
    maps = planes.unflatten(1, (depth, k, k)).permute(0, 2, 3, 1, 4, 5)
    pooled = form(maps, torch.stack([batch, x1, y1, x2, y2], 1), 16.0, size)
    torch.testing.assert_close(pooled, torch.from_numpy(arrays[f"pool_{case}_avg_y"]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("form", [psroi_average_pool, portable], ids=["fastest", "portable"])
def test_excerpt(form: Form, case: str) -> None:
    with np.load(EXCERPT) as arrays:
        compare(form, arrays, case)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_whole_golden_file(shared: Path, case: str) -> None:
    with np.load(shared / "parity" / "golden_ops.npz") as arrays:
        compare(psroi_average_pool, arrays, case)


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (
            (0.5, 0.5, 2.5, 2.5),
            [[2.5, 3.5], [6.5, 7.5]],
        ),  # bins [0.5, 1.5) and [1.5, 2.5) touch cells 0-1 and 1-2
        ((0, 0, 4, 4), [[2.5, 4.5], [10.5, 12.5]]),  # whole edges touch no further cell
        ((1, 1, 1, 1), [[5, 5], [5, 5]]),  # at least 0.1 cell wide
        (
            (2.98, 0, 2.98, 2),
            [[2.5, 3], [6.5, 7]],
        ),  # [2.98, 3.03) and [3.03, 3.08): the 0.1 reach into cell 3
        ((3, 3, 1, 1), [[15, 15], [15, 15]]),  # inverted: also 0.1 cell
        ((-2, 0, 2, 2), [[0, 0.5], [0, 4.5]]),  # an empty bin is 0, a clipped one the mean of what is left
    ],
)
def test_pooling_touches_whole_cells(
    form: Form, corners: tuple[float, ...], expected: list[list[float]]
) -> None:
    pooled = form(RAMP, window(*corners), 1.0, 2)
    torch.testing.assert_close(pooled[0, 0].float(), torch.tensor(expected, dtype=torch.float32))


def test_pooling_cuts_bins_into_parts(form: Form) -> None:
    pooled = form(PARTS, window(0, 0, 4, 4), 1.0, 3)
    # floor(a * 2 / 3) = 0, 0, 1: unlike the mask's points, a bin goes by its start
    assert pooled[0, 0].tolist() == [[0, 0, 1], [0, 0, 1], [10, 10, 11]]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    k=st.integers(1, 7),
    images=st.integers(1, 3),
    size=st.integers(1, 8),
    windows=st.integers(0, 4),
    double=st.booleans(),
)
def test_forms_equal_the_reference(
    seed: int, k: int, images: int, size: int, windows: int, double: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    maps = torch.randn((images, k, k, 2, 5, 6), generator=generator, dtype=dtype)
    batch = torch.randint(images, (windows, 1), generator=generator)
    rois = torch.cat((batch, 16 * (8 * torch.rand((windows, 4), generator=generator) - 1)), 1)
    expected = reference.psroi_average_pool(maps, rois, 16.0, size).to(dtype)
    for form in (psroi_average_pool, portable):
        torch.testing.assert_close(form(maps, rois, 16.0, size), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("far", [1e12, 1e20, 1e30])
def test_windows_of_any_size(far: float) -> None:
    """Their corners, in cells, would overflow an integer of 64 bits."""
    maps = torch.randn((1, 2, 2, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    windows = [(0.0, 0.0, far, 4.0), (-far, -far, far, far), (-far, 1.0, 3.0, far), (far, 0.0, 2 * far, 4.0)]
    rois = torch.tensor([(0.0, *window) for window in windows], dtype=torch.float64)
    expected = reference.psroi_average_pool(maps, rois, 1.0, 3)
    for form in (psroi_average_pool, portable):
        torch.testing.assert_close(form(maps, rois, 1.0, 3), expected)


def test_maps_without_cells_or_channels(form: Form) -> None:
    maps = torch.ones((1, 2, 2, 3, 4, 4))
    for empty in (maps[..., :0, :], maps[..., :0]):
        assert not form(empty, window(0, 0, 4, 4), 1.0, 3).any()
    assert form(maps[:, :, :, :0], window(0, 0, 4, 4), 1.0, 3).shape == (1, 0, 3, 3)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"rois\[0, 0\] is -1.0"):
        psroi_average_pool(RAMP, window(0, 0, 4, 4) - 1, 1.0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        psroi_average_pool(RAMP, window(0, 0, 4, 4), 1.0, 0)
