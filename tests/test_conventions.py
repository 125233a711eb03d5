"""docs/conventions.md, line by line. Maps and RoIs: tests/ops/test_conventions.py."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from instancefcn.geometry import boxes as box_ops
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.resizing import resize
from instancefcn.images.decoding import read_image
from instancefcn.instances import Instances

ROOT = Path(__file__).resolve().parents[1]
L_SHAPE = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)


def one_instance(label: int = 1) -> Instances:
    masks = CroppedMasks.from_dense(L_SHAPE[None])
    return Instances(
        masks.tight_boxes(), torch.tensor([0.75]), torch.tensor([label]), masks, ("cat", "dog"), (17, 90)
    )


def test_every_named_test_exists() -> None:
    named = re.findall(
        r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/conventions.md").read_text(encoding="utf-8")
    )
    assert len(named) > 15
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_results_belong_to_the_upright_image(tmp_path: Path) -> None:
    upright = np.zeros((2, 3, 3), np.uint8)
    upright[0, 2] = 255  # upper right
    stored = Image.fromarray(np.rot90(upright))  # turned left; orientation 6 turns it right again
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    image = read_image(tmp_path / "turned.png")
    assert image.shape == (3, 2, 3)
    assert image[0].tolist() == [[0, 0, 255], [0, 0, 0]]


def test_a_mask_read_at_pixel_centres_gives_its_pixels() -> None:
    masks = CroppedMasks.from_dense(L_SHAPE[None])
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    read = masks.sample(columns + 0.5, rows + 0.5, torch.tensor(0))
    assert torch.equal(read.bool(), L_SHAPE)
    # Half way between a pixel of the object and one beside it.
    halfway = masks.sample(torch.tensor(2.0), torch.tensor(1.5), torch.tensor(0))
    assert float(halfway) == 0.5


def test_sizes_are_height_width_and_scales_are_x_y() -> None:
    image, scale = resize(torch.zeros(3, 100, 301, dtype=torch.uint8), short=50, long=1000)
    assert image.shape == (3, 50, 150)  # 150.5 is rounded to the even side
    assert scale == (150 / 301, 50 / 100)
    assert one_instance().image_size == (4, 5)


def test_boxes_are_half_open() -> None:
    assert CroppedMasks.from_dense(L_SHAPE[None]).tight_boxes().tolist() == [[2.0, 1.0, 4.0, 3.0]]
    whole = CroppedMasks.from_dense(torch.ones(1, 4, 5, dtype=torch.bool)).tight_boxes()
    assert whole.tolist() == [[0.0, 0.0, 5.0, 4.0]]
    assert box_ops.clip(torch.tensor([[-1.0, -1.0, 9.0, 9.0]]), (4, 5)).tolist() == whole.tolist()


def test_coco_boxes_have_width_and_height() -> None:
    assert one_instance().to_coco(7)[0]["bbox"] == [2.0, 1.0, 2.0, 2.0]


def test_box_deltas() -> None:
    roi, truth = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[5.0, 0.0, 25.0, 20.0]])
    deltas = box_ops.encode(roi, truth)
    # The centre goes from (5, 10) to (15, 10): one width; the width doubles.
    torch.testing.assert_close(deltas, torch.tensor([[1.0, 0.0, math.log(2), 0.0]]))
    torch.testing.assert_close(box_ops.decode(roi, deltas), truth)


def test_labels_index_the_class_names() -> None:
    assert one_instance(0).names == ["cat"]
    with pytest.raises(ValueError, match="between 0 and 1"):
        one_instance(2)


def test_coco_json_uses_the_data_sets_own_ids() -> None:
    assert one_instance(1).to_coco(7)[0]["category_id"] == 90


def test_masks_are_stored_inside_rectangles_of_whole_pixels() -> None:
    masks = CroppedMasks.from_dense(L_SHAPE[None])
    assert masks.rects.tolist() == [[2, 1, 4, 3]]
    assert masks.pixels.tolist() == [1, 0, 1, 1]
    assert torch.equal(masks.dense()[0], L_SHAPE)


def test_run_lengths_go_down_the_columns() -> None:
    # Nine zeros down the first two columns and into the third, two ones, three zeros, one one, five zeros.
    runs = {"size": [4, 5], "counts": [9, 2, 3, 1, 5]}
    rle = CroppedMasks.from_dense(L_SHAPE[None]).rles()[0]
    assert rle["size"] == [4, 5]
    counts = coco_mask.frPyObjects(runs, 4, 5)["counts"]
    assert rle["counts"] == (counts.decode() if isinstance(counts, bytes) else counts)
