"""The torch.library operators `instancefcn::*`: CPU, GPU and fake kernels, and the maps' gradients.

Each forward operator has a `..._backward` twin. Both are opaque to `torch.compile`, which takes shapes, types
and strides from the fake kernels. There are no gradients of RoIs and no second derivatives. Numba and Triton
may be missing: `instancefcn.ops` calls these operators only where their kernels exist, and Triton is imported
at the first call on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.library import custom_op


@custom_op("instancefcn::class_scores", mutates_args=(), device_types="cpu")
def class_scores(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    from instancefcn.ops.numba import operators

    return operators.class_scores(maps, rois, stride)


@class_scores.register_fake
def _(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    return maps.new_empty((rois.shape[0], maps.shape[4]))


@custom_op("instancefcn::class_scores_backward", mutates_args=(), device_types="cpu")
def class_scores_backward(grad: Tensor, maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    from instancefcn.ops.numba import operators

    return operators.class_scores_backward(grad, maps, rois, stride)


@class_scores_backward.register_fake
def _(grad: Tensor, maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    n, k, _, two, channels, height, width = maps.shape
    return _like_cells(maps, n, height, width, k, k, two, channels)


def _class_scores_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, ctx.stride = inputs
    ctx.save_for_backward(maps, rois)


def _class_scores_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
    maps, rois = ctx.saved_tensors
    return class_scores_backward(grad, maps, rois, ctx.stride), None, None


class_scores.register_autograd(_class_scores_grad, setup_context=_class_scores_setup)


@custom_op("instancefcn::ps_average", mutates_args=(), device_types="cpu")
def ps_average(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    from instancefcn.ops.numba import operators

    return operators.ps_average(maps, rois, stride)


@ps_average.register_fake
def _(maps: Tensor, rois: Tensor, stride: float) -> Tensor:
    return maps.new_empty((rois.shape[0], maps.shape[3]))


@custom_op("instancefcn::ps_average_backward", mutates_args=(), device_types="cpu")
def ps_average_backward(
    grad: Tensor, rois: Tensor, stride: float, n: int, k: int, height: int, width: int
) -> Tensor:
    from instancefcn.ops.numba import operators

    return operators.ps_average_backward(grad, rois, stride, n, k, height, width)


@ps_average_backward.register_fake
def _(grad: Tensor, rois: Tensor, stride: float, n: int, k: int, height: int, width: int) -> Tensor:
    return _like_cells(grad, n, height, width, k, k, grad.shape[1])


def _ps_average_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, ctx.stride = inputs
    ctx.sizes = (maps.shape[0], maps.shape[1], maps.shape[4], maps.shape[5])  # the maps are not needed
    ctx.save_for_backward(rois)


def _ps_average_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
    (rois,) = ctx.saved_tensors
    return ps_average_backward(grad, rois, ctx.stride, *ctx.sizes), None, None


ps_average.register_autograd(_ps_average_grad, setup_context=_ps_average_setup)


@custom_op("instancefcn::mask_logits", mutates_args=(), device_types="cpu")
def mask_logits(maps: Tensor, rois: Tensor, labels: Tensor, stride: float, size: int) -> Tensor:
    from instancefcn.ops.numba import operators

    return operators.mask_logits(maps, rois, labels, stride, size)


@mask_logits.register_fake
def _(maps: Tensor, rois: Tensor, labels: Tensor, stride: float, size: int) -> Tensor:
    return maps.new_empty((rois.shape[0], size, size))


@custom_op("instancefcn::mask_logits_backward", mutates_args=(), device_types="cpu")
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
    from instancefcn.ops.numba import operators

    return operators.mask_logits_backward(grad, rois, labels, stride, n, k, channels, height, width)


@mask_logits_backward.register_fake
def _(
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
    return _like_cells(grad, n, height, width, k, k, 2, channels)


def _mask_logits_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, rois, labels, ctx.stride, _ = inputs
    ctx.sizes = (maps.shape[0], maps.shape[1], *maps.shape[4:])
    ctx.save_for_backward(rois, labels)


def _mask_logits_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
    rois, labels = ctx.saved_tensors
    return mask_logits_backward(grad, rois, labels, ctx.stride, *ctx.sizes), None, None, None, None


mask_logits.register_autograd(_mask_logits_grad, setup_context=_mask_logits_setup)


def _like_cells(like: Tensor, n: int, height: int, width: int, *inner: int) -> Tensor:
    """An empty gradient [n, *inner, height, width] with the kernels' strides: channels last."""
    return like.new_empty((n, height, width, *inner)).permute(0, *range(3, 3 + len(inner)), 1, 2)


def _on_gpu(name: str) -> Callable[..., Tensor]:
    """The function `name` of `triton/operators.py`, which is imported at the first call."""

    def kernel(*arguments: Any) -> Tensor:
        from instancefcn.ops.triton import operators

        return getattr(operators, name)(*arguments)

    return kernel


class_scores.register_kernel("cuda", _on_gpu("class_scores"))
class_scores_backward.register_kernel("cuda", _on_gpu("class_scores_backward"))
ps_average.register_kernel("cuda", _on_gpu("ps_average"))
ps_average_backward.register_kernel("cuda", _on_gpu("ps_average_backward"))
mask_logits.register_kernel("cuda", _on_gpu("mask_logits"))
mask_logits_backward.register_kernel("cuda", _on_gpu("mask_logits_backward"))
