"""timm's networks as feature extractors at stride 16, with frozen batch normalisation folded into the
convolutions.

FCIS never trains batch normalisation: running statistics are used in training too, and scale and shift stay
as they were on ImageNet (docs/method.md, "Frozen normalisation"). A frozen normalisation is one
multiplication and one addition a channel, so it is applied to the filters instead of the features: the same
function and the same gradients, without one more pass over memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

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
"""The largest stride of such a network before it is dilated: inputs are filled up to multiples of it."""


class FrozenNormConv2d(nn.Module):
    """A convolution followed by a frozen batch normalisation, as one convolution.

    `weight` is the convolution's own filter bank (trainable, in its original scale); `scale` and `shift` are
    the constants gamma / sqrt(var + eps) and beta - mean * scale of the normalisation.
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
        """x with zeros as TensorFlow adds them to sides that are multiples of the stride: an odd zero stands
        at the end. What a cell sees does not depend on the sides, which `Backbone` sees to.
        """
        amounts: list[int] = []
        for axis in (1, 0):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max(0, reach - self.stride[axis])
            amounts += (total // 2, total - total // 2)
        return F.pad(x, amounts)


def fold_frozen_norms(network: nn.Module) -> None:
    """Replace every convolution that a batch normalisation follows by one `FrozenNormConv2d`, in place.

    timm declares the two next to each other; an activation fused with the normalisation is kept in the
    latter's place. A normalisation that stands elsewhere (behind a stem of several convolutions) is frozen
    where it is.
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
    """The activation that timm has fused with a normalisation, if any."""
    return norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()


def open_residual_branches(network: nn.Module) -> None:
    """Undo, in place, the zero scales with which timm starts the last normalisation of every residual branch.

    Frozen, they would silence the branches for ever. One over the root of the number of branches keeps the
    variance of a deep sum of random branches within a factor of e.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    # Without storage (on torch's device "meta") there is nothing to open.
    silent = [norm for norm in norms if not norm.weight.is_meta and not bool(norm.weight.any())]
    for norm in silent:
        nn.init.constant_(norm.weight, len(silent) ** -0.5)


class Backbone(nn.Module):
    """Features C3, C4 and C5 of a timm network. C3 is at stride 8, the others at 16: the last stage is
    dilated instead of strided.

    Attributes:
        channels: channels of (C3, C4, C5).
        mean, std: what the network expects of pictures in 0..1, per colour (RGB).

    Args:
        name: timm's name of the network: a convolutional one with five feature levels, of strides 2 to 32,
            that can be dilated (timm's `output_stride`).
        frozen: names of the first modules (as timm's prefixes) that are not trained.
        pretrained: True for the published ImageNet weights (see `published_weights`), the path of a
            safetensors file in timm's naming, or False for random weights.

    Raises:
        CheckpointError: the weights cannot be had, or are those of another network.
        ConfigError: timm has no network of this name, or none with such levels; or it has no module of a name
            in `frozen`.
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
        information: Any = self.body.feature_info
        c3, c4, c5 = information.channels()
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

        Zeros fill the images up to multiples of 32 pixels, to the right and below. Some networks pad their
        strided convolutions by the parity of what comes in; filled, every level is even, so a cell looks at
        the same pixels around it whatever the size of the image.
        """
        height, width = images.shape[2:]
        c3, c4, c5 = (
            level[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for level, stride in zip(self.body(fill(images)), STRIDES, strict=True)
        )
        return c3, c4, c5


def fill(images: Tensor) -> Tensor:
    """Images [N, C, H, W] with zeros to the right and below, up to multiples of `COARSEST`. In whole numbers
    throughout, which `torch.export` can follow for images of any size.
    """
    height, width = images.shape[2:]
    right = (width + COARSEST - 1) // COARSEST * COARSEST - width
    below = (height + COARSEST - 1) // COARSEST * COARSEST - height
    return F.pad(images, (0, right, 0, below))


def _levels(name: str) -> nn.Module:
    """timm's network as an extractor of C3, C4 and C5. Raises ConfigError when it has none at STRIDES."""
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
        raise ConfigError(f"backbone: timm makes no features of {name} ({error!r}). {needed}") from error
    information: Any = body.feature_info
    if tuple(information.reduction()) != STRIDES:
        raise ConfigError(f"backbone: the levels of {name} have strides {information.reduction()}. {needed}")
    return body


class AtrousVGG(nn.Module):
    """VGG-16 at stride 8 (InstanceFCN, section 3.1): the 13 convolutions, the fourth pooling without stride,
    the last three convolutions dilated. The fourth pooling covers 3 x 3 cells, so that the map keeps its
    size, and the poolings before it round up, as in Caffe.

    Attributes:
        channels: of the features.
        mean, std: what the network expects of pictures in 0..1, per colour (RGB).

    Args:
        frozen: names of the first modules (as timm's prefixes) that are not trained.
        pretrained: as for `Backbone`.

    Raises:
        CheckpointError: the weights cannot be had, or are those of another network.
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
        for place in (4, 9, 16):
            layers[place] = nn.MaxPool2d(2, 2, ceil_mode=True)
        layers[23] = nn.MaxPool2d(3, 1, padding=1)
        for place in (24, 26, 28):
            layers[place].dilation = layers[place].padding = (2, 2)
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
    """Stop training the parameters whose names begin with one of `prefixes`.

    Raises:
        ConfigError: a prefix is no module's or parameter's (a normalisation that was folded away has no
            parameters left, but its module is there).
    """
    parameters = dict(body.named_parameters())
    # With the dot that a prefix such as "features.0." has.
    names = [*parameters, *(f"{name}." for name, _ in body.named_modules())]
    strange = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
    if strange:
        known = ", ".join(name for name, _ in body.named_children())
        raise ConfigError(f"frozen: {network} has no module {', '.join(strange)}; it begins with: {known}")
    for name, parameter in parameters.items():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32. Raises CheckpointError when it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file of backbone weights")
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except Exception as error:  # safetensors raises its own, undocumented types
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def published_weights(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of the network that timm calls `name`: from their package where there is one, else
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
            "Mend: connect to the network once, or pass a local safetensors file in timm's naming with"
            " --set pretrained=FILE, or train from random weights with --set pretrained=false."
        ) from error


def load_features(body: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load a classifier's weights into its feature extractor; what comes after the features is left out.

    Raises:
        CheckpointError: weights are missing or of other shapes, so they belong to another network.
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


def parameter_groups(network: nn.Module, rate: Callable[[str], float]) -> list[dict[str, Any]]:
    """Trainable parameters as {"params", "lr_scale", "decay"}, in the order of rate and decay.

    Args:
        rate: multiplier of the learning rate of a parameter, by its name. Biases do not decay.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rate(name), parameter.dim() > 1), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "decay": decay}
        for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
