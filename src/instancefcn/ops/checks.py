"""Checks of the operators' arguments: shapes and types, and on a CPU values."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_rois(rois: Tensor, images: int) -> None:
    """Raises ValueError for RoIs [R, 5] that are not finite or not in a batch of `images` images."""
    finite = rois.detach().isfinite().all(1)
    if not bool(finite.all()):
        raise ValueError(f"rois must be finite, row {int((~finite).nonzero()[0])} is not")
    index = rois.detach()[:, 0]
    wrong = (index < 0) | (index >= images) | (index != index.floor())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"rois[{row}, 0] is {float(index[row])}, expected an integer batch index from 0 to {images - 1}"
        )


def check_labels(labels: Tensor, channels: int) -> None:
    """Raises ValueError for integer labels [R] that are not indices of a class axis of `channels`."""
    classes = labels.long()
    wrong = (classes < 0) | (classes >= channels)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels[{row}] is {int(classes[row])}, expected 0 to {channels - 1} (the maps' class axis)"
        )


def check_paired_maps(maps: Tensor) -> None:
    if maps.dim() != 7 or maps.shape[1] != maps.shape[2] or maps.shape[1] < 1 or maps.shape[3] != 2:
        raise ValueError(
            f"maps must be [N, k, k, 2, C, H, W] with k at least 1, got shape {tuple(maps.shape)}"
        )


def check_plain_maps(maps: Tensor) -> None:
    if maps.dim() != 6 or maps.shape[1] != maps.shape[2] or maps.shape[1] < 1:
        raise ValueError(f"maps must be [N, k, k, D, H, W] with k at least 1, got shape {tuple(maps.shape)}")


def check_windows(maps: Tensor, rois: Tensor, stride: float) -> None:
    if maps.dtype not in _FLOATS:
        raise ValueError(f"maps must be float32, bfloat16, float16 or float64, got {maps.dtype}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be [R, 5] (batch index, x1, y1, x2, y2), got shape {tuple(rois.shape)}")
    if rois.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"rois must be float32 or float64 (half precision cannot hold pixels), got {rois.dtype}"
        )
    if rois.device != maps.device:
        raise ValueError(f"rois must be on the maps' device {maps.device}, not on {rois.device}")
    if not 0 < stride < float("inf"):
        raise ValueError(f"stride must be positive and finite, got {stride}")


def check_label_shape(labels: Tensor, rois: Tensor) -> None:
    if labels.dim() != 1 or labels.shape[0] != rois.shape[0]:
        raise ValueError(f"labels must be [R] = [{rois.shape[0]}], got shape {tuple(labels.shape)}")
    if labels.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.device != rois.device:
        raise ValueError(f"labels must be on the rois' device {rois.device}, not on {labels.device}")


def check_values(maps: Tensor, rois: Tensor, labels: Tensor | None = None) -> None:
    """Check the values for the portable form; the kernels' operators check them themselves.

    Fake tensors (a subclass) have no values, nor have tensors that are compiled or exported.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return
    if rois.device.type != "cpu" or type(rois) is not Tensor:
        return
    check_rois(rois, maps.shape[0])
    if labels is not None:
        check_labels(labels, maps.shape[4])


def check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
