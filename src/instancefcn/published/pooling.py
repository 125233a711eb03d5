"""The quantised pooling of the published networks, instead of the exact operators of `instancefcn.ops`.

On a CPU it is a Numba kernel (`pooling_kernel.py`), on other devices and without Numba plain PyTorch. The
results are equal apart from rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from instancefcn.ops import checks
from instancefcn.ops.forms import is_portable


@torch.no_grad()
def psroi_average_pool(maps: Tensor, rois: Tensor, stride: float, size: int = 21) -> Tensor:
    """Pooling into size x size bins, each the mean of the cells that it touches. Without gradients.

    A window is at least 0.1 cells wide and high (extended to the right and downwards). A bin reaches from the
    floor of its start to the ceil of its end, clipped to the map; an empty bin is 0. Bin a reads part floor(a
    * k / size). Edges are computed in float64.

    Args:
        maps: float32 or float64 [N, k, k, D, H, W].
        rois: [R, 5]: batch index, x1, y1, x2, y2 in image pixels, half-open.
        stride: image pixels per cell.
        size: bins per side.

    Returns:
        [R, D, size, size] in the maps' type.

    Raises:
        ValueError: a shape, type, stride or size does not fit.
    """
    checks.check_plain_maps(maps)
    checks.check_windows(maps, rois, stride)
    checks.check_size(size)
    checks.check_values(maps, rois)
    windows = rois.double()
    windows = torch.cat((windows[:, :1], windows[:, 1:] / stride), 1)
    if maps.device.type != "cpu" or is_portable(maps.device):
        return pooled_portably(maps, windows, size)
    from instancefcn.published.pooling_kernel import pooled

    return pooled(maps, windows, size)


def pooled_portably(maps: Tensor, windows: Tensor, size: int) -> Tensor:
    """`psroi_average_pool` in plain PyTorch, of windows float64 [R, 5] in cells."""
    k, depth, height, width = maps.shape[1], *maps.shape[3:]
    batch, x1, y1, x2, y2 = windows.unbind(1)
    rows = _bin_weights(y1, y2, size, height).to(maps.dtype)
    columns = _bin_weights(x1, x2, size, width).to(maps.dtype)
    out = maps.new_zeros((len(windows), depth, size, size))
    for n in range(len(maps)):
        own = (batch == n).nonzero()[:, 0]
        for p in range(k):
            for q in range(k):
                down, across = _bins_of_part(p, k, size), _bins_of_part(q, k, size)
                part = torch.einsum("dhw,rah,rbw->rdab", maps[n, p, q], rows[own, down], columns[own, across])
                out[own, :, down, across] = part
    return out


def _bin_weights(start: Tensor, end: Tensor, size: int, cells: int) -> Tensor:
    """[R, size, cells]: 1 / n for each of the n cells that a bin touches, 0 elsewhere."""
    step = ((end - start).clamp(min=0.1) / size)[:, None]
    index = torch.arange(size, device=start.device, dtype=start.dtype)
    low = (index * step + start[:, None]).floor().clamp(0, cells)[:, :, None]
    high = ((index + 1) * step + start[:, None]).ceil().clamp(0, cells)[:, :, None]
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)
    inside = ((cell >= low) & (cell < high)).to(start.dtype)
    return inside / (high - low).clamp(min=1)


def _bins_of_part(part: int, k: int, size: int) -> slice:
    """The bins b with b * k // size == part."""
    return slice(-(-part * size // k), -(-(part + 1) * size // k))
