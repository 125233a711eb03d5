"""Checks of the values that a shape cannot tell, for tensors on a CPU; every form there makes them."""

from __future__ import annotations

from torch import Tensor


def check_rois(rois: Tensor, images: int) -> None:
    """Raises ValueError for RoIs [R, 5] that are not finite, or not of one of `images` images."""
    finite = rois.detach().isfinite().all(1)
    if not bool(finite.all()):
        raise ValueError(f"rois must be finite, row {int((~finite).nonzero()[0])} is not")
    index = rois.detach()[:, 0]
    wrong = (index < 0) | (index >= images) | (index != index.floor())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"rois[{row}, 0] is {float(index[row])}, expected a whole batch index from 0 to {images - 1}"
        )


def check_labels(labels: Tensor, channels: int) -> None:
    """Raises ValueError for labels [R] of integers that are none of `channels` places of the class axis."""
    classes = labels.long()
    wrong = (classes < 0) | (classes >= channels)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels[{row}] is {int(classes[row])}, expected 0 to {channels - 1} (the maps' class axis)"
        )
