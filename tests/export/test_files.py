"""Written files: their results, their descriptions, and errors."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instancefcn.errors import ConfigError, ExportError, MissingPackageError
from instancefcn.export import check, describe, export, graph_of, trace_graph
from instancefcn.images.decoding import read_image
from instancefcn.inference.predictor import Predictor
from small import IDS, NAMES, photograph, predictor_of, small_instance_fcn

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_predict.py"


@pytest.fixture(scope="module")
def program(predictor: Predictor) -> torch.export.ExportedProgram:
    """The small FCIS, traced for its one size."""
    example = torch.zeros((1, 3, 96, 144), dtype=torch.uint8)
    return trace_graph(graph_of(predictor, False, 10), example, False)


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
        pytest.importorskip(package, reason=f"needs {package}")
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    rows = export(predictor, path, "onnx", dynamic=True, instances=20)
    assert len({row.size for row in rows}) > 5
    assert sum(row.objects for row in rows) > 20
    return path


def test_onnxruntime_gives_the_results_at_another_size(onnx_file: Path, predictor: Predictor) -> None:
    run = check.runner(onnx_file, "onnx")
    graph = graph_of(predictor, True, 20)
    for size in ((97, 131), (60, 45)):
        image = photograph(*size, seed=2)[None]
        with torch.no_grad():
            wanted = graph(image)
        found = run(image)
        assert [value.dtype for value in found] == [value.dtype for value in wanted]
        assert torch.equal(found[2], wanted[2])
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_the_file_has_a_description_and_standard_operators_only(onnx_file: Path) -> None:
    import onnx

    model = onnx.load(onnx_file)
    assert [entry.name for entry in model.graph.input] == ["image"]
    assert [entry.name for entry in model.graph.output] == ["boxes", "scores", "labels", "masks"]
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
    assert str(out) in lines[-1]
    with Image.open(out) as drawn:
        assert drawn.size == (210, 150)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "float32"])
def test_the_example_reads_images_as_the_package_does(tmp_path: Path, kind: str) -> None:
    read_photo = runpy.run_path(str(EXAMPLE))["read_photo"]
    gray = photograph(20, 30)[0].numpy()
    factor = {"uint8": 1, "float32": np.float32(1 / 255)}.get(kind, 257)
    values = gray.astype(kind) * factor
    Image.fromarray(values).save(tmp_path / "photo.tif")
    found = np.asarray(read_photo(str(tmp_path / "photo.tif")))
    assert np.array_equal(found, read_image(tmp_path / "photo.tif").permute(1, 2, 0).numpy())
    assert np.array_equal(found[:, :, 0], gray)


def test_the_example_names_a_file_that_is_not_an_image(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["onnx_predict.py", str(onnx_file), str(onnx_file)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert str(onnx_file) in capsys.readouterr().err


def test_the_example_reads_masks_as_the_package_does() -> None:
    read_mask = runpy.run_path(str(EXAMPLE))["read_mask"]
    torch.manual_seed(0)
    grid, box = torch.rand(28, 28), torch.tensor([[-1.5, 3.2, 40.7, 29.0]])
    wanted = check.pasted(box, grid[None], (30, 50), 0.4).paste(0)
    mask, x, y = read_mask(grid.numpy(), box[0].numpy(), (50, 30), 0.4)
    found = torch.zeros(30, 50, dtype=torch.bool)
    found[y : y + mask.shape[0], x : x + mask.shape[1]] = torch.from_numpy(mask)
    assert torch.equal(found, wanted.bool())


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, reading its own file
def test_a_torch_program_of_one_size(
    predictor: Predictor,
    program: torch.export.ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import instancefcn.export as module

    monkeypatch.setattr(module, "trace_graph", lambda *words: program)
    rows = export(predictor, tmp_path / "small.pt2", "torch-export", instances=10)
    assert {row.size for row in rows} == {(96, 144)}
    extra = {"instancefcn": ""}
    torch.export.load(tmp_path / "small.pt2", extra_files=extra)
    assert json.loads(extra["instancefcn"])["preprocessing"]["size"] == [96, 144]


# -- errors


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
        return lambda image: (lambda b, s, label, m: (b, s * 0.9, label, m))(*graph(image))

    monkeypatch.setattr(module, "trace_graph", lambda *words: program)
    monkeypatch.setattr(check, "runner", wrong)
    with (
        pytest.raises(ExportError, match=r"deer\.jpg, 144 x 96"),
        torch.no_grad(),
    ):
        export(predictor, path, "torch-export", instances=10)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.pt2"]
    assert path.read_text() == "older"


def test_missing_packages_are_named_with_the_command(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import instancefcn.export as module

    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingPackageError, match="pip install onnxscript"):
        export(predictor, tmp_path / "a.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_dynamic_instance_fcn_is_refused(tmp_path: Path) -> None:
    network = small_instance_fcn()
    with pytest.raises(ConfigError, match="--dynamic"):
        export(predictor_of(network), tmp_path / "a.pt2", "torch-export", dynamic=True)


def test_at_least_one_object(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instances"):
        export(predictor, tmp_path / "a.pt2", "torch-export", instances=0)


def test_the_description_of_a_fixed_size(predictor: Predictor) -> None:
    document = describe(predictor, graph_of(predictor, False, 5), False)
    assert document["preprocessing"]["size"] == [96, 144]
    assert document["model"] == "tiny"


@pytest.fixture(scope="module")
def batch_file(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of the small FCIS for any number of images of any size."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}")
    path = tmp_path_factory.mktemp("onnx") / "batch.onnx"
    rows = export(predictor, path, "onnx", dynamic=True, dynamic_batch=True, instances=20)
    compared = [row.image.partition(" (")[2] for row in rows[:8]]
    assert compared == [f"{number} of {count})" for count in (1, 2, 5) for number in range(1, count + 1)]
    assert len({row.size for row in rows[8:]}) > 5
    return path


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_has_the_results_of_its_images_one_by_one(
    batch_file: Path, predictor: Predictor, count: int
) -> None:
    images = torch.stack([photograph(89, 120, seed=seed) for seed in range(count)])
    images[-1] = (255 - images[-1]) // 2
    found = check.runner(batch_file, "onnx")(images)
    graph = graph_of(predictor, True, 20)
    with torch.no_grad():
        wanted = [graph(image[None]) for image in images]
    assert [tuple(value.shape) for value in found] == [
        (count, 20, 4),
        (count, 20),
        (count, 20),
        (count, 20, 28, 28),
    ]
    for number, own in enumerate(wanted):
        assert torch.equal(found[2][number], own[2])
        for ours, theirs in zip(found, own, strict=True):
            torch.testing.assert_close(ours[number], theirs, rtol=0, atol=1e-3)
    if count > 1:
        assert not torch.equal(found[1][0], found[1][1])
    # The network itself, which finds at most as many.
    for number, image in enumerate(images):
        (network,) = predictor.network([image.float() / 255], min_score=0.05, max_instances=20)
        strong = found[1][number] >= 0.05
        torch.testing.assert_close(found[1][number][strong], network.scores, rtol=0, atol=1e-4)
        assert torch.equal(found[2][number][strong], network.labels)


def test_a_batch_file_is_standard_and_described(batch_file: Path) -> None:
    import onnx

    model = onnx.load(batch_file)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Scan"]
    assert [entry.domain for entry in model.opset_import] == [""]
    shapes = {
        entry.name: [side.dim_param or side.dim_value for side in entry.type.tensor_type.shape.dim]
        for entry in (*model.graph.input, *model.graph.output)
    }
    assert shapes["image"] == ["batch", 3, "height", "width"]
    assert shapes["masks"] == ["batch", 20, 28, 28]
    (entry,) = [entry for entry in model.metadata_props if entry.key == "instancefcn"]
    assert json.loads(entry.value)["batch"] is True


def test_a_batch_that_differs_is_not_kept(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that gives all images the results of the first one."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}")
    runner = check.runner

    def confused(path: Path, form: str) -> check.Run:
        run = runner(path, form)
        return lambda images: tuple(result[:1].expand_as(result) for result in run(images))

    monkeypatch.setattr(check, "runner", confused)
    with pytest.raises(ExportError, match=r"\(2 of 2\)"):
        export(predictor, tmp_path / "a.onnx", "onnx", dynamic_batch=True, instances=20)
    assert not list(tmp_path.iterdir())


def test_a_program_takes_no_batch(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="onnx"):
        export(predictor, tmp_path / "a.pt2", "torch-export", dynamic_batch=True)
