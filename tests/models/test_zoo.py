"""Named models, and checkpoints that can be trusted."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import instancefcn
from instancefcn.errors import CheckpointError, ConfigError
from instancefcn.models import checkpoint, zoo
from instancefcn.models.fcis import FCIS
from instancefcn.models.head import Classes
from instancefcn.models.instance_fcn import InstanceFCN
from instancefcn.models.preprocessing import Preprocessing
from tiny import tiny_proposals, tiny_spec

CLASSES = Classes(("cat", "dog"), (17, 90))


@pytest.fixture(scope="module")
def network() -> FCIS:
    torch.manual_seed(0)
    return zoo.build(tiny_spec(), class_names=CLASSES.names, category_ids=CLASSES.ids).eval()


@pytest.fixture(scope="module")
def saved(network: FCIS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    checkpoint.save_checkpoint(
        path, network.state_dict(), tiny_spec(), CLASSES, metrics={"AP": 0.5}, training={"seed": 7}
    )
    return path


# -- building
# ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(name for name in zoo.SPECS if name.startswith("fcis")))
def named(request: pytest.FixtureRequest) -> tuple[zoo.ModelSpec, FCIS]:
    """Every named model, for COCO's 80 classes."""
    return zoo.spec_of(request.param), zoo.build(request.param, 80)


def test_every_named_model_builds(named: tuple[zoo.ModelSpec, FCIS]) -> None:
    spec, net = named
    assert zoo.SPECS[spec.name] is spec
    assert net.maps.scores.out_channels == 2 * 7**2 * 81 == 7938
    assert net.rpn.logits.out_channels == len(spec.anchors)
    assert net.classes.names == tuple(f"class {i}" for i in range(80))
    assert net.classes.ids == tuple(range(1, 81))


def test_only_stem_and_c2_are_frozen(named: tuple[zoo.ModelSpec, FCIS]) -> None:
    spec, net = named
    prefixes = tuple(f"backbone.body.{prefix}" for prefix in spec.frozen)
    frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, _ in net.named_parameters() if name.startswith(prefixes)]
    assert 0 < len(frozen) < len(list(net.parameters())) / 2


def test_maps_at_stride_8_must_be_fused() -> None:
    with pytest.raises(ConfigError, match=r"fcis_fine.* 8 .*fused=false"):
        zoo.build("fcis_fine", 1, fused=False)


@pytest.mark.parametrize("named", ["fcis_resnet101"], indirect=True)
def test_the_papers_network_is_the_papers(named: tuple[zoo.ModelSpec, FCIS]) -> None:
    """57,892,626 parameters were counted in another implementation for COCO (80 classes, 12 anchors)."""
    spec, net = named
    norms = 2 * 52_672  # scales and shifts, constants here
    second_logit = 12 * (512 + 1)  # background's, needless: only the difference counts
    background_boxes = 49 * 4 * (1024 + 1)  # never read
    expected = 57_892_626 - norms - second_logit - background_boxes
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert (spec.short_side, spec.long_side, spec.sampling.method) == (600, 1000, "ohem")


