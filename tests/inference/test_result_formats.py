"""The formats that other tools read, read back."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from fakes import IDS, NAMES, coloured
from instancefcn.errors import ConfigError, OutputError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.inference.request import KINDS
from instancefcn.inference.result_formats import (
    CutOuts,
    LabelMap,
    LabelMe,
    ResultItem,
    Table,
    YoloLabels,
    label_map,
)
from instancefcn.inference.writers import WRITERS, finish, write_item
from instancefcn.instances import Instances

SIZE = (40, 60)


@pytest.fixture
def found() -> Instances:
    """A ring with a second part, half hidden by a better square; and an object without any pixel."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(rows - 20, columns - 20)
    ring = ((distance < 15) & (distance > 6)) | ((rows > 30) & (columns > 45))
    square = (rows >= 15) & (rows < 25) & (columns >= 25) & (columns < 45)
    dense = torch.from_numpy(np.stack((square, ring, np.zeros(SIZE, bool))))
    boxes = torch.tensor([[24.5, 15.0, 45.0, 25.0], [5.0, 5.0, 60.0, 40.0], [1.0, 2.0, 9.0, 8.0]])
    scores = torch.tensor([0.9, 0.6, 0.5])
    return Instances(boxes, scores, torch.tensor([1, 0, 1]), CroppedMasks.from_dense(dense), NAMES, IDS)


@pytest.fixture
def item(found: Instances) -> ResultItem:
    return ResultItem(0, "x", Path("photos/x.png"), to_uint8_rgb(coloured(SIZE[1], SIZE[0])), found)


