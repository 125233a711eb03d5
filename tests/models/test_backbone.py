"""Features at stride 16, and normalisations folded into convolutions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from instancefcn.errors import CheckpointError, ConfigError
from instancefcn.models import backbone as backbone_module
from instancefcn.models.backbone import (
    Backbone,
    FrozenNormConv2d,
    InPlaceReLU6,
    fold_frozen_norms,
    load_features,
    published_weights,
    read_weights,
)


def unsettle(network: nn.Module) -> None:
    """Give every normalisation statistics, scales and shifts that are nothing special."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.2, 0.2)


def features(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(
        name, features_only=True, output_stride=16, out_indices=(3, 4), pretrained=False
    )
    unsettle(network)
    return network.eval()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=True),
        lambda: nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False),
        lambda: timm.layers.Conv2dSame(4, 6, 3, stride=2, bias=False),
        lambda: nn.Conv2d(4, 4, (1, 5), groups=4),
        lambda: nn.Conv2d(4, 4, 3, stride=(2, 1), groups=4),
        lambda: nn.Conv2d(4, 4, 3, padding=(0, 2), groups=4),
        lambda: nn.Conv2d(4, 4, 3, dilation=(1, 2), groups=4),
    ],
    ids=[
        "strided",
        "dilated with bias",
        "depthwise",
        "TensorFlow's padding",
        "depthwise with a flat kernel",
        "depthwise with two strides",
        "depthwise with two paddings",
        "depthwise with two dilations",
    ],
)
def test_a_folded_convolution_is_convolution_and_norm(make: Callable[[], nn.Conv2d]) -> None:
    torch.manual_seed(0)
    conv = make()
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-2)
    pair = nn.Sequential(conv, norm)
    unsettle(pair)
    pair.eval()
    folded = FrozenNormConv2d(conv, norm)
    x, upstream = torch.randn(2, 4, 8, 10), torch.randn(1)
    results, gradients = [], []
    for module in (pair, folded):
        conv.weight.grad = None
        result = module(x)
        (result.sin().sum() * upstream).backward()
        results.append(result)
        gradients.append(conv.weight.grad)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
    assert [name for name, _ in folded.named_parameters()] == ["weight"]


