from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from instancefcn.errors import ConfigError, ExportError
from instancefcn.export import check, describe, export, graph_of, grids, trace
from instancefcn.export.graphs import FCISGraph, InstanceFCNGraph
from instancefcn.inference.predictor import Predictor
from instancefcn.models.checkpoint import Loaded, Preprocessing
from instancefcn.models.fcis import FCIS, Classes, HeadSpec
from instancefcn.models.instance_fcn import InstanceFCN, ProposalSpec
from instancefcn.models.rpn import RegionProposalNetwork
from instancefcn.models.windows import WindowSpec
from instancefcn.ops.voting_step import vote_average
from tiny import tiny_spec

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "onnx_predict.py"
NAMES, IDS = ("cat", "dog", "owl"), (3, 8, 11)


class SmallBackbone(nn.Module):
    """C3, C4 and C5 from four convolutions, so that a graph is traced within seconds."""

    channels = (8, 12, 16)
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, padding=1)
            for a, b, stride in ((3, 8, 4), (8, 8, 2), (8, 12, 2), (12, 16, 1))
        )
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((3, 1, 1), 0.25))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        levels = []
        for conv in self.body:
            images = torch.tanh(conv(images))
            levels.append(images)
        return tuple(levels[1:])


class SmallFeatures(SmallBackbone):
    """Features at stride 8 for InstanceFCN."""

    channels = 8

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(images)[0]


def small_instance_fcn() -> InstanceFCN:
    torch.manual_seed(1)
    features: Any = SmallFeatures()
    network = InstanceFCN(features, ProposalSpec(channels=8, k=3, levels=3, before_nms=150), WindowSpec())
    nn.init.normal_(network.maps.weight, std=1.5)
    nn.init.normal_(network.objectness.weight, std=4.0)
    return network.eval()


def small_fcis(fused: bool = True) -> FCIS:
    """Untrained, but with opinions: heads large enough that scores and masks are far from a draw."""
    torch.manual_seed(3)
    spec = tiny_spec()
    backbone: Any = SmallBackbone()
    network = FCIS(
        backbone,
        RegionProposalNetwork(16, spec.anchors, replace(spec.rpn, before_nms=60, after_nms=20)),
        5,
        HeadSpec(channels=16, k=3, mask_size=11, fused=fused),
        spec.sampling,
        Classes(NAMES, IDS),
    )
    for conv in (network.rpn.logits, network.maps.scores):
        nn.init.normal_(conv.weight, std=0.6)
    return network.eval()


def predictor_of(network: FCIS | InstanceFCN, short: int = 96, long: int = 144) -> Predictor:
    names, ids = network.classes.names, network.classes.ids
    document = {"model": {"name": "tiny"}}
    return Predictor(Loaded(network, names, ids, Preprocessing(short, long), document), "cpu")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_of(small_fcis())


def photograph(height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 [3, H, W]: smooth blobs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 5, 6), generator=generator)
    return (nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte()


# -- steps


def test_suppression_is_padded() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
    rows, there = grids.suppress(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.5, 4)
    assert rows.tolist() == [1, 2, 0, 0]
    assert there.tolist() == [True, True, False, False]
    rows, there = grids.suppress(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.5, 1)
    assert (rows.tolist(), there.tolist()) == ([1], [True])


def test_boxes_of_different_classes_never_overlap() -> None:
    classes = torch.arange(7)
    whole = torch.tensor([[0.0, 0.0, 50.0, 30.0]]).repeat(7, 1)
    moved = grids.apart(whole, classes, 7, (30, 50))
    overlap = torch.ops.torchvision.nms(moved, torch.ones(7), 0.0)
    assert len(overlap) == 7
    assert torch.equal(moved[:, 2:] - moved[:, :2], whole[:, 2:] - whole[:, :2])
    assert float(moved.max()) <= 3 * 51  # seven classes lie on a square of three by three


def test_those_that_are_there_come_first_in_their_order() -> None:
    there = torch.tensor([False, True, False, True, True])
    assert grids.front(there).tolist() == [1, 3, 4, 0, 2]


def test_the_average_is_the_one_of_the_voting_operator() -> None:
    """Grid points that are pixels' centres must read what `vote_average` reads there."""
    torch.manual_seed(0)
    masks = torch.rand(5, 7, 7)
    boxes = torch.tensor(
        [[2.2, 1.1, 17.3, 14.9], [3, 3, 12, 12], [5.5, 0, 20, 19], [0, 0, 9, 9], [8, 8, 30.5, 31]]
    )
    which, weights = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0.5, 0.3, 0.2, 0.6, 0.4])
    areas = torch.tensor([[2, 1, 18, 17], [4, 3, 20, 19]])
    wanted = vote_average(
        masks, boxes, torch.arange(5), weights, torch.tensor([0, 3, 5]), areas, None
    ).reshape(2, 16, 16)
    found = grids.average(masks, boxes, which, weights, areas.float(), 16)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def test_tightening_by_hand() -> None:
    fine = torch.zeros(3, 8, 8)
    fine[0, 2:5, 6:] = 1.0  # rows 2 to 4, columns 6 and 7 of 8
    fine[1, 1, 1], fine[1, 2, 2] = 0.3, 0.6
    areas = torch.tensor([[0.0, 0, 16, 16], [8, 8, 16, 16], [0, 0, 4, 4]])
    boxes, filled = grids.tighten(fine, areas, 0.5)
    assert boxes[0].tolist() == pytest.approx([12, 4, 16, 10])
    # Between 0.3 (at 1.5) and 0.6 (at 2.5) the half is reached at 1.5 + 2/3; between 0.6 and 0 at 2.5 + 1/6.
    low, high = 8 + 1.5 + 2 / 3, 8 + 2.5 + 1 / 6
    assert boxes[1].tolist() == pytest.approx([low, low, high, high], abs=1e-4)
    assert filled.tolist() == [True, True, False]


