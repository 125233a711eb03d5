"""The steps of mask voting over pixels: `vote_average` and `extents`.

They exist as plain PyTorch (`portable.py`), Numba kernels (`ops/numba/voting.py`) and Triton kernels
(`ops/triton/voting.py`), with equal results.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from instancefcn.ops.forms import is_portable
from instancefcn.ops.voting import portable as voting_portable


def vote_average(
    masks: Tensor,
    boxes: Tensor,
    index: Tensor,
    weights: Tensor,
    starts: Tensor,
    rects: Tensor,
    threshold: float | None,
    binarize: float | None = None,
) -> Tensor:
    """The weighted average of votes inside crops of the image: `torch.ops.instancefcn.vote_average`.

    Args:
        masks: float32 [P, m, m]: probabilities on a grid over each box.
        boxes: float32 [P, 4]: half-open, in pixels of the image.
        index: int64 [V]: the mask of each vote.
        weights: float32 [V].
        starts: int64 [S + 1]: crop s has the votes starts[s] to starts[s + 1].
        rects: int64 [S, 4]: crops x1, y1, x2, y2 in whole pixels, half-open, x1 <= x2, y1 <= y2.
        threshold: the minimum average of a pixel that is 1; None returns the averages.
        binarize: a threshold for every vote before the average; None averages the probabilities.

    Returns:
        uint8 [sum of the crops' areas], 0 or 1, laid out as `CroppedMasks.pixels`; float32 without
        `threshold`.

    Raises:
        ValueError: shapes or types do not fit together, or (on the CPU) an index or a crop does not exist.
    """
    _check_votes(masks, boxes, index, weights, starts, rects)
    return _vote_average(masks, boxes, index, weights, starts, rects, threshold, binarize)


@custom_op("instancefcn::vote_average", mutates_args=())
def _vote_average(
    masks: Tensor,
    boxes: Tensor,
    index: Tensor,
    weights: Tensor,
    starts: Tensor,
    rects: Tensor,
    threshold: float | None,
    binarize: float | None,
) -> Tensor:
    if is_portable(masks.device):
        return voting_portable.vote_average(masks, boxes, index, weights, starts, rects, threshold, binarize)
    if masks.is_cuda:
        from instancefcn.ops.triton import voting as voting_cuda

        return voting_cuda.vote_average(masks, boxes, index, weights, starts, rects, threshold, binarize)
    from instancefcn.ops.numba import voting as voting_cpu

    return voting_cpu.vote_average(masks, boxes, index, weights, starts, rects, threshold, binarize)


@_vote_average.register_fake
def _(
    masks: Tensor,
    boxes: Tensor,
    index: Tensor,
    weights: Tensor,
    starts: Tensor,
    rects: Tensor,
    threshold: float | None,
    binarize: float | None,
) -> Tensor:
    pixels = torch.library.get_ctx().new_dynamic_size()
    return masks.new_empty((pixels,), dtype=torch.float32 if threshold is None else torch.uint8)


def extents(pixels: Tensor, rects: Tensor) -> Tensor:
    """Boxes around the pixels that are 1 in every crop.

    Args:
        pixels: uint8 [sum of the crops' areas], 0 or 1, laid out as `CroppedMasks.pixels`.
        rects: int64 [S, 4]: crops x1, y1, x2, y2, half-open.

    Returns:
        int64 [S, 4], half-open, in the coordinates of `rects`; zeros for a crop without such a pixel.
    """
    if is_portable(pixels.device):
        return voting_portable.extents(pixels, rects)
    if pixels.is_cuda:
        from instancefcn.ops.triton import voting as voting_cuda

        return voting_cuda.extents(pixels, rects)
    from instancefcn.ops.numba import voting as voting_cpu

    return voting_cpu.extents(pixels, rects)


def _check_votes(
    masks: Tensor, boxes: Tensor, index: Tensor, weights: Tensor, starts: Tensor, rects: Tensor
) -> None:
    if (
        masks.dtype != torch.float32
        or masks.dim() != 3
        or masks.shape[1] != masks.shape[2]
        or masks.shape[1] < 1
    ):
        raise ValueError(f"masks must be float32 [P, m, m], got {masks.dtype} {tuple(masks.shape)}")
    if boxes.dtype != torch.float32 or boxes.shape != (masks.shape[0], 4):
        raise ValueError(
            f"boxes must be float32 [{masks.shape[0]}, 4], got {boxes.dtype} {tuple(boxes.shape)}"
        )
    if index.dtype != torch.int64 or index.dim() != 1:
        raise ValueError(f"index must be int64 [V], got {index.dtype} {tuple(index.shape)}")
    if weights.dtype != torch.float32 or weights.shape != index.shape:
        votes = tuple(index.shape)
        raise ValueError(f"weights must be float32 {votes}, got {weights.dtype} {tuple(weights.shape)}")
    if rects.dtype != torch.int64 or rects.dim() != 2 or rects.shape[1] != 4:
        raise ValueError(f"rects must be int64 [S, 4], got {rects.dtype} {tuple(rects.shape)}")
    if starts.dtype != torch.int64 or starts.shape != (rects.shape[0] + 1,):
        raise ValueError(
            f"starts must be int64 [{rects.shape[0] + 1}], got {starts.dtype} {tuple(starts.shape)}"
        )