def test_folding_needs_statistics() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        FrozenNormConv2d(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "resnet10t", "tf_efficientnet_lite0"])
def test_folding_changes_nothing(name: str) -> None:
    network, x = features(name), torch.randn(1, 3, 64, 96)  # as `Backbone` fills them
    with torch.no_grad():
        before = network(x)
        fold_frozen_norms(network)
        after = network(x)
        in_training = network.train()(x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for expected, found, training in zip(before, after, in_training, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)
        assert torch.equal(training, found)


@pytest.mark.parametrize("size", [(17, 17), (48, 64), (49, 65)])
def test_levels_have_strides_8_16_and_16(size: tuple[int, int]) -> None:
    network = Backbone("test_efficientnet").eval()
    c3, c4, c5 = network(torch.zeros(2, 3, *size))
    cells = (-(-size[0] // 16), -(-size[1] // 16))
    assert c3.shape == (2, network.channels[0], -(-size[0] // 8), -(-size[1] // 8))
    assert c4.shape == (2, network.channels[1], *cells)
    assert c5.shape == (2, network.channels[2], *cells)


def test_the_first_modules_are_frozen() -> None:
    network = Backbone("tf_efficientnet_lite0", frozen=("conv_stem", "bn1", "blocks.0", "blocks.1"))
    frozen = {
        name.split(".")[1] if "stem" in name else ".".join(name.split(".")[1:3])
        for name, parameter in network.named_parameters()
        if not parameter.requires_grad
    }
    assert frozen == {"conv_stem", "blocks.0", "blocks.1"}
    resnet = Backbone("resnet10t", frozen=("conv1", "bn1", "layer1"))
    assert {name.split(".")[1] for name, p in resnet.named_parameters() if p.requires_grad} == {
        "layer2",
        "layer3",
        "layer4",
    }


def test_a_frozen_module_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"test_efficientnet.*block\.0, conv1.*conv_stem"):
        Backbone("test_efficientnet", frozen=("conv_stem", "block.0", "conv1"))


@pytest.mark.parametrize(
    "name",
    [
        "no_such_network",
        "convnext_atto",  # four levels
        "densenet121",  # cannot be dilated
        "vgg11_bn",
        "darknet53",  # six levels
    ],
)
def test_a_network_without_the_three_levels_is_refused(name: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=name):
        Backbone(name)


def test_random_residual_branches_are_not_silent() -> None:
    """timm starts them with a scale of 0, which would stay 0 when frozen."""
    network = Backbone("resnet50")
    folded = [module for module in network.modules() if isinstance(module, FrozenNormConv2d)]
    assert len(folded) == 53
    assert all(bool(module.scale.any()) for module in folded)
    with torch.no_grad():
        _, _, c5 = network(torch.randn(1, 3, 64, 64))
    assert 0.01 < float(c5.std()) < 10


def test_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = timm.create_model("test_efficientnet", pretrained=False)
    unsettle(classifier)
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.half() for name, tensor in classifier.state_dict().items()}, path)
    network = Backbone("test_efficientnet", pretrained=path)
    expected = classifier.conv_stem.weight.half().float()
    assert torch.equal(network.body.conv_stem.weight, expected)
    with torch.no_grad():
        stored = read_weights(path)
        classifier.load_state_dict(stored)
        x = torch.randn(1, 3, 64, 64)
        expected = classifier.eval().forward_intermediates(x, indices=(3,), intermediates_only=True)[0]
        torch.testing.assert_close(network.eval()(x)[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("content", [None, b"\x80\x04nonsense"], ids=["missing", "damaged"])
def test_unreadable_weights_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        Backbone("test_efficientnet", pretrained=str(path))


def test_weights_of_another_network_are_refused() -> None:
    body = timm.create_model("test_efficientnet", features_only=True, out_indices=(3, 4), pretrained=False)
    other = timm.create_model("test_resnet", pretrained=False).state_dict()
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        load_features(body, other, "other.pth")
    reshaped: dict[str, Tensor] = body.state_dict()
    reshaped["conv_stem.weight"] = torch.zeros(1, 3, 3, 3)
    with pytest.raises(CheckpointError, match=r"conv_stem\.weight"):
        load_features(body, reshaped, "other.pth")


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError, match=r"resnet50.*no network"):
        published_weights("resnet50")


def test_without_its_package_lite0_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError

    downloaded: list[str] = []

    def create(name: str, *, pretrained: bool) -> nn.Module:
        assert pretrained
        downloaded.append(name)
        return nn.Identity()

    monkeypatch.setattr(backbone_module, "efficientnet_lite0_weights", missing)
    monkeypatch.setattr(timm, "create_model", create)
    assert published_weights("tf_efficientnet_lite0") == {}
    assert downloaded == ["tf_efficientnet_lite0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu6_in_place_has_pytorchs_gradient_and_keeps_no_copy(dtype: torch.dtype) -> None:
    values = torch.tensor([-1.0, -0.0, 0.0, 1e-3, 3.0, 5.99, 6.0, 7.0, float("inf")], dtype=dtype)
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    x = ours * 1  # as a convolution's output: no leaf
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = InPlaceReLU6()(x)
    assert kept == [out.data_ptr()] == [x.data_ptr()]
    expected = nn.ReLU6()(theirs)
    assert torch.equal(out, expected)
    weights = torch.arange(1.0, 10.0, dtype=dtype)
    out.backward(weights)
    expected.backward(weights)
    assert torch.equal(ours.grad, theirs.grad)


def test_activations_of_fcis_lite_keep_no_copy() -> None:
    body = Backbone("tf_efficientnet_lite0").body
    assert any(isinstance(module, InPlaceReLU6) for module in body.modules())
    assert not any(isinstance(module, nn.ReLU6) for module in body.modules())