def test_the_ablations_are_options() -> None:
    net = zoo.build(tiny_spec(), 2, k=1, joint=False, sampling="ohem", fused=True, mask_weight=3)
    assert net.head.mask_weight == 3
    assert net.maps.scores.out_channels == 2 * 3
    assert (net.head.k, net.head.joint, net.sampling.method) == (1, False, "ohem")
    assert len(net.maps.reduce.lateral) == 3
    plain = zoo.build(tiny_spec(), 2)
    assert (plain.head, plain.sampling) == (tiny_spec().head, tiny_spec().sampling)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "fcis_resnet102", "num_classes": 2}, "'fcis_resnet102'.*fcis_lite, fcis_resnet101"),
        ({"num_classes": None}, "num_classes"),
        ({"num_classes": 0}, "class"),
        ({"num_classes": 3, "class_names": ["cat"]}, "3.* 1 "),
        ({"class_names": ["cat", "dog"], "category_ids": [1]}, "2.* 1 "),
        ({"num_classes": 2, "sampling": "hard"}, "'hard'"),
        ({"num_classes": 2, "k": 0}, r"k: .*\b0\b"),
        ({"num_classes": 2, "k": 65}, r"k: .*\b65\b"),
        ({"num_classes": 2, "mask_weight": True}, "mask_weight: .*True"),
        ({"name": tiny_proposals(), "joint": True}, "joint"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.build(**{"name": tiny_spec(), **settings})


@pytest.mark.parametrize("name", sorted(zoo.SPECS))
def test_a_specification_survives_json(name: str) -> None:
    document = json.loads(json.dumps(checkpoint.spec_to_json(zoo.SPECS[name])))
    assert checkpoint.spec_from_json(document) == zoo.SPECS[name]


def test_a_changed_specification_is_checked() -> None:
    spec = tiny_spec()
    for change in ({"backbone": "hf-hub:somebody/network"}, {"short_side": 0}, {"frozen": ("a",) * 101}):
        with pytest.raises(ValidationError):
            replace(spec, **change)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        replace(spec.anchors, scales=[1.0])  # a list
    with pytest.raises(FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc]


# -- saving and loading
# -----------------------------------------------------------------------------------------


def test_a_checkpoint_brings_everything_back(network: FCIS, saved: Path) -> None:
    loaded = checkpoint.load_checkpoint(saved)
    assert not loaded.network.training
    expected = network.state_dict()
    found = loaded.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.class_names == loaded.network.classes.names == ("cat", "dog")
    assert loaded.category_ids == loaded.network.classes.ids == (17, 90)
    assert loaded.preprocessing == Preprocessing(128, 192)
    assert loaded.metadata["metrics"] == {"AP": 0.5}
    assert loaded.metadata["training"] == {"seed": 7}
    assert loaded.metadata["versions"]["instancefcn"] == instancefcn.__version__
    spec = tiny_spec()
    assert loaded.network.rpn.anchors == spec.anchors
    assert loaded.network.rpn.spec == spec.rpn
    assert (loaded.network.head, loaded.network.sampling) == (spec.head, spec.sampling)
    image = torch.rand(3, 64, 64)
    before, after = network([image])[0], loaded.network([image])[0]
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.dense_masks(), after.dense_masks())


def test_half_precision_halves_the_filters(network: FCIS, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    checkpoint.save_checkpoint(path, network.state_dict(), tiny_spec(), CLASSES, half=True)
    for name, tensor in load_file(path).items():
        assert tensor.dtype == (torch.float16 if tensor.dim() > 1 else torch.float32), name
    assert path.stat().st_size < 0.6 * saved.stat().st_size
    for name, tensor in checkpoint.load_checkpoint(path).network.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=1e-3, atol=1e-6)
        assert tensor.dtype == torch.float32


def test_changed_settings_are_kept(tmp_path: Path) -> None:
    spec = zoo.with_changes(tiny_spec(), k=1, joint=False, sampling="ohem")
    path = tmp_path / "changed.safetensors"
    checkpoint.save_checkpoint(path, zoo.build(spec, 2).state_dict(), spec, CLASSES)
    net = checkpoint.load_checkpoint(path).network
    assert (net.head.k, net.head.joint, net.sampling.method) == (1, False, "ohem")


def test_a_checkpoint_may_be_read_by_whom_other_files_may(saved: Path) -> None:
    plain = saved.with_name("plain.txt")
    plain.write_text("")
    assert saved.stat().st_mode == plain.stat().st_mode


