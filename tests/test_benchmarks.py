"""Every benchmark runs: at its smallest, with small networks under the names of the real ones.

What they print is not looked at; that they still fit the library is.
"""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from doc_workspace import DATA, SPECS, write_workspace
from documented import ROOT
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.instances import Instances
from instancefcn.models import backbone, zoo
from instancefcn.training.loop import METRICS
from instancefcn.training.setup import make_config
from tiny_command import SETTINGS

POINT = json.dumps({"windows": 20, "classes": 3, "short side": 96})
EVERY = {
    "ablation.py": "my-data --out out --epochs 1 --short-side 96 --precision 32",
    "accuracy.py": "my-data --out out --minutes 5 --epochs 1 --short-side 96 --time 1",
    "accuracy_plot.py": "shapes=curves --out out/figure.png",
    "busy.py": "--repeats 1 --size 64 96 --batch 1 --load 1",
    "extent.py": "my-data --model runs/first",
    "finetune.py": "my-data --out out --classes circle square --init runs/first --epochs 1 --short-side 96",
    "growth.py": f"--repeats 1 --point '{POINT}'",
    "labelling.py": "my-data --model runs/objects --images 1 --objects 2",
    "micrographs.py": "nuclei --model runs/nuclei --tune-on 1",
    "ops.py": "--repeats 1",
    "outlines.py": "my-data --model runs/first --mask-thresholds 0.4 0.5",
    "parts.py": "my-data --out out --k 3 --epochs 1 --short-side 96",
    "peers.py": "--repeats 1 --size 128 160 --threads 1",
    "propose.py": "my-data --model runs/objects --images 1 --repeats 1",
    "selective_search.py": "my-data --images 1",
    "training_step.py": "--repeats 1 --size 64 96 --batch 1 --threads 1",
    "voting.py": "--repeats 1",
    "wild.py": "my-data --out out --minutes 0.02 --networks fcis mask_rcnn --set init=null",
}
ELSEWHERE = {
    "gpu.py": "compiles for a minute: run it with --smoke after a change",
    "bulk.py": "starts a cluster; tests/bulk runs what it measures",
    "yolo.py": "needs a package whose licence keeps it out of ours",
    "label_page.py": "drives a browser: run it after a change of the page",
}
OWN_PROCESS = {
    "busy.py": "starts processes of its own, and looks at the environment",
    "peers.py": "measures the peak of memory, in which the tests' own would stand",
}
QUICK = ("accuracy_plot.py", "labelling.py", "propose.py")
"""Those that `make test` runs."""
WRITES = EVERY.keys() - {"accuracy_plot.py", "growth.py"}
"""They print figures, and write them with --json."""
NEEDS = {"selective_search.py": "cv2"}
PARTS = {"gpu_kernels", "gpu_networks", "gpu_timing", "mask_rcnn", "memory", "results", "trainings"}
"""Modules that the scripts share."""
SHARED = {*PARTS, "accuracy", "outlines"}
"""With the scripts that others import."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_workspace(folder)
    curve = folder / "curves" / "fcis_seed0" / "curve.json"
    curve.parent.mkdir(parents=True)
    rows = [{"minutes": minutes, "mask": {"AP50": minutes / 10}} for minutes in (1.0, 2.0)]
    curve.write_text(json.dumps({"finished": True, "rows": rows}))
    return folder


def forget_parts() -> None:
    """They hold functions by name that were replaced, or were not, when they were imported."""
    for name in SHARED & sys.modules.keys():
        del sys.modules[name]


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the prepared folder, entered; no downloads; the scripts share no module with other tests."""
    forget_parts()
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        backbone, "published_weights", lambda name: timm.create_model(name, pretrained=False).state_dict()
    )
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    yield folder
    torch.set_num_threads(threads)
    forget_parts()


def test_every_benchmark_is_known() -> None:
    found = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    assert found == EVERY.keys() | ELSEWHERE.keys() | {f"{name}.py" for name in PARTS}


