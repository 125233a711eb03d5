"""From published files to checkpoints: all tensors are converted, files of other networks are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from instancefcn.errors import CheckpointError, ConfigError, OutputError
from instancefcn.models.checkpoint import Loaded
from instancefcn.published import conversion as convert
from instancefcn.published.checkpoint import load_any_checkpoint
from instancefcn.published.conversion import COCO_CLASSES, COCO_IDS
from instancefcn.published.network import CHAINERCV, MXNET, PublishedFCIS
from instancefcn.published.resizing import PublishedPreprocessing
from instancefcn.published.stored_arrays import Stored
from published_files import Arrays, as_official, chainer_arrays, write_params


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return chainer_arrays(20, 9)


@pytest.fixture(scope="module")
def from_chainer(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("chainer")
    np.savez(folder / "in.npz", **arrays)
    done = convert.convert_weights(folder / "in.npz", folder / "out.safetensors")
    assert (done.variant, done.classes, done.anchors) == ("PASCAL VOC", 20, 9)
    assert len(done.unused) == 104
    assert all(name.endswith("/bn/N") for name in done.unused)
    tensors = load_file(folder / "out.safetensors")
    for path in folder.iterdir():
        path.unlink()
    return tensors


@pytest.fixture(scope="module")
def official(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Loaded]:
    """The same network from a file as MXNet writes it, with the second copy of the box layer that training
    leaves there.
    """
    folder = tmp_path_factory.mktemp("official")
    copy = {name: np.zeros(1, "f4") for name in ("arg:fcis_bbox_weight_test", "arg:fcis_bbox_bias_test")}
    write_params(folder / "in.params", as_official(arrays) | copy)
    done = convert.convert_weights(folder / "in.params", folder / "out.safetensors")
    assert (done.variant, done.classes, done.anchors) == ("PASCAL VOC", 20, 9)
    assert done.unused == tuple(sorted(copy))
    tensors, loaded = load_file(folder / "out.safetensors"), load_any_checkpoint(folder / "out.safetensors")
    for path in folder.iterdir():
        path.unlink()
    return tensors, loaded


def test_both_formats_give_the_same_network(
    from_chainer: dict[str, Tensor], official: tuple[dict[str, Tensor], Loaded]
) -> None:
    differing = {name for name, tensor in from_chainer.items() if not torch.equal(tensor, official[0][name])}
    assert official[0].keys() == from_chainer.keys()
    ranking = {"rpn.logits.weight", "rpn.logits.bias"}
    assert differing == ranking | {"backbone.stem.scale", "backbone.stem.shift"}


def test_proposals_are_ranked_as_by_the_origin(
    arrays: Arrays, from_chainer: dict[str, Tensor], official: tuple[dict[str, Tensor], Loaded]
) -> None:
    for ours, theirs in (("weight", "rpn/score/W"), ("bias", "rpn/score/b")):
        values = torch.from_numpy(arrays[theirs].astype("f4"))
        assert torch.equal(from_chainer[f"rpn.logits.{ours}"], values[1::2])
        assert torch.equal(official[0][f"rpn.logits.{ours}"], values[1::2] - values[::2])


def test_maps_are_ordered_by_part(arrays: Arrays, from_chainer: dict[str, Tensor]) -> None:
    scores, boxes = (arrays[f"head/{name}/b"].astype("f4") for name in ("cls_seg", "ag_loc"))
    for row in range(7):
        for column in range(7):
            part = row * 7 + column
            for kind in range(21):
                for side in (0, 1):
                    channel = (part * 2 + side) * 21 + kind
                    assert (
                        float(from_chainer["scores.bias"][channel]) == scores[(kind * 2 + side) * 49 + part]
                    )
            # Theirs is dy, dx, dh, dw of background, then of objects.
            found = from_chainer["deltas.bias"][part * 4 : part * 4 + 4].tolist()
            assert found == [boxes[(4 + coordinate) * 49 + part] for coordinate in (1, 0, 3, 2)]
    weight = torch.from_numpy(arrays["head/cls_seg/W"].astype("f4"))
    kind, side, row, column = 13, 1, 2, 5
    ours = ((row * 7 + column) * 2 + side) * 21 + kind
    assert torch.equal(
        from_chainer["scores.weight"][ours], weight[((kind * 2 + side) * 7 + row) * 7 + column]
    )


def test_box_deltas_of_proposals_are_in_our_order(arrays: Arrays, from_chainer: dict[str, Tensor]) -> None:
    theirs = arrays["rpn/loc/b"].astype("f4").reshape(9, 4)
    assert from_chainer["rpn.deltas.bias"].view(9, 4).tolist() == theirs[:, [1, 0, 3, 2]].tolist()


@pytest.mark.parametrize(
    ("ours", "theirs", "epsilon"),
    [
        ("stem", "conv1", 2e-5),
        ("stages.2.22.conv2", "res4/b22/conv2", 1e-5),
        ("stages.0.0.shortcut", "res2/a/residual_conv", 1e-5),
    ],
)
def test_frozen_normalisation(
    arrays: Arrays, from_chainer: dict[str, Tensor], ours: str, theirs: str, epsilon: float
) -> None:
    gamma, beta, mean, variance = (
        arrays[f"extractor/{theirs}/bn/{name}"].astype("f8")
        for name in ("gamma", "beta", "avg_mean", "avg_var")
    )
    scale = [g / math.sqrt(v + epsilon) for g, v in zip(gamma, variance, strict=True)]
    np.testing.assert_allclose(from_chainer[f"backbone.{ours}.scale"].numpy(), scale, rtol=1e-7)
    shift = beta - mean * scale
    np.testing.assert_allclose(from_chainer[f"backbone.{ours}.shift"].numpy(), shift, rtol=1e-5, atol=1e-8)
    weight = torch.from_numpy(arrays[f"extractor/{theirs}/conv/W"].astype("f4"))
    assert torch.equal(from_chainer[f"backbone.{ours}.weight"], weight)


def test_the_checkpoint_says_what_it_is(official: tuple[dict[str, Tensor], Loaded]) -> None:
    loaded = official[1]
    assert isinstance(loaded.network, PublishedFCIS)
    assert loaded.network.published == MXNET
    assert loaded.network.spec.scales == (8, 16, 32)
    assert loaded.class_names[0], loaded.class_names[-1] == ("aeroplane", "tvmonitor")
    assert loaded.category_ids == tuple(range(1, 21))
    assert loaded.preprocessing == PublishedPreprocessing(600, 1000, "rounded")
    assert loaded.metadata["model"]["name"] == "fcis_resnet101_published"
    provenance = loaded.metadata["training"]
    assert provenance["file"] == "in.params"
    assert len(provenance["sha256"]) == 64


def test_coco_has_eighty_classes_with_gaps_in_their_ids() -> None:
    by_name = dict(zip(COCO_CLASSES, COCO_IDS, strict=True))
    assert len(by_name) == 80
    known = {"person": 1, "stop sign": 13, "bench": 15, "backpack": 27, "dining table": 67, "toothbrush": 90}
    assert {name: by_name[name] for name in known} == known


# -- files of something else
# ---------------------------------------------------------------------------------------------------


def heads(classes: int, anchors: int) -> Arrays:
    """What the data set is recognised by, and nothing else."""
    return {
        "head/cls_seg/W": np.zeros((98 * (classes + 1), 1024, 1, 1), "f2"),
        "head/cls_seg/b": np.zeros(98 * (classes + 1), "f2"),
        "rpn/score/W": np.zeros((2 * anchors, 512, 1, 1), "f2"),
        "rpn/score/b": np.zeros(2 * anchors, "f2"),
    }


@pytest.mark.parametrize(
    ("classes", "anchors", "title"), [(20, 9, "PASCAL VOC"), (80, 12, "COCO")], ids=["voc", "coco"]
)
def test_missing_tensors_are_listed(tmp_path: Path, classes: int, anchors: int, title: str) -> None:
    np.savez_compressed(tmp_path / "in.npz", **heads(classes, anchors))
    with pytest.raises(CheckpointError) as caught:
        convert.convert_weights(tmp_path / "in.npz", tmp_path / "out.safetensors")
    text = str(caught.value)
    assert "rpn/conv1/W" in text
    assert "528" in text  # 5 * 104 + 2 * 6 names in all, of which 4 are there
    assert title in text
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rpn/score/W": np.zeros((18, 256, 1, 1), "f2")},
            r"\(18, 256, 1, 1\).*\(18, 512, 1, 1\)",
        ),
        ({"rpn/score/W": np.zeros((18, 512, 1, 1), "i4")}, "rpn/score/W.*int32"),
        ({"rpn/score/b": np.zeros(24, "f2")}, " 20 .* 12 "),
        ({"head/cls_seg/b": np.zeros(98 * 4, "f2")}, " 3 .* 9 "),
        ({"rpn/score/b": np.zeros((3, 3), "f2")}, " 20 .* 0 "),
    ],
)
def test_other_shapes_and_types_are_refused(tmp_path: Path, change: Arrays, message: str) -> None:
    np.savez_compressed(tmp_path / "in.npz", **(heads(20, 9) | change))
    with pytest.raises(CheckpointError, match=message):
        convert.convert_weights(tmp_path / "in.npz", tmp_path / "out.safetensors")


def test_another_network_is_refused(tmp_path: Path) -> None:
    write_params(tmp_path / "in.params", {"arg:fc1_weight": np.zeros((10, 4), "f4")})
    with pytest.raises(CheckpointError, match=r"fcis_cls_seg.*arg:fc1_weight"):
        convert.convert_weights(tmp_path / "in.params", tmp_path / "out.safetensors")


def test_values_that_are_not_finite_are_refused(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = dict(arrays)
    damaged["rpn/conv1/b"] = arrays["rpn/conv1/b"].copy()
    damaged["rpn/conv1/b"][3] = np.nan
    damaged["extractor/conv1/bn/avg_var"] = -arrays["extractor/conv1/bn/avg_var"]

    def give(values: NDArray[Any]) -> NDArray[Any]:
        return values

    @contextmanager
    def in_memory(path: Path) -> Iterator[dict[str, Stored]]:
        yield {name: Stored(v.shape, v.dtype, partial(give, v)) for name, v in damaged.items()}

    monkeypatch.setattr(convert, "read_npz", in_memory)
    (tmp_path / "in.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError) as caught:
        convert.convert_weights(tmp_path / "in.npz", tmp_path / "out.safetensors")
    assert "extractor/conv1/bn/avg_var" in str(caught.value)
    assert "rpn/conv1/b" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}q\x00.",
        b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"__metadata__":',
        b"PK\x03\x04 and no more",
        b"\x12\x01\x00\x00\x00\x00\x00\x00",
    ],
    ids=["empty", "pickle", "safetensors", "npz", "params"],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in").write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "in"))):
        convert.convert_weights(tmp_path / "in", tmp_path / "out.safetensors")


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.npz"):
        convert.convert_weights(tmp_path / "none.npz", tmp_path / "out.safetensors")
    path = write_params(tmp_path / "in.params", {})
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        convert.convert_weights(path, path)
    with pytest.raises(OutputError, match=re.escape(str(tmp_path))):
        convert.convert_weights(path, tmp_path)


def test_the_two_origins_differ_in_all_fields() -> None:
    ours, theirs = vars(CHAINERCV), vars(MXNET)
    assert [name for name in ours if ours[name] == theirs[name]] == []
