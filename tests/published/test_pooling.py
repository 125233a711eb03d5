"""The quantised pooling against ChainerCV 0.13.1 (`avg` of its PS RoI pooling), forward and gradient.

`tests/golden/pooling.npz` is an excerpt of the whole golden file: case a, and one output channel of case b
(group 7, size 21, the published setting). RoIs are y1, x1, y2, x2 in image pixels at stride 16, channels
ordered (output, row part, column part).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from instancefcn import ops
from instancefcn.ops import portable

EXCERPT = Path(__file__).parents[1] / "golden" / "pooling.npz"


def compare(form: ModuleType, arrays: np.lib.npyio.NpzFile, case: str) -> None:
    depth, k, size = arrays[f"pool_{case}_meta_outc_group_out"].tolist()
    y1, x1, y2, x2 = torch.from_numpy(arrays[f"pool_{case}_rois_yxyx"]).unbind(1)
    batch = torch.from_numpy(arrays[f"pool_{case}_roi_indices"]).float()
    planes = torch.from_numpy(arrays[f"pool_{case}_x"]).requires_grad_()
    maps = planes.unflatten(1, (depth, k, k)).permute(0, 2, 3, 1, 4, 5)

    pooled = form.psroi_average_pool(maps, torch.stack([batch, x1, y1, x2, y2], 1), 16.0, size)
    pooled.backward(torch.from_numpy(arrays[f"pool_{case}_gy"]))

    torch.testing.assert_close(
        pooled.detach(), torch.from_numpy(arrays[f"pool_{case}_avg_y"]), rtol=0, atol=2e-6
    )
    torch.testing.assert_close(
        planes.grad, torch.from_numpy(arrays[f"pool_{case}_avg_gx"]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("form", [ops, portable], ids=["fastest", "portable"])
def test_excerpt(form: ModuleType, case: str) -> None:
    with np.load(EXCERPT) as arrays:
        compare(form, arrays, case)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_whole_golden_file(shared: Path, case: str) -> None:
    with np.load(shared / "parity" / "golden_ops.npz") as arrays:
        compare(ops, arrays, case)
