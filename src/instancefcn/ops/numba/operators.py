"""The operators on a CPU: tensors in, checks of values, Numba kernels, tensors out.

Maps already laid out as `[N, H, W, k, k, (2,) C]` (a view of a channels-last convolution's output) are read
without a copy; gradients are views of that layout. Half precision is computed in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from instancefcn.ops.checks import check_labels, check_rois
from instancefcn.ops.numba import kernels
from instancefcn.ops.numba.threads import threads

_PAIRED = (0, 5, 6, 1, 2, 3, 4)  # [N, k, k, 2, C, H, W] -> [N, H, W, k, k, 2, C]
_PLAIN = (0, 4, 5, 1, 2, 3)  # [N, k, k, D, H, W] -> [N, H, W, k, k, D]


def class_scores(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """See `instancefcn.ops.class_scores`."""
    windows = _windows(rois, maps.shape[0], stride)
    out = torch.empty((rois.shape[0], maps.shape[4]), dtype=_working(maps.dtype))
    with threads(_reach(out, *maps.shape[5:])):
        kernels.class_scores(_channels_last(maps, _PAIRED), windows, out.numpy())
    return out.to(maps.dtype)


def class_scores_backward(grad: Tensor, maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """Gradient of the maps from grad [R, C]."""
    n, k, _, two, channels, height, width = maps.shape
    out = torch.empty((n, height, width, k, k, two, channels), dtype=_working(maps.dtype))
    with threads(out.numel() + _reach(grad, height, width)):
        kernels.class_scores_backward(
            _array(grad), _channels_last(maps, _PAIRED), _windows(rois, n, stride), out.numpy()
        )
    return _logical(out.to(maps.dtype))


def ps_average(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    """See `instancefcn.ops.ps_average`."""
    windows = _windows(rois, maps.shape[0], stride)
    out = torch.empty((rois.shape[0], maps.shape[3]), dtype=_working(maps.dtype))
    with threads(_reach(out, *maps.shape[4:])):
        kernels.ps_average(_channels_last(maps, _PLAIN), windows, out.numpy())
    return out.to(maps.dtype)


def ps_average_backward(
    grad: Tensor, rois: Tensor, stride: float, n: int, k: int, height: int, width: int
) -> Tensor:
    """Gradient of maps [n, k, k, D, height, width] from grad [R, D]."""
    out = torch.empty((n, height, width, k, k, grad.shape[1]), dtype=_working(grad.dtype))
    with threads(out.numel() + _reach(grad, height, width)):
        kernels.ps_average_backward(_array(grad), _windows(rois, n, stride), out.numpy())
    return _logical(out.to(grad.dtype))


def mask_logits(maps: Tensor, rois: Tensor, labels: Tensor, stride: float, size: int) -> Tensor:
    """See `instancefcn.ops.mask_logits`."""
    windows, classes = _windows(rois, maps.shape[0], stride), _labels(labels, maps.shape[4])
    out = torch.empty((rois.shape[0], size, size), dtype=_working(maps.dtype))
    with threads(20 * out.numel()):
        kernels.mask_logits(_channels_last(maps, _PAIRED), windows, classes, out.numpy())
    return out.to(maps.dtype)


def mask_logits_backward(
    grad: Tensor,
    rois: Tensor,
    labels: Tensor,
    stride: float,
    n: int,
    k: int,
    channels: int,
    height: int,
    width: int,
) -> Tensor:
    """Gradient of maps [n, k, k, 2, channels, height, width] from grad [R, size, size]."""
    out = torch.zeros((n, height, width, k, k, 2, channels), dtype=_working(grad.dtype))
    with threads(20 * grad.numel()):
        kernels.mask_logits_backward(
            _array(grad), _windows(rois, n, stride), _labels(labels, channels), out.numpy()
        )
    return _logical(out.to(grad.dtype))


def _working(dtype: torch.dtype) -> torch.dtype:
    """The type of sums: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _reach(scores: Tensor, height: int, width: int) -> int:
    """Operations of an average or its gradient, if every window covered the map."""
    return scores.numel() * height * width


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(_working(tensor.dtype)).contiguous().numpy()


def _channels_last(maps: Tensor, order: tuple[int, ...]) -> np.ndarray:
    return _array(maps.permute(order))


def _logical(grad: Tensor) -> Tensor:
    """[N, H, W, ...] -> the view [N, ..., H, W]."""
    return grad.permute(0, *range(3, grad.dim()), 1, 2)


def _windows(rois: Tensor, images: int, stride: float) -> np.ndarray:
    """RoIs in map cells, float64. Raises ValueError if one is not finite or has a wrong batch index."""
    check_rois(rois, images)
    windows = rois.detach().to(torch.float64, copy=True)
    windows[:, 1:] /= stride
    return windows.contiguous().numpy()


def _labels(labels: Tensor, channels: int) -> np.ndarray:
    check_labels(labels, channels)
    return labels.detach().to(torch.int64).contiguous().numpy()