# -- graphs


def results(graph: nn.Module, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.no_grad():
        boxes, scores, labels, masks = graph(picture[None])
    there = int((scores > 0).sum())
    assert bool((scores[:there] > 0).all())
    assert not scores[there:].any()
    assert not boxes[there:].any()
    assert not masks[there:].any()
    assert not labels[there:].any()
    return boxes[:there], scores[:there], labels[:there], masks[:there]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("size", [(96, 130), (101, 77), (33, 40)])
def test_fcis_as_a_graph_finds_what_the_network_finds(size: tuple[int, int], fused: bool) -> None:
    network = small_fcis(fused)
    picture = photograph(*size)
    boxes, scores, labels, masks = results(FCISGraph(network, 40, 1e-3, 28), picture)
    with torch.no_grad():
        (wanted,) = network([picture.float() / 255], min_score=1e-3, max_instances=40)
    assert len(wanted) > 3
    assert labels.tolist() == wanted.labels.tolist()
    torch.testing.assert_close(scores, wanted.scores, rtol=0, atol=1e-5)
    drawn = check.pasted(boxes, masks, size, 0.4)
    ious = [check.mask_iou(wanted.masks, i, drawn, i) for i in range(len(wanted))]
    assert min(ious) > 0.7
    assert sum(ious) / len(ious) > 0.9
    assert float((boxes - wanted.boxes).abs().median()) < 1.0


@pytest.mark.parametrize("size", [(120, 150), (95, 201)])
def test_instance_fcn_as_a_graph_finds_what_the_network_finds(size: tuple[int, int]) -> None:
    network = small_instance_fcn()
    picture = photograph(*size)
    boxes, scores, labels, masks = results(InstanceFCNGraph(network, 20, 1e-3, 28), picture)
    with torch.no_grad():
        (wanted,) = network([picture.float() / 255], min_score=1e-3, max_instances=20)
    assert len(wanted) >= 5
    assert len(scores) == len(wanted)
    assert not labels.any()
    torch.testing.assert_close(scores, wanted.scores, rtol=0, atol=1e-5)
    drawn = check.pasted(boxes, masks, size, network.spec.mask_threshold)
    ious = [check.mask_iou(wanted.masks, i, drawn, i) for i in range(len(wanted))]
    assert sum(ious) / len(ious) > 0.9


def test_instance_fcn_is_traced_for_one_size() -> None:
    graph = graph_of(predictor_of(small_instance_fcn()), False, 20)
    picture = photograph(96, 144)[None]
    program = trace(graph, torch.zeros_like(picture), False)
    with torch.no_grad():
        wanted, found = graph(picture), program.module()(picture)
    assert int((wanted[1] > 0).sum()) > 5
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_fewer_places_than_objects(predictor: Predictor) -> None:
    picture = photograph(96, 130)
    many = results(graph_of(predictor, True, 40), picture)
    few = results(graph_of(predictor, True, 3), picture)
    assert len(few[1]) == 3
    for ours, all_ in zip(few, many, strict=True):
        torch.testing.assert_close(ours, all_[:3])


def test_a_picture_without_an_object_is_all_padding() -> None:
    network = small_fcis()
    nn.init.zeros_(network.maps.scores.weight)
    with torch.no_grad():
        network.maps.scores.bias.view(3, 3, 2, 4)[:, :, :, 0] = 30.0  # background, everywhere
    assert len(results(FCISGraph(network, 10, 1e-3, 28), photograph(64, 64))[1]) == 0


# -- files


@pytest.fixture(scope="module")
def program(predictor: Predictor) -> torch.export.ExportedProgram:
    """The small FCIS, traced for its one size."""
    example = torch.zeros((1, 3, 96, 144), dtype=torch.uint8)
    return trace(graph_of(predictor, False, 10), example, False)


def test_no_operator_of_our_own_is_left(program: torch.export.ExportedProgram) -> None:
    namespaces = {
        node.target.namespace
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }
    assert namespaces <= {"aten", "torchvision"}


@pytest.fixture(scope="module")
def onnx_file(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dynamic ONNX file of the small FCIS."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'instancefcn[export]'")
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    rows = export(predictor, path, "onnx", dynamic=True, instances=20)
    assert len({row.size for row in rows}) > 5
    assert sum(row.objects for row in rows) > 20
    return path


def test_onnxruntime_gives_the_results_at_another_size(onnx_file: Path, predictor: Predictor) -> None:
    run = check.runner(onnx_file, "onnx")
    graph = graph_of(predictor, True, 20)
    for size in ((97, 131), (60, 45)):
        picture = photograph(*size, seed=2)[None]
        with torch.no_grad():
            wanted = graph(picture)
        found = run(picture)
        assert [value.dtype for value in found] == [value.dtype for value in wanted]
        assert torch.equal(found[2], wanted[2])
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_the_file_says_what_it_is_and_has_standard_operators_only(onnx_file: Path) -> None:
    import onnx

    model = onnx.load(onnx_file)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    (entry,) = [entry for entry in model.metadata_props if entry.key == "instancefcn"]
    document = json.loads(entry.value)
    assert document["class_names"] == list(NAMES)
    assert document["category_ids"] == list(IDS)
    assert document["preprocessing"] == {
        "short_side": 96,
        "long_side": 144,
        "size": None,
        "padding": [128, 128, 128],
    }
    assert document["mask_threshold"] == 0.4


def test_the_example_draws_what_it_found(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    Image.fromarray(photograph(150, 210).permute(1, 2, 0).numpy()).save(photo)
    monkeypatch.setattr(
        sys, "argv", ["onnx_predict.py", str(onnx_file), str(photo), "--out", str(out), "--score", "0.05"]
    )
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert all(line.split()[0] in NAMES for line in lines[:-1])
    assert lines[-1] == f"{len(lines) - 1} objects; drawn in {out}"
    with Image.open(out) as drawn:
        assert drawn.size == (210, 150)


def test_the_example_reads_masks_as_the_package_does() -> None:
    read_mask = runpy.run_path(str(EXAMPLE))["read_mask"]
    torch.manual_seed(0)
    grid, box = torch.rand(28, 28), torch.tensor([[-1.5, 3.2, 40.7, 29.0]])
    wanted = check.pasted(box, grid[None], (30, 50), 0.4).paste(0)
    mask, x, y = read_mask(grid.numpy(), box[0].numpy(), (50, 30), 0.4)
    found = torch.zeros(30, 50, dtype=torch.bool)
    found[y : y + mask.shape[0], x : x + mask.shape[1]] = torch.from_numpy(mask)
    assert torch.equal(found, wanted.bool())


def test_a_torch_program_of_one_size(
    predictor: Predictor,
    program: torch.export.ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import instancefcn.export as module

    monkeypatch.setattr(module, "trace", lambda *words: program)
    rows = export(predictor, tmp_path / "small.pt2", "torch-export", instances=10)
    assert {row.size for row in rows} == {(96, 144)}
    extra = {"instancefcn": ""}
    torch.export.load(tmp_path / "small.pt2", extra_files=extra)
    assert json.loads(extra["instancefcn"])["preprocessing"]["size"] == [96, 144]


# -- what goes wrong


def test_a_file_that_differs_is_not_kept(
    predictor: Predictor,
    program: torch.export.ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import instancefcn.export as module

    path = tmp_path / "small.pt2"
    path.write_text("older")
    graph = graph_of(predictor, False, 10)

    def wrong(path: Path, form: str) -> check.Run:
        assert path.stat().st_size > 0
        return lambda picture: (lambda b, s, label, m: (b, s * 0.9, label, m))(*graph(picture))

    monkeypatch.setattr(module, "trace", lambda *words: program)
    monkeypatch.setattr(check, "runner", wrong)
    with pytest.raises(ExportError, match=r"deer.jpg, 144 x 96 px: scores differ by"), torch.no_grad():
        export(predictor, path, "torch-export", instances=10)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.pt2"]
    assert path.read_text() == "older"


def test_rows_tell_every_kind_of_difference() -> None:
    good = check.Row("a", (4, 5), 3, 0, 1e-6, 0.001, 1e-5, 0.95, 0.1, 0.1)
    assert good.problems() == []
    wrong = replace(good, surplus=1, score=1.0, box=9.0, mask=float("nan"), iou=0.1)
    assert len(wrong.problems()) == 5
    assert all(problem.startswith("a, 5 x 4 px: ") for problem in wrong.problems())


def test_missing_packages_are_named_with_the_command(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import instancefcn.export as module

    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"needs onnxscript, .* pip install 'instancefcn\[export\]'"):
        export(predictor, tmp_path / "a.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_dynamic_instance_fcn_is_refused(tmp_path: Path) -> None:
    network = small_instance_fcn()
    with pytest.raises(ConfigError, match="leave out --dynamic"):
        export(predictor_of(network), tmp_path / "a.pt2", "torch-export", dynamic=True)


def test_at_least_one_object(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 object"):
        export(predictor, tmp_path / "a.pt2", "torch-export", instances=0)


def test_the_description_of_a_fixed_size(predictor: Predictor) -> None:
    document = describe(predictor, graph_of(predictor, False, 5), False)
    assert document["preprocessing"]["size"] == [96, 144]
    assert document["model"] == "tiny"