@pytest.mark.parametrize(
    "script", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_a_benchmark_runs(
    script: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if script in NEEDS:
        pytest.importorskip(NEEDS[script])
    words = shlex.split(EVERY[script])
    result = Path("result.json")
    if script in WRITES:
        words += ["--json", str(result)]
    if script in OWN_PROCESS:
        command = [sys.executable, str(ROOT / "benchmarks" / script), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(result.read_text())["command"] == f"python benchmarks/{script} {EVERY[script]}"
        return
    if words[0] in DATA:  # the others measure the real networks
        for name, spec in SPECS.items():
            training = {**SETTINGS, "train_sides": (96,)} if "train_sides" in spec.training else SETTINGS
            monkeypatch.setitem(zoo.SPECS, name, replace(spec, training=training))
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    if script in WRITES:
        assert capsys.readouterr().out.strip()
        command = json.loads(result.read_text())["command"]
        assert command == f"python benchmarks/{script} {EVERY[script]}"


def test_another_run_is_not_taken_for_the_one_that_was_asked_for(tmp_path: Path, workspace: Path) -> None:
    refuse = runpy.run_path(str(ROOT / "benchmarks" / "accuracy.py"))["check_same_settings"]
    place = tmp_path / "asked.json"
    refuse(place, {"rate": 5e-4, "epochs": 3})
    refuse(place, {"rate": 5e-4, "epochs": 3})
    with pytest.raises(SystemExit, match=r"epochs 3 \(now 12\): give another --out"):
        refuse(place, {"rate": 5e-4, "epochs": 12})
    place.unlink()
    (tmp_path / "curve.json").write_text("{}")
    with pytest.raises(SystemExit, match="a run of unknown settings: give another --out"):
        refuse(place, {"rate": 5e-4, "epochs": 3})


def test_a_finished_run_of_other_settings_is_not_read(tmp_path: Path, workspace: Path) -> None:
    trained = runpy.run_path(str(ROOT / "benchmarks" / "trainings.py"))["trained"]
    settings = {"seed": 5, "epochs": 3}
    always = {"short_side": 300, "long_side": 500, "evaluate_every": 0, "sheets_every": 0}
    whole = {"data": "my-data", "out": "out", **always, **settings}
    make_config(tmp_path, False, whole).save(tmp_path / "config.json")
    (tmp_path / METRICS).write_text(json.dumps({"epochs": 3, "final": {"mask": {"AP": 0.5}}}))
    assert trained(Path("my-data"), "fcis_lite", tmp_path, 300, **settings) == {"mask": {"AP": 0.5}}
    with pytest.raises(SystemExit, match=r"seed was 5 and is now 7"):
        trained(Path("my-data"), "fcis_lite", tmp_path, 300, **settings | {"seed": 7})
    with pytest.raises(SystemExit, match=r"a run of 3 epochs \(now 9\): give another --out"):
        trained(Path("my-data"), "fcis_lite", tmp_path, 300, **settings | {"epochs": 9})


def test_a_plot_of_nothing_says_so(workspace: Path, tmp_path: Path) -> None:
    curves = runpy.run_path(str(ROOT / "benchmarks" / "accuracy_plot.py"))["curves"]
    with pytest.raises(SystemExit, match=r"no finished run of accuracy\.py in"):
        curves([tmp_path / "empty"])


def test_labelled_images_are_a_data_set_of_their_own(workspace: Path, tmp_path: Path) -> None:
    labelling = runpy.run_path(str(ROOT / "benchmarks" / "labelling.py"))
    whole = open_dataset(Path("my-data"), "train")
    few = labelling["spread"](whole, 2)
    assert [image.id for image in few.images] == [whole.images[0].id, whole.images[2].id]
    labelling["write_labelled"](few, tmp_path / "few")
    read = open_dataset(tmp_path / "few", "train")
    assert read.class_names == whole.class_names
    assert [image.annotations for image in read.images] == [image.annotations for image in few.images]


def test_an_instance_is_right_once(workspace: Path) -> None:
    labelling = runpy.run_path(str(ROOT / "benchmarks" / "labelling.py"))
    masks = torch.zeros(5, 20, 20, dtype=torch.bool)
    masks[0, :10, :10] = masks[1, 10:, 10:] = True  # the two objects
    masks[2, :10, :8] = True  # IoU 0.8 with the first
    masks[3, :10, :9] = True  # the same again
    masks[4, 10:, 13:] = True  # IoU 0.7 with the second
    found = Instances(
        torch.zeros(4, 4),
        torch.tensor([0.9, 0.8, 0.7, 0.6]),
        torch.tensor([0, 0, 1, 0]),
        CroppedMasks.from_dense(masks[[2, 3, 4, 1]]),
        ("a", "b"),
        (1, 2),
    )
    truth = CroppedMasks.from_dense(masks[:2])
    assert labelling["matches"](truth, [0, 1], found) == 1  # the last has the wrong class
    assert labelling["matches"](truth, [0, 0], found) == 2


def test_the_annotator_points_at_the_middle_and_draws_few_corners(workspace: Path) -> None:
    labelling = runpy.run_path(str(ROOT / "benchmarks" / "labelling.py"))
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:36, 10:41] = True
    assert labelling["innermost"](mask) == (25.5, 20.5)
    assert labelling["vertices"](mask) == 4
