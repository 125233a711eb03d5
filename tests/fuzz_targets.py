"""The readers that are fuzzed, each with valid files of its own and what a right result is."""

from __future__ import annotations

import base64
import io
import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fuzzing import (
    Target,
    mutate_bytes,
    mutate_image,
    mutate_json,
    mutate_text,
    mutate_value,
)
from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.formats.coco import parse_coco
from instancefcn.data.formats.index_masks import crops_of, read_index
from instancefcn.data.formats.layouts import read_split
from instancefcn.data.image_checks import inspect_image
from instancefcn.errors import DataError, ImageError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.decoding import read_image, read_image_size
from instancefcn.limits import MAX_PIXELS
from instancefcn.models import checkpoint, zoo
from instancefcn.training.checkpoints import read_run
from instancefcn.training.config import TrainConfig, load_config
from tiny import tiny_proposals, tiny_spec

HEIGHT, WIDTH = 48, 64


def photograph() -> Image.Image:
    """64 x 48, smooth, with grain."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    grain = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH))
    return Image.fromarray(np.stack((x * 3, y * 4, grain + 90), 2).astype(np.uint8))


def objects() -> np.ndarray:
    """uint8 [48, 64]: numbers of three objects, one with a hole."""
    index = np.zeros((HEIGHT, WIDTH), np.uint8)
    index[4:20, 4:24], index[8:12, 8:14], index[24:40, 30:60], index[2:10, 40:50] = 1, 0, 2, 3
    return index


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def images() -> list[bytes]:
    """Every format and mode that is read."""
    rgb = photograph()
    gray, deep = rgb.convert("L"), Image.fromarray(np.asarray(rgb)[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.ROTATE_180)]}
    tiffs = [
        encoded(rgb, "TIFF", compression=c)
        for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    ]
    return [
        encoded(rgb, "PNG"),
        encoded(gray, "PNG"),
        encoded(deep, "PNG"),
        encoded(rgb.convert("RGBA"), "PNG"),
        encoded(rgb.quantize(16), "PNG", transparency=3),
        encoded(gray.convert("1"), "PNG"),
        encoded(rgb, "PNG", exif=exif),
        encoded(rgb, "PNG", **frames),
        encoded(rgb, "JPEG"),
        encoded(rgb, "JPEG", progressive=True, exif=exif),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(gray, "JPEG"),
        encoded(rgb, "GIF", **frames),
        encoded(rgb, "BMP"),
        encoded(rgb.quantize(16), "BMP"),
        encoded(rgb, "WEBP"),
        encoded(rgb.convert("RGBA"), "WEBP", lossless=True, exif=exif),
        encoded(rgb, "WEBP", **frames),
        *tiffs,
        encoded(deep, "TIFF"),
        encoded(gray.convert("F"), "TIFF"),
        encoded(rgb, "TIFF", exif=exif, **frames),
        encoded(rgb, "PPM"),
        encoded(gray, "PPM"),
        encoded(rgb, "MPO", **frames),
    ]


def usable(dataset: Dataset) -> None:
    """What every reader promises of the part of a dataset that it hands on."""
    for image in dataset.images:
        assert 0 < image.height * image.width <= MAX_PIXELS
        for annotation in image.annotations:
            assert 0 <= annotation.label < len(dataset.class_names)
            assert all(map(math.isfinite, (*annotation.box, annotation.area)))
        masks = rasterize(image)
        assert masks.image_size == (image.height, image.width)
        again = CroppedMasks.from_rles(masks.rles(), masks.image_size)
        assert torch.equal(again.areas(), masks.areas())
        # JSON, and so every report, holds these.
        json.dumps([dataset.class_names, dataset.category_ids]).encode()


class Targets:
    """All targets, their files below one folder.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = images()

    def all(self) -> list[Target]:
        return [
            Target("images", self.images, mutate_image, self._image),
            Target("index masks", self._index_masks(), mutate_image, self._index_mask),
            self._coco(),
            self._labelme(),
            *self._yolo(),
            self._voc(),
            *self._sbd(),
            Target("run lengths", self._counts(), mutate_json, self._rle),
            self._checkpoints("checkpoint bytes", mutate_bytes),
            self._checkpoints("checkpoint documents", self._mutate_document),
            self._runs(),
            self._configs(),
            *self._api(),
            *self._videos(),
        ]

    def _file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    # -- images

    def _image(self, data: bytes, _: random.Random) -> None:
        path = self._file("image.jpg", data)
        seen = inspect_image(ImageRecord(1, path, HEIGHT, WIDTH))
        assert (seen.size is None) == (seen.problem is not None and seen.problem.check == "unreadable-image")
        image = read_image(path)
        assert image.dtype == torch.uint8
        assert image.shape == (3, *read_image_size(path))
        assert seen.size is None or seen.size == tuple(image.shape[1:])

    def _index_masks(self) -> list[bytes]:
        index = objects()
        palette = Image.fromarray(index)
        palette.putpalette(list(range(256)) * 3)
        deep = Image.fromarray(index.astype(np.uint16) * 300)
        return [
            encoded(Image.fromarray(index), "PNG"),
            encoded(palette, "PNG"),
            encoded(deep, "PNG"),
            encoded(deep, "TIFF"),
        ]

    def _index_mask(self, data: bytes, _: random.Random) -> None:
        index = read_index(self._file("mask.png", data))
        again = np.zeros_like(index)
        for number, (crop, (x, y)) in crops_of(index).items():
            again[y : y + crop.shape[0], x : x + crop.shape[1]][crop.astype(bool)] = number
        assert np.array_equal(again, index)

    # -- annotations

    def _coco(self) -> Target:
        masks = CroppedMasks.from_dense(torch.from_numpy(np.stack([objects() == n for n in (1, 2, 3)])))
        plain = np.diff(
            np.flatnonzero(np.diff(np.pad((objects() == 2).T.reshape(-1).astype(int), 1))), prepend=0
        )
        runs = [*plain.tolist(), HEIGHT * WIDTH - int(plain.sum())]
        outlines: list[Any] = [*masks.rles(), {"size": [HEIGHT, WIDTH], "counts": runs}]
        outlines += [[[1.5, 2, 20, 3, 15.25, 30]], [[1, 1, 9, 1, 9, 9, 1, 9], [20, 20, 30, 20, 30, 30]]]
        document = {
            "info": {},
            "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
            "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
            "annotations": [
                {
                    "id": i,
                    "image_id": 1,
                    "category_id": (3, 9)[i % 2],
                    "segmentation": outline,
                    "iscrowd": int(i == 2),
                    "bbox": [1, 1, 20, 20],
                    "area": 12.5,
                }
                for i, outline in enumerate(outlines, start=1)
            ],
        }
        photograph_of = self.folder / "coco" / "images" / "a.png"
        photograph_of.parent.mkdir(parents=True, exist_ok=True)
        photograph().save(photograph_of)

        def run(data: bytes, _: random.Random) -> None:
            dataset, problems = parse_coco(self._file("coco/train.json", data), photograph_of.parent)
            usable(dataset)
            if problems:
                raise DataError(problems)

        return Target("COCO", [json.dumps(document).encode()], mutate_json, run)

    def _layout(self, name: str, file: str, photo: str) -> Any:
        """Run the reader of a folder in which only `file` is hostile."""
        root = self.folder / name
        (root / photo).parent.mkdir(parents=True, exist_ok=True)
        photograph().save(root / photo)

        def run(data: bytes, _: random.Random) -> None:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(data)
            dataset, problems = read_split(root, "train")
            usable(dataset)
            if problems:
                raise DataError(problems)

        return run

    def _labelme(self) -> Target:
        mask = Image.fromarray((objects()[4:20, 4:24] == 1).astype(np.uint8))
        shapes: list[dict[str, Any]] = [
            {
                "label": "cat",
                "points": [[1, 1], [20, 2], [9, 30]],
                "group_id": 1,
                "shape_type": "polygon",
                "flags": {},
            },
            {
                "label": "cat",
                "points": [[30, 1], [40, 9]],
                "group_id": 1,
                "shape_type": "rectangle",
                "flags": {"crowd": True},
            },
            {
                "label": "dog",
                "points": [[30, 30], [35, 33]],
                "group_id": None,
                "shape_type": "circle",
                "flags": {},
            },
            {
                "label": "dog",
                "points": [[4, 4], [23, 19]],
                "shape_type": "mask",
                "mask": base64.b64encode(encoded(mask, "PNG")).decode(),
            },
        ]
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": "a.png",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        run = self._layout("labelme", "a.json", "a.png")
        return Target("LabelMe", [json.dumps(document).encode()], mutate_json, run)

    def _yolo(self) -> list[Target]:
        yaml = b"path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\nnc: 2\n"
        labels = b"0 0.1 0.1 0.5 0.1 0.5 0.6\n1 0.2 0.2 0.9 0.25 0.8 0.9 0.3 0.7\n"
        first = self._layout("yolo", "data.yaml", "images/train/a.png")
        self._file("yolo/labels/train/a.txt", labels)
        second = self._layout("yolo-labels", "labels/train/a.txt", "images/train/a.png")
        self._file("yolo-labels/data.yaml", yaml)
        return [
            Target("YOLO's YAML", [yaml], mutate_text, first),
            Target("YOLO's labels", [labels], mutate_text, second),
        ]

    def _voc(self) -> Target:
        run = self._layout("voc", "ImageSets/Segmentation/train.txt", "JPEGImages/a.jpg")
        for kind in ("Object", "Class"):
            (self.folder / f"voc/Segmentation{kind}").mkdir()
            Image.fromarray(objects()).save(self.folder / f"voc/Segmentation{kind}/a.png")
        return Target("VOC's lists", [b"a\na\n"], mutate_text, run, 0.3)

    def _sbd(self) -> list[Target]:
        try:
            from scipy.io import savemat
        except ImportError:
            return []
        seeds = []
        for packed in (False, True):
            stream = io.BytesIO()
            record = {"Segmentation": objects(), "Categories": np.array([[3], [9], [20]], np.uint8)}
            savemat(stream, {"GTinst": record}, do_compression=packed)
            seeds.append(stream.getvalue())
        self._file("sbd/train.txt", b"a\n")
        return [Target("SBD", seeds, mutate_bytes, self._layout("sbd", "inst/a.mat", "img/a.jpg"))]

    def _counts(self) -> list[bytes]:
        masks = CroppedMasks.from_dense(torch.from_numpy(np.stack([objects() == n for n in (1, 2, 3)])))
        return [json.dumps(rle).encode() for rle in masks.rles()] + [
            b'{"size": [48, 64], "counts": [100, 200, 2772]}'
        ]

    def _rle(self, data: bytes, _: random.Random) -> None:
        try:
            rle = json.loads(data)
            if not isinstance(rle, dict) or not isinstance(rle.get("size"), list) or "counts" not in rle:
                raise DataError("no RLE")
            masks = CroppedMasks.from_rles([rle], (HEIGHT, WIDTH))
        except ValueError as error:  # from_rles is documented to raise it
            raise DataError(str(error)) from error
        assert masks.dense().shape == (1, HEIGHT, WIDTH)

    # -- models

    def _checkpoints(self, name: str, mutate: Any) -> Target:
        seeds = []
        for spec in (tiny_spec(), tiny_proposals()):
            network = zoo.build(spec, class_names=("cat", "dog"), category_ids=(3, 9))
            path = self.folder / "seed.safetensors"
            checkpoint.save_checkpoint(path, network.state_dict(), spec, network.classes)
            seeds.append(path.read_bytes())
        return Target(name, seeds, mutate, self._checkpoint, 0.1)

    def _mutate_document(self, rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
        path = self._file("seed.safetensors", data)
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            document = json.loads(file.metadata()[checkpoint.HEADER])
        keys = ["model", "class_names", "category_ids", "preprocessing", "format"]
        changed = mutate_value(rng, {key: document[key] for key in keys})
        document = document | changed if isinstance(changed, dict) else changed
        if rng.random() < 0.2:
            name = rng.choice(sorted(tensors))
            tensors[name] = rng.choice(
                (
                    torch.zeros(0),
                    torch.full_like(tensors[name], math.nan),
                    tensors[name].long(),
                    tensors[name].double(),
                    tensors[name].half() * 60_000,
                    tensors[name][..., :1],
                )
            )
        save_file(
            {k: v.contiguous() for k, v in tensors.items()},
            path,
            metadata={checkpoint.HEADER: json.dumps(document)},
        )
        return path.read_bytes()

    def _checkpoint(self, data: bytes, _: random.Random) -> None:
        from instancefcn.inference.predictor import Predictor

        loaded = checkpoint.load_checkpoint(self._file("best.safetensors", data))
        assert all(bool(tensor.isfinite().all()) for tensor in loaded.network.state_dict().values())
        if max(loaded.preprocessing.short_side, loaded.preprocessing.long_side) > 512:
            return  # slow, not wrong
        image = torch.from_numpy(np.asarray(photograph())).permute(2, 0, 1)
        (found,) = Predictor(loaded, "cpu").run([image], 0.0)
        assert found.image_size == (HEIGHT, WIDTH)
        assert bool(found.boxes.isfinite().all())
        assert all(0 <= label < len(loaded.class_names) for label in found.labels.tolist())

    def _runs(self) -> Target:
        stream = io.BytesIO()
        parts = {key: {} for key in ("model", "average", "optimizer", "scaler", "best", "row")}
        state = {"seen": 7, "step": 3, "rate": 0.1, "network": {"a": torch.ones(3, 4)}}
        torch.save(parts | state, stream)

        def run(data: bytes, _: random.Random) -> None:
            found = read_run(self._file("last.ckpt", data))
            assert isinstance(found["step"], int)

        return Target("last.ckpt", [stream.getvalue()], mutate_bytes, run)

    def _configs(self) -> Target:
        settings = TrainConfig(data="data", out="out").model_dump(mode="json")

        def run(data: bytes, _: random.Random) -> None:
            assert load_config(self._file("config.json", data)).long_side >= 32

        return Target("config.json", [json.dumps(settings).encode()], mutate_json, run)

    # -- the web page's API

    def _api(self) -> list[Target]:
        try:
            from fastapi.testclient import TestClient
        except ImportError:
            return []
        from instancefcn.studio.api import build_api
        from instancefcn.studio.results import Kept
        from served import Served

        served = Served()
        client = TestClient(build_api(served.worker(), served.worker(), Kept()))

        def run(data: bytes, rng: random.Random) -> None:
            query = rng.choice(
                (
                    "",
                    "?score=0.5",
                    "?score=nan",
                    "?score=1e999",
                    "?top=0",
                    "?top=99999999999999999999",
                    "?score=-1",
                    "?top=1",
                    "?score=%00",
                    "?top=1&top=x",
                )
            )
            route = rng.choice(("predict", "propose"))
            answer = client.post(f"/api/{route}{query}", content=data)
            if answer.status_code != 200:
                assert 400 <= answer.status_code < 500, answer.text
                raise ImageError(answer.json()["error"])
            for one in answer.json()["instances"]:
                size = (answer.json()["height"], answer.json()["width"])
                assert int(CroppedMasks.from_rles([one["segmentation"]], size).areas()[0]) == one["area"]

        return [Target("the API", self.images, mutate_image, run)]

    # -- videos

    def _videos(self) -> list[Target]:
        try:
            import av
        except ImportError:
            return []
        from instancefcn.inference.video import Video

        seeds = []
        for suffix, codec in ((".mp4", "libx264"), (".avi", "mpeg4"), (".mkv", "libx264")):
            path = self.folder / f"seed{suffix}"
            with av.open(str(path), "w") as container:
                stream: Any = container.add_stream(codec, rate=5)
                stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
                for _ in range(4):
                    container.mux(
                        stream.encode(av.VideoFrame.from_ndarray(np.asarray(photograph()), format="rgb24"))
                    )
                container.mux(stream.encode(None))
            seeds.append(path.read_bytes())

        def run(data: bytes, _: random.Random) -> None:
            for frame in Video(self._file("video.mp4", data)).frames(most=6):
                if frame.error is not None:
                    raise frame.error
                assert frame.image is not None
                assert frame.image.shape[0] == 3

        return [Target("videos", seeds, mutate_bytes, run, 0.3)]


def clear(folder: Path) -> None:
    """Remove what the targets wrote."""
    shutil.rmtree(folder, ignore_errors=True)