def test_figures_that_json_cannot_hold_are_refused(network: FCIS, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save_checkpoint(
            tmp_path / "a.safetensors", network.state_dict(), tiny_spec(), CLASSES, metrics={"AP": math.nan}
        )
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_proposals(tmp_path: Path) -> None:
    spec = zoo.with_changes(tiny_proposals(), k=5)
    network = zoo.build(spec)
    path = tmp_path / "proposals.safetensors"
    checkpoint.save_checkpoint(path, network.state_dict(), spec, network.classes, half=True)
    loaded = checkpoint.load_checkpoint(path)
    assert checkpoint.spec_from_json(loaded.metadata["model"]) == spec
    assert isinstance(loaded.network, InstanceFCN)
    assert loaded.network.spec.k == 5
    assert loaded.class_names == ("object",)
    assert loaded.preprocessing == Preprocessing(192, 256)


def test_a_run_folder_means_its_best_checkpoint(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        checkpoint.load_checkpoint(tmp_path)
    shutil.copy(saved, tmp_path / "last.safetensors")
    assert checkpoint.locate(tmp_path).name == "last.safetensors"
    shutil.copy(saved, tmp_path / "best.safetensors")
    assert checkpoint.locate(str(tmp_path)).name == "best.safetensors"
    assert checkpoint.load_checkpoint(tmp_path).class_names == ("cat", "dog")


def test_bundled_models_have_names(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "assets" / "models"
    folder.mkdir(parents=True)
    shutil.copy(saved, folder / "fcis-pets2.safetensors")
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    (folder / checkpoint.SUMS).write_text(f"{digest}  fcis-pets2.safetensors\n")
    (folder / "fcis-pets2.md").touch()
    monkeypatch.setattr(checkpoint, "files", lambda _: tmp_path)
    assert checkpoint.bundled_models() == ["fcis-pets2"]
    assert checkpoint.load_checkpoint("fcis-pets2").class_names == ("cat", "dog")
    with pytest.raises(CheckpointError, match=r"fcis-pets3.*\(fcis-pets2\)"):
        checkpoint.load_checkpoint("fcis-pets3")
    with pytest.raises(CheckpointError, match="fcis_lite"):
        checkpoint.load_checkpoint("fcis_lite")
    damaged = bytearray(saved.read_bytes())
    damaged[-1] ^= 1
    (folder / "fcis-pets2.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=re.escape("fcis-pets2.safetensors")):
        checkpoint.load_checkpoint("fcis-pets2")
    (folder / checkpoint.SUMS).write_text("")
    with pytest.raises(CheckpointError, match=re.escape("fcis-pets2.safetensors")):
        checkpoint.load_checkpoint("fcis-pets2")


@pytest.mark.parametrize("name", checkpoint.bundled_models())
def test_bundled_models_load(name: str) -> None:
    loaded = checkpoint.load_checkpoint(name)
    assert loaded.class_names
    assert all(bool(tensor.isfinite().all()) for tensor in loaded.network.state_dict().values())


# -- what is refused
# --------------------------------------------------------------------------------------------


def rewritten(
    path: Path, to: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]
) -> Path:
    """The checkpoint at `path` with a changed document or changed tensors, at `to`."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()[checkpoint.HEADER])
    change(document, tensors)
    save_file(tensors, to, metadata={checkpoint.HEADER: json.dumps(document)})
    return to


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.load_checkpoint("")
    with pytest.raises(CheckpointError, match=re.escape("nothing.safetensors")):
        checkpoint.load_checkpoint(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("size", [0, 7, 200, -1000])
def test_a_truncated_file(saved: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=re.escape("cut.safetensors")):
        checkpoint.load_checkpoint(path)


class Exploit:
    """What a pickle may do when it is loaded without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize(
    "write", [lambda o, p: p.write_bytes(pickle.dumps(o)), torch.save], ids=["pickle", "torch.save"]
)
def test_a_pickle_in_disguise_is_never_run(tmp_path: Path, write: Callable[[object, Path], object]) -> None:
    marker, path = tmp_path / "executed", tmp_path / "best.safetensors"
    write({"state": Exploit(marker)}, path)
    for source in (path, tmp_path):
        with pytest.raises(CheckpointError, match=re.escape("best.safetensors")):
            checkpoint.load_checkpoint(source)
    assert not marker.exists()


def test_someone_elses_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=re.escape("foreign.safetensors")):
        checkpoint.load_checkpoint(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={checkpoint.HEADER: "{broken"})
    with pytest.raises(CheckpointError, match=re.escape("foreign.safetensors")):
        checkpoint.load_checkpoint(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={checkpoint.HEADER: "[]"})
    with pytest.raises(CheckpointError, match="None"):
        checkpoint.load_checkpoint(path)


def test_a_newer_format(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "new.safetensors", lambda document, _: document.update(format=3))
    with pytest.raises(CheckpointError, match=r"new\.safetensors.* 3, .* 2"):
        checkpoint.load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: t.pop("maps.scores.bias"), r"\['maps.scores.bias'\]"),
        (lambda d, t: t.update(surplus=torch.zeros(1)), r"\['surplus'\]"),
        (
            lambda d, t: d["class_names"].append("bird") or d["category_ids"].append(91),
            r"\['maps.scores.bias'",
        ),
        (lambda d, t: t.update({"rpn.logits.bias": torch.zeros(5)}), r"\['rpn.logits.bias'\]"),
    ],
    ids=["missing", "unknown", "more classes", "another shape"],
)
def test_tensors_that_do_not_fit(saved: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_checkpoint(rewritten(saved, tmp_path / "wrong.safetensors", change))


def test_tensors_that_are_no_finite_numbers(saved: Path, tmp_path: Path) -> None:
    """They would give boxes that are not finite, wherever the model is used."""
    for name, tensor, message in (
        ("rpn.logits.bias", torch.full((6,), math.nan), "rpn.logits.bias"),
        ("rpn.logits.bias", torch.zeros(6, dtype=torch.int32), "rpn.logits.bias .*torch.int32"),
    ):
        path = rewritten(saved, tmp_path / "nan.safetensors", lambda d, t, n=name, v=tensor: t.update({n: v}))
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load_checkpoint(path)


def test_a_model_larger_than_its_file_is_never_made(saved: Path, tmp_path: Path) -> None:
    """65,536 channels would take gigabytes; the file's tensors are compared with shapes alone."""
    resource = pytest.importorskip("resource", reason="memory is measured where getrusage is")
    path = rewritten(
        saved, tmp_path / "a.safetensors", lambda d, t: d["model"]["head"].update(channels=65_536)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"maps\.deltas\.weight"):
        checkpoint.load_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    "change",
    [
        lambda d, t: d.pop("model"),
        lambda d, t: d.update(model=[]),
        lambda d, t: d["model"].pop("anchors"),
        lambda d, t: d["model"].update(head=[1]),
        lambda d, t: d["model"]["head"].update(colour="red"),
        lambda d, t: d["model"].update(colour="red"),
        lambda d, t: d["model"]["head"].update(k="seven"),
        lambda d, t: d["model"].update(backbone="no_such_network"),
        lambda d, t: d["preprocessing"].pop("short_side"),
        lambda d, t: d.update(class_names=3),
        lambda d, t: d.update(class_names=[]),
        lambda d, t: d.update(class_names="ab"),
        lambda d, t: d.update(class_names=["\x1b[2J", "dog"]),
        lambda d, t: d.update(class_names=["cat", 7]),
        lambda d, t: d.update(category_ids=[1, 1]),
        lambda d, t: d.update(category_ids=[1, 2.5]),
        lambda d, t: d["model"].update(backbone="hf-hub:somebody/network"),
        lambda d, t: d["model"].update(backbone="local-dir:/tmp"),
        lambda d, t: d["model"]["head"].update(k=10**6),
        lambda d, t: d["model"]["head"].update(k=True),
        lambda d, t: d["model"]["head"].update(passes=3),
        lambda d, t: d["model"]["head"].update(extent="everything"),
        lambda d, t: d["model"]["rpn"].update(nms_iou=True),
        lambda d, t: d["model"].update(frozen=["a"] * 101),
        lambda d, t: d["model"]["head"].update(channels=10**9),
        lambda d, t: d["model"]["head"].update(mask_size=10**6),
        lambda d, t: d["model"]["anchors"].update(scales=[]),
        lambda d, t: d["model"]["anchors"].update(scales=[math.nan, 3.0]),
        lambda d, t: d["model"]["anchors"].update(stride=0),
        lambda d, t: d["model"].update(rpn_level=9),
        lambda d, t: d["preprocessing"].update(short_side=10**9, long_side=10**9),
        lambda d, t: d["preprocessing"].update(short_side=-1),
        lambda d, t: d["preprocessing"].update(rule="nearest"),
        lambda d, t: d["preprocessing"].update(rule=["smooth"]),
        lambda d, t: d.update(category_ids=[1]),
    ],
)
def test_a_damaged_description(saved: Path, tmp_path: Path, change: Any) -> None:
    path = rewritten(saved, tmp_path / "damaged.safetensors", change)
    with pytest.raises(CheckpointError, match=re.escape("damaged.safetensors")):
        checkpoint.load_checkpoint(path)


