"""A folder with small files under the names that the documentation uses: photos/, my-data, runs/first, ..."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from documented import ROOT
from instancefcn.data.conversion import convert
from instancefcn.data.synthetic import write_shapes
from instancefcn.models import zoo
from instancefcn.models.checkpoint import save_checkpoint
from tiny import tiny_proposals, tiny_spec

KINDS = ("images", "masks")
WILD = (
    "boards breadboard cardamage cats embryos facade flakes foodplate mushrooms ore potholes riceleaf wagon"
)
DATA = ("my-data", "animals7", "coco80", "nuclei", "things", *(f"wild/{name}" for name in WILD.split()))
RUNS = {"first": False, "mine": False, "nuclei": False, "objects": True}
"""Runs that pages predict with, and whether they are of an InstanceFCN."""
SPECS: dict[str, zoo.AnySpec] = {
    name: replace(tiny_spec() if name.startswith("fcis") else tiny_proposals(), name=name)
    for name in zoo.SPECS
}
"""Networks of a tenth of a million parameters under the names of the real ones."""


def write_workspace(folder: Path) -> None:
    """Fill an empty folder."""
    _images(folder)
    for name in DATA:
        write_shapes(folder / name, train=4, val=2, size=96)
    for split in ("train", "val"):
        path = folder / "animals7" / f"{split}.json"
        text = path.read_text()
        for shape, animal in zip(("circle", "square", "triangle"), ("bear", "deer", "elephant"), strict=True):
            text = text.replace(f'"{shape}"', f'"{animal}"')
        path.write_text(text)
    _formats(folder)
    for name, proposals in RUNS.items():
        spec = SPECS["instancefcn_lite" if proposals else "fcis_lite"]
        torch.manual_seed(0)
        network = zoo.build(spec, class_names=("circle", "square", "triangle"), category_ids=(3, 7, 11))
        run = folder / "runs" / name / "best.safetensors"
        run.parent.mkdir(parents=True)
        save_checkpoint(run, network.state_dict(), spec, network.classes)
    for name in ("src", "tools", "benchmarks", "examples"):
        (folder / name).symlink_to(ROOT / name)


def _images(folder: Path) -> None:
    for name in ("photos/a.jpg", "photos/b.jpg", "new-photos/c.jpg", "photo.jpg", "a.jpg", "micrograph.tif"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with Image.open(ROOT / "src/instancefcn/assets/demo/turtle.jpg") as image:
            image.resize((640, 560) if path.suffix == ".tif" else (160, 120)).save(path)
    import av

    with av.open(str(folder / "clip.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in (60, 200):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            video.mux(stream.encode(frame))
        video.mux(stream.encode())


def _formats(folder: Path) -> None:
    """my-data once more in every layout that docs/data.md describes."""
    data = folder / "my-data"
    convert(data, folder / "my-yolo", "yolo")
    convert(data, folder / "my-labelme", "labelme")
    convert(data, folder / "VOCdevkit" / "VOC2012", "voc")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        shutil.copy(data / f"{split}.json", folder / "annotations" / f"instances_{split}2017.json")
        shutil.copytree(data / "images", folder / f"{split}2017")
        for number in range(2):
            _masks(folder, split, f"{split}{number}", number + 2 * (split == "val"))
        sbd = folder / "benchmark_RELEASE" / "dataset" / f"{split}.txt"
        sbd.write_text(f"{split}0\n{split}1\n")
    (folder / "coco.yaml").write_text(
        "train: {annotations: annotations/instances_train2017.json, images: train2017}\n"
        "val: {annotations: annotations/instances_val2017.json, images: val2017}\n"
    )


def _masks(folder: Path, split: str, name: str, seed: int) -> None:
    """An image with two squares, elsewhere for each of the seeds 0 to 3: with a mask of numbers, one mask an
    object, and SBD's .mat file.
    """
    from scipy.io import savemat

    sbd, numbers = folder / "benchmark_RELEASE" / "dataset", folder / "my-masks" / split
    single = (
        folder / "stage1_train" / f"{seed:02}{name[::-1]}"
    )  # hashes: names of splits would be taken for such
    for place in (sbd / "img", sbd / "inst", *(at / kind for at in (numbers, single) for kind in KINDS)):
        place.mkdir(parents=True, exist_ok=True)
    objects = np.zeros((96, 96), np.uint8)
    left = 15 * seed
    objects[10:40, 5 + left : 35 + left], objects[55:85, 60 - left : 90 - left] = 1, 2
    pixels = np.random.default_rng(seed).integers(0, 90, (96, 96, 3), np.uint8)
    pixels[objects > 0] += 150
    image = Image.fromarray(pixels)
    for path in (sbd / "img" / f"{name}.jpg", numbers / "images" / f"{name}.png"):
        image.save(path)
    image.save(single / "images" / f"{name}.png")
    Image.fromarray(objects).save(numbers / "masks" / f"{name}.png")
    for number in (1, 2):
        Image.fromarray((objects == number).astype(np.uint8) * 255).save(single / "masks" / f"{number}.png")
    record = {"Segmentation": objects, "Categories": np.ones((2, 1), np.uint8)}
    savemat(sbd / "inst" / f"{name}.mat", {"GTinst": record})
