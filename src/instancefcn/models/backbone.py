"""timm's networks as feature extractors at stride 16, with frozen batch normalisation folded into the
convolutions.

FCIS never trains batch normalisation: training uses the running statistics, and scale and shift keep their
values from ImageNet (docs/method.md, "Frozen normalisation"). A frozen normalisation is one multiplication
and one addition per channel. It is applied to the filters instead of the features: the same function and
gradients, with one pass over memory less.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from instancefcn.errors import CheckpointError, ConfigError
from instancefcn.models.imagenet_weights import efficientnet_lite0_weights
from instancefcn.ops import depthwise_convolution

STRIDES = (8, 16, 16)
"""Pixels per cell of C3, C4 and C5."""
STRIDE = STRIDES[-1]
COARSEST = 32
"""The largest stride of a network that is not dilated; inputs are padded to multiples of it."""


class FrozenNormConv2d(nn.Module):
    """A convolution followed by a frozen batch normalisation, as one convolution.

    `weight` holds the convolution's own filters (trainable, in their original scale). `scale` and `shift` are
    the normalisation's constants gamma / sqrt(var + eps) and beta - mean * scale.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a normalisation without running statistics cannot be frozen")
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.kernel_size = conv.kernel_size
        self.pads_like_tensorflow = isinstance(conv, Conv2dSame)
        pairs = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        square = all(len(set(pair)) == 1 for pair in pairs)
        self.depthwise = square and conv.groups == conv.in_channels == conv.out_channels > 1
        self.weight = conv.weight
        scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
        bias = 0 if conv.bias is None else conv.bias.detach()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", norm.bias.detach() + (bias - norm.running_mean) * scale)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        padding = self.padding
        assert not isinstance(padding, str)
        if self.pads_like_tensorflow:
            x, padding = self.padded(x), (0, 0)
        filters = self.weight * self.scale[:, None, None, None]
        if self.depthwise and self.weight.requires_grad and torch.is_grad_enabled():
            return depthwise_convolution(x, filters, self.shift, self.stride[0], padding[0], self.dilation[0])
        return F.conv2d(x, filters, self.shift, self.stride, padding, self.dilation, self.groups)

    def padded(self, x: Tensor) -> Tensor:
        """x with zeros around it, as TensorFlow pads sides that are multiples of the stride: of an odd number
        the extra zero comes last. `Backbone` ensures such sides, so a cell's view does not depend on them.
        """
        amounts: list[int] = []
        for axis in (1, 0):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max(0, reach - self.stride[axis])
            amounts += (total // 2, total - total // 2)
        return F.pad(x, amounts)


def fold_frozen_norms(network: nn.Module) -> None:
    """Replace each convolution that a batch normalisation follows by a `FrozenNormConv2d`, in place.

    timm declares the two next to each other. An activation fused with the normalisation replaces it. A
    normalisation elsewhere (after a stem of several convolutions) becomes a frozen one.
    """
    for module in list(network.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, FrozenNormConv2d(conv, norm))
                setattr(module, norm_name, _activation(norm))
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
                frozen.load_state_dict(norm.state_dict())
                setattr(module, name, nn.Sequential(frozen, _activation(norm)))


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    """The activation that timm has fused with a normalisation, or the identity."""
    if not isinstance(norm, BatchNormAct2d):
        return nn.Identity()
    return InPlaceReLU6() if isinstance(norm.act, nn.ReLU6) else norm.act


class InPlaceReLU6(nn.Module):
    """min(max(x, 0), 6) in the memory of x, of which the gradient needs the result alone.

    PyTorch's own in-place form copies x first, for the gradient: half of what a training step holds.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[...] to [...]; x itself is changed."""
        if x.requires_grad and torch.is_grad_enabled():
            return _ReLU6.apply(x)
        return F.hardtanh(x, 0.0, 6.0, inplace=True)


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        F.hardtanh(x, 0.0, 6.0, inplace=True)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        # Between the limits result and x are equal, and at the limits neither has a gradient.
        return torch.ops.aten.hardtanh_backward(grad, result, 0.0, 6.0)


def open_residual_branches(network: nn.Module) -> None:
    """Replace, in place, the zeros with which timm initialises the scales of each residual branch's last
    normalisation.

    Frozen zeros would silence the branches for good. One over the root of the number of branches keeps the
    variance of a deep sum of random branches within a factor of e.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    # Tensors on torch's device "meta" have no values.
    silent = [norm for norm in norms if not norm.weight.is_meta and not bool(norm.weight.any())]
    for norm in silent:
        nn.init.constant_(norm.weight, len(silent) ** -0.5)


class Backbone(nn.Module):
    """Features C3, C4 and C5 of a timm network. C3 has stride 8; C4 and C5 have stride 16, as the last stage
    is dilated instead of strided.

    Attributes:
        channels: of (C3, C4, C5).
        mean, std: the normalisation that the network expects of images in 0..1, [3, 1, 1] (RGB).

    Args:
        name: timm's name of a convolutional network that has five feature levels of strides 2 to 32 and can
            be dilated (timm's `output_stride`).
        frozen: prefixes of the names of modules that are not trained.
        pretrained: True for the published ImageNet weights (see `published_weights`), the path of a
            safetensors file in timm's naming, or False for random weights.

    Raises:
        CheckpointError: the weights cannot be loaded, or belong to another network.
        ConfigError: timm has no such network, or the network has no such levels or no module of a name in
            `frozen`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, frozen: tuple[str, ...] = (), pretrained: bool | Path | str = False
    ) -> None:
        super().__init__()
        self.body = _levels(name)
        if pretrained is False:
            open_residual_branches(self.body)
        elif pretrained is True:
            load_features(self.body, published_weights(name), name)
        else:
            load_features(self.body, read_weights(Path(pretrained)), str(pretrained))
        feature_info: Any = self.body.feature_info
        c3, c4, c5 = feature_info.channels()
        self.channels: tuple[int, int, int] = (c3, c4, c5)
        config = timm.get_pretrained_cfg(name)
        mean, std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        fold_frozen_norms(self.body)
        freeze(self.body, frozen, name)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images [N, 3, H, W] to C3, [N, C, ceil(H / 8), ceil(W / 8)], and C4 and C5, each [N, C,
        ceil(H / 16), ceil(W / 16)].

        Images are padded with zeros to multiples of 32 pixels, on the right and below. The padding of some
        networks' strided convolutions depends on the parity of their input. With even sides at all levels a
        cell sees the same pixels around it whatever the size of the image.
        """
        height, width = images.shape[2:]
        c3, c4, c5 = (
            level[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for level, stride in zip(self.body(pad(images)), STRIDES, strict=True)
        )
        return c3, c4, c5


def pad(images: Tensor) -> Tensor:
    """Images [N, C, H, W] padded with zeros on the right and below, to multiples of `COARSEST`. Computed in
    integers, which `torch.export` can trace for images of any size.
    """
    height, width = images.shape[2:]
    right = (width + COARSEST - 1) // COARSEST * COARSEST - width
    below = (height + COARSEST - 1) // COARSEST * COARSEST - height
    return F.pad(images, (0, right, 0, below))


def _levels(name: str) -> nn.Module:
    """timm's network as an extractor of C3, C4 and C5. Raises ConfigError when their strides cannot be
    `STRIDES`.
    """
    needed = (
        "A backbone is a convolutional network of timm with five feature levels, the last three of which can"
        f" have strides of {', '.join(map(str, STRIDES[:-1]))} and {STRIDES[-1]} pixels by dilation (C3, C4,"
        " C5), such as resnet50 or tf_efficientnet_lite0."
    )
    try:
        body: nn.Module = timm.create_model(
            name, features_only=True, output_stride=STRIDE, out_indices=(2, 3, 4), pretrained=False
        )
    except Exception as error:  # each of timm's networks fails in its own way
        raise ConfigError(f"backbone: timm cannot use {name} for features ({error!r}). {needed}") from error
    feature_info: Any = body.feature_info
    if tuple(feature_info.reduction()) != STRIDES:
        raise ConfigError(f"backbone: the levels of {name} have strides {feature_info.reduction()}. {needed}")
    return body


class AtrousVGG(nn.Module):
    """VGG-16 at stride 8 (InstanceFCN, section 3.1): the 13 convolutions, the fourth pooling without stride,
    the last three convolutions dilated. The fourth pooling covers 3 x 3 cells, so that the map keeps its
    size; the poolings before it round up, as in Caffe.

    Attributes:
        channels: of the features.
        mean, std: the normalisation that the network expects of images in 0..1, [3, 1, 1] (RGB).

    Args:
        frozen, pretrained: as for `Backbone`.

    Raises:
        CheckpointError: the weights cannot be loaded, or belong to another network.
        ConfigError: the network has no module of a name in `frozen`.
    """

    mean: Tensor
    std: Tensor
    channels = 512

    def __init__(self, frozen: tuple[str, ...] = (), pretrained: bool | Path | str = False) -> None:
        super().__init__()
        network = timm.create_model("vgg16", pretrained=False, num_classes=0)
        self.body = nn.Module()
        layers: list[Any] = list(network.get_submodule("features").children())[:30]
        for index in (4, 9, 16):
            layers[index] = nn.MaxPool2d(2, 2, ceil_mode=True)
        layers[23] = nn.MaxPool2d(3, 1, padding=1)
        for index in (24, 26, 28):
            layers[index].dilation = layers[index].padding = (2, 2)
        self.body.add_module("features", nn.Sequential(*layers))
        if pretrained is True:
            load_features(self.body, published_weights("vgg16"), "vgg16")
        elif pretrained is not False:
            load_features(self.body, read_weights(Path(pretrained)), str(pretrained))
        config = timm.get_pretrained_cfg("vgg16")
        assert config is not None
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        freeze(self.body, frozen, "vgg16")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to [N, 512, ceil(H / 8), ceil(W / 8)]."""
        features: Tensor = self.body.get_submodule("features")(images)
        return features


def freeze(body: nn.Module, prefixes: tuple[str, ...], network: str) -> None:
    """Exclude the parameters whose names begin with one of `prefixes` from training.

    Raises:
        ConfigError: no module or parameter of the network (named `network` in the message) has such a name.
    """
    parameters = dict(body.named_parameters())
    # Modules too, as a folded normalisation has no parameters; with the dot of prefixes such as "features.0."
    names = [*parameters, *(f"{name}." for name, _ in body.named_modules())]
    unknown = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
    if unknown:
        known = ", ".join(name for name, _ in body.named_children())
        raise ConfigError(f"frozen: {network} has no module {', '.join(unknown)}; its modules are {known}")
    for name, parameter in parameters.items():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32. Raises CheckpointError when it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path}: this file of backbone weights does not exist")
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except Exception as error:  # safetensors raises its own, undocumented types
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def published_weights(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of timm's network `name`: from an installed package where possible, else
    downloaded by timm.

    Raises:
        CheckpointError: they cannot be downloaded.
    """
    if name == "tf_efficientnet_lite0":
        with contextlib.suppress(ModuleNotFoundError):
            return efficientnet_lite0_weights()
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # network, hub and file errors of several libraries
        raise CheckpointError(
            f"the ImageNet weights of {name} could not be downloaded ({type(error).__name__}: {error}).\n"
            "Connect to the internet once, or pass a local safetensors file in timm's naming with"
            " --set pretrained=FILE, or train from random weights with --set pretrained=false."
        ) from error


def load_features(body: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load a classifier's weights into its feature extractor, without the layers after the features.

    Raises:
        CheckpointError: weights are missing or have other shapes, so they belong to another network. The
            message begins with `origin`.
    """
    own = body.state_dict()
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    wrong = [key for key in own if key in weights and weights[key].shape != own[key].shape]
    if missing or wrong:
        raise CheckpointError(
            f"{origin}: these are weights of another network: {len(missing)} tensors are missing"
            f" (first: {missing[:1]}), {len(wrong)} have another shape (first: {wrong[:1]})"
        )
    body.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)


class ParameterGroup(TypedDict):
    """Parameters that an optimizer treats alike: `lr_scale` multiplies the learning rate, and weight decay
    applies where `decay`.
    """

    params: list[nn.Parameter]
    lr_scale: float
    decay: bool


def parameter_groups(network: nn.Module, rate: Callable[[str], float]) -> list[ParameterGroup]:
    """The trainable parameters of a network, in the order of rate and decay. Biases do not decay.

    Args:
        rate: from the name of a parameter to the multiplier of its learning rate.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rate(name), parameter.dim() > 1), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "decay": decay}
        for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