def test_what_is_wrong_with_a_description_is_named(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "a.safetensors", lambda d, t: d["model"]["head"].update(k=10**6))
    with pytest.raises(CheckpointError, match=r"a\.safetensors.*head\.k.*1000000"):
        checkpoint.load_checkpoint(path)


def test_an_older_description_without_newer_fields_has_their_defaults(saved: Path, tmp_path: Path) -> None:
    def shorten(document: dict[str, Any], _: object) -> None:
        for field in ("mask_threshold", "passes", "voting", "instances"):
            del document["model"]["head"][field]
        del document["preprocessing"]["rule"]

    loaded = checkpoint.load_checkpoint(rewritten(saved, tmp_path / "old.safetensors", shorten))
    assert loaded.network.head == tiny_spec().head
    assert loaded.preprocessing == Preprocessing(128, 192)


@pytest.mark.parametrize(("level", "stride"), [(1, 16), (2, 16), (3, 16), (0, 8), (4, 8), (6, 16)])
def test_anchors_have_the_stride_of_their_level(level: int, stride: int) -> None:
    """With another stride the anchors would not be centred on the cells."""
    anchors = replace(zoo.FCIS_LITE.anchors, stride=stride)
    with pytest.raises(ValidationError, match="rpn_level"):
        replace(zoo.FCIS_LITE, rpn_level=level, anchors=anchors)