def polygons(rings: list[list[float]]) -> np.ndarray:
    """The pixels of polygons as COCO draws them."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, *SIZE))).astype(bool)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_every_kind_has_its_writer() -> None:
    assert tuple(WRITERS) == KINDS


def test_yolo_labels_are_one_polygon_an_object(tmp_path: Path, item: ResultItem) -> None:
    writer = YoloLabels(tmp_path, NAMES, IDS)
    assert writer.write(item) == [tmp_path / "labels" / "x.txt"]
    writer.write(replace(item, name="none", instances=item.instances[:0]))
    assert writer.finish() == [tmp_path / "classes.txt"]
    assert (tmp_path / "classes.txt").read_text() == "red\ngreen\n"
    assert (tmp_path / "labels" / "none.txt").read_text() == ""
    lines = [line.split() for line in (tmp_path / "labels" / "x.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["1", "0", "1"]
    dense = item.instances.dense_masks().numpy()
    for line, mask in zip(lines[:2], dense, strict=False):
        shares = np.array(line[1:], float).reshape(-1, 2)
        assert shares.min() >= 0
        assert shares.max() <= 1
        pixels = polygons([(shares * (SIZE[1], SIZE[0])).reshape(-1).tolist()])
        assert iou(pixels, mask) > 0.85
    # What has no pixels has its box.
    assert np.array(lines[2][1:], float) * ([60, 40] * 4) == pytest.approx([1, 2, 9, 2, 9, 8, 1, 8], abs=1e-4)


def test_labelme_has_a_polygon_a_part(tmp_path: Path, item: ResultItem) -> None:
    photo = tmp_path / "photos" / "x.png"
    (path,) = LabelMe(tmp_path / "out", NAMES, IDS).write(replace(item, source=photo))
    assert path == tmp_path / "out" / "labelme" / "x.json"
    whole = json.loads(path.read_text())
    assert whole["imagePath"] == "../../photos/x.png"
    assert whole["imageData"] is None
    assert (whole["imageHeight"], whole["imageWidth"]) == SIZE
    shapes = whole["shapes"]
    assert [shape["label"] for shape in shapes] == ["green", "red", "red", "green"]
    assert [shape["group_id"] for shape in shapes] == [None, 2, 2, None]
    assert {shape["shape_type"] for shape in shapes} == {"polygon"}
    rings = [np.array(shape["points"]).reshape(-1).tolist() for shape in shapes]
    dense = item.instances.dense_masks().numpy()
    assert iou(polygons(rings[:1]), dense[0]) > 0.9
    assert iou(polygons(rings[1:3]), dense[1]) > 0.85


def test_labelme_finds_the_image_from_a_linked_folder(tmp_path: Path, item: ResultItem) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "deep", target_is_directory=True)
    photo = tmp_path / "photos" / "x.png"
    photo.parent.mkdir()
    photo.write_bytes(b"")
    (path,) = LabelMe(tmp_path / "out", NAMES, IDS).write(replace(item, source=photo))
    assert (path.parent / json.loads(path.read_text())["imagePath"]).samefile(photo)


def test_labelme_stores_an_image_that_has_no_file(tmp_path: Path, item: ResultItem) -> None:
    (path,) = LabelMe(tmp_path, NAMES, IDS).write(replace(item, source="https://example.org/x.png"))
    inside = base64.b64decode(json.loads(path.read_text())["imageData"])
    with Image.open(io.BytesIO(inside)) as image:
        assert torch.equal(to_uint8_rgb(image), item.image)


def test_cut_outs_are_what_the_mask_covers(tmp_path: Path, item: ResultItem) -> None:
    item = replace(item, instances=replace(item.instances, class_names=("red/hot", "green")))
    written = CutOuts(tmp_path, ("red/hot", "green"), IDS).write(item)
    assert [path.name for path in written] == ["x-1-green.png", "x-2-red_hot.png"]
    with Image.open(written[0]) as image:
        assert image.mode == "RGBA"
        pixels = np.asarray(image)
    assert pixels.shape == (10, 20, 4)
    assert (pixels[..., 3] == 255).all()
    assert (pixels[..., :3] == item.image.permute(1, 2, 0).numpy()[15:25, 25:45]).all()
    with Image.open(written[1]) as image:
        assert int((np.asarray(image)[..., 3] == 255).sum()) == int(item.instances.masks.areas()[1])


def test_cut_outs_of_an_earlier_call_go(tmp_path: Path, item: ResultItem) -> None:
    """Those of this image, and no others."""
    CutOuts(tmp_path, NAMES, IDS).write(item)
    others = ["x-1-blue.png", "x-1-green-2-red.png", "x-one-red.png", "y-1-red.png", "x-3.png"]
    for name in others:
        (tmp_path / "cutouts" / name).write_bytes(b"")
    CutOuts(tmp_path, NAMES, IDS).write(replace(item, instances=item.instances[:1]))
    assert {path.name for path in (tmp_path / "cutouts").iterdir()} == {"x-1-green.png", *others}


def test_the_label_map_holds_the_better_object_on_top(tmp_path: Path, item: ResultItem) -> None:
    (path,) = LabelMap(tmp_path, NAMES, IDS).write(item)
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
        numbers = np.asarray(image).astype(int)
    square, ring, _ = item.instances.dense_masks().numpy()
    assert (numbers == np.where(square, 1, np.where(ring, 2, 0))).all()


@pytest.mark.parametrize(("better", "expected"), [(2, [1, 1, 2, 2]), (3, [1, 1, 1, 0])])
def test_a_label_map_leaves_out_what_is_mostly_hidden(better: int, expected: list[int]) -> None:
    """An object of four pixels, of which a better one leaves half or a quarter."""
    rects = torch.tensor([(0, 0, better, 1), (0, 0, 4, 1)])
    masks = CroppedMasks(torch.ones(better + 4, dtype=torch.uint8), rects, (1, 4))
    labels = torch.zeros(2, dtype=torch.int64)
    found = Instances(torch.zeros(2, 4), torch.ones(2), labels, masks, NAMES, IDS)
    assert label_map(found).tolist() == [expected]


def test_a_label_map_has_room_for_65535() -> None:
    def many(n: int) -> Instances:
        rects = torch.tensor([(0, 0, 1, 1)] * (n - 1) + [(1, 0, 2, 1)])
        masks = CroppedMasks(torch.ones(n, dtype=torch.uint8), rects, (1, 2))
        boxes = torch.zeros(n, 4)
        return Instances(boxes, torch.ones(n), torch.zeros(n, dtype=torch.int64), masks, NAMES, IDS)

    assert label_map(many(65_535)).tolist() == [[1, 65_535]]
    with pytest.raises(ConfigError, match="at most 65,535 objects"):
        label_map(many(65_536))


def test_the_table_has_a_row_an_object_in_the_order_of_the_images(tmp_path: Path, item: ResultItem) -> None:
    table = Table(tmp_path, NAMES, IDS)
    table.collect(1, "https://example.org/y.png", item.instances, 7)
    table.collect(0, item.source, item.instances)
    (path,) = table.finish()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(Path("photos/x.png"))] * 3 + [
        "https://example.org/y.png"
    ] * 3
    assert [row["frame"] for row in rows] == [""] * 3 + ["7"] * 3
    assert list(rows[0].values()) == [
        *(str(Path("photos/x.png")), "1", "green", "0.900000", "24.50", "15.00", "45.00", "25.00"),
        *("200", "35.00", "20.00", ""),
    ]
    assert (rows[2]["area"], rows[2]["centroid_x"]) == ("0", "")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, item: ResultItem) -> None:
    (tmp_path / "labels").write_text("a file, not a folder")
    writers = [YoloLabels(tmp_path, NAMES, IDS)]
    with pytest.raises(OutputError, match="labels"):
        write_item(writers, item)
    assert finish(writers) == [tmp_path / "classes.txt"]
