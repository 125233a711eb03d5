"""Every line of docs/reproduction.md, on generated data in the published archives' layouts."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from instancefcn.cli.main import app
from instancefcn.data.dataset import rasterize
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.synthetic import write_shapes
from instancefcn.models import zoo
from tiny import tiny_spec

PAGE = Path(__file__).parents[1] / "docs" / "reproduction.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SMALL = (
    "--epochs=1",
    "--set=pretrained=false",
    "--set=accelerator=cpu",
    "--set=devices=1",
    "--set=batch_size=2",
    "--set=workers=0",
    "--set=short_side=64",
    "--set=long_side=96",
    "--set=sheets_every=0",
)


def section(name: str) -> list[str]:
    """The blocks of VOC or of COCO: how to lay the data out, train and evaluate."""
    return [block for block in BLOCKS if name in block]


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tiny network instead of ResNet-101, trained with its settings."""
    for name in ("fcis_resnet101", "fcis_resnet101_voc"):
        real = zoo.SPECS[name]
        assert isinstance(real, zoo.ModelSpec)
        tiny = replace(tiny_spec(), name=name, sampling=real.sampling, training=real.training)
        monkeypatch.setitem(zoo.SPECS, name, tiny)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_sbd(folder: Path) -> None:
    """SBD's and VOC 2012's archives, unpacked; SBD's own lists are not VOC's."""
    from scipy.io import savemat

    dataset = folder / "benchmark_RELEASE" / "dataset"
    (dataset / "inst").mkdir(parents=True)
    (dataset / "img").mkdir()
    shapes = write_shapes(folder / "shapes", train=4, val=1, size=64)
    names = [f"2008_{number:06}" for number in range(4)]
    for name, image in zip(names, open_dataset(shapes, "train").images, strict=True):
        shutil.copy(image.path, dataset / "img" / f"{name}.png")
        index = np.zeros((image.height, image.width), np.uint8)
        for number, mask in enumerate(rasterize(image).dense(), start=1):
            index[mask.numpy().astype(bool)] = number
        kinds = np.array([[a.label + 1] for a in image.annotations], np.uint8)
        record = np.array([[(index, kinds)]], dtype=[("Segmentation", "O"), ("Categories", "O")])
        savemat(dataset / "inst" / f"{name}.mat", {"GTinst": record})
    lists = folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for place, train in ((dataset, (0, 3)), (lists, (1, 3))):
        for split, chosen in (("train", train), ("val", [i for i in range(4) if i not in train])):
            (place / f"{split}.txt").write_text("".join(f"{names[i]}\n" for i in reversed(chosen)))
    with (lists / "train.txt").open("a") as file:
        file.write("2011_000001\n")  # an image that SBD does not have


def write_coco(folder: Path) -> None:
    """COCO's archives of 2017, unpacked."""
    shapes = write_shapes(folder / "shapes", train=4, val=2, size=64)
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.loads((shapes / f"{split}.json").read_text())
        (folder / f"{split}2017").mkdir()
        for image in content["images"]:
            shutil.copy(shapes / "images" / image["file_name"], folder / f"{split}2017")
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def run(command: str, *more: str) -> str:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "instancefcn"
    result = CliRunner().invoke(app, [*words[1:], *more])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "figure"), [("voc", write_sbd, "VOC mAP^r"), ("coco", write_coco, "mask")]
)
def test_every_line_runs(
    name: str, write: object, figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(write)
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    layout, training, evaluation = section(name)
    subprocess.run(["bash", "-euc", layout], check=True, capture_output=True)
    run(training, *SMALL)
    assert figure in run(evaluation)
    assert (tmp_path / "runs" / name / "report" / "metrics.json").is_file()


def test_vocs_lists_say_what_of_sbd_is_which(tmp_path: Path) -> None:
    write_sbd(tmp_path)
    subprocess.run(["bash", "-euc", section("voc")[0]], check=True, capture_output=True, cwd=tmp_path)
    found = {split: open_dataset(tmp_path / "voc_sbd", split) for split in ("train", "val")}
    stems = {split: [p.path.stem for p in dataset.images] for split, dataset in found.items()}
    assert stems == {"train": ["2008_000001", "2008_000003"], "val": ["2008_000000", "2008_000002"]}


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_the_settings_are_the_published_ones(name: str, tmp_path: Path) -> None:
    """REFERENCE: 8 GPUs of one image at 5e-4, added up; 2/3 of the way at the full rate."""
    from instancefcn.cli.train import parse_assignments
    from instancefcn.training.setup import make_config

    words = shlex.split(section(name)[1].replace("\\\n", " "))
    assert words[3] == "--model"
    settings = parse_assignments([words[i + 1] for i, word in enumerate(words) if word == "--set"])
    settings |= {"model": words[4], "epochs": int(words[words.index("--epochs") + 1])}
    config = make_config(tmp_path, False, {"data": "d", "out": "o", **settings})
    assert config.effective_batch == 8
    assert config.scaled_learning_rate == pytest.approx(8 * 5e-4)
    assert (config.schedule, config.milestones) == ("step", (2 / 3,))
    assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (config.ema_decay, config.clip_norm, config.precision) == (0, 0, "32")
    assert config.augment.model_dump() == {"flip": 0.5, "turn": 0, "colour": 0, "crop": 0}
    images = {"voc": 5_623, "coco": 118_287}[name]
    steps = config.epochs * images / 8
    assert steps == pytest.approx({"voc": 30_000, "coco": 240_000}[name], rel=0.02)
    assert config.warmup == {"voc": 0, "coco": 250}[name]


def test_the_networks_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    voc, coco = zoo.spec_of("fcis_resnet101_voc"), zoo.spec_of("fcis_resnet101")
    assert isinstance(voc, zoo.ModelSpec)
    assert isinstance(coco, zoo.ModelSpec)
    assert (len(voc.anchors), len(coco.anchors)) == (9, 12)
    assert (voc.rpn.min_size, coco.rpn.min_size) == (16, 2)
    assert (voc.sampling.method, voc.sampling.background_iou) == ("random", 0.1)
    assert (coco.sampling.method, coco.sampling.rois) == ("ohem", 128)
    for spec in (voc, coco):
        assert (spec.short_side, spec.long_side, spec.backbone) == (600, 1000, "resnet101")
