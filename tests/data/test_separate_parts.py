"""Masks and annotations that hold several objects: noticed, and split into their parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instancefcn.data.conversion import convert
from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.doctor.examine import examine
from instancefcn.data.doctor.fix import write_repaired_copy
from instancefcn.data.doctor.report import brief, verdict
from instancefcn.data.formats.layouts import read_split
from instancefcn.data.separate_parts import with_separate_parts

SIZE = (60, 80)


def objects_of(number: int) -> list[np.ndarray]:
    """3 squares and a ring, bool [H, W], apart from each other."""
    masks = []
    for place in range(4):
        mask = np.zeros(SIZE, bool)
        y, x = 4 + 2 * number, 4 + 18 * place
        mask[y : y + 14, x : x + 14] = True
        if place == 3:
            mask[y + 4 : y + 8, x + 4 : x + 8] = False
        masks.append(mask)
    return masks


def write_masks(folder: Path, mask_of: Callable[[list[np.ndarray]], Any], suffix: str = "png") -> Path:
    """Three images, and one mask of each in masks/."""
    for number in range(3):
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.png")
        mask = mask_of(objects_of(number))
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(
            folder / "masks" / f"{number}.{suffix}"
        )
    return folder


def foreground(masks: list[np.ndarray]) -> np.ndarray:
    return np.any(masks, axis=0)


FOREGROUND: dict[str, Callable[[list[np.ndarray]], Any]] = {
    "0 and 255": lambda masks: foreground(masks).astype(np.uint8) * 255,
    "0 and 1": lambda masks: foreground(masks).astype(np.uint8),
    "1 bit": lambda masks: Image.fromarray(foreground(masks)),
    "gray colours": lambda masks: Image.fromarray(foreground(masks)).convert("RGB"),
    "semantic": lambda masks: (masks[0] | masks[1]) + np.uint8(2) * (masks[2] | masks[3]),
}


@pytest.mark.parametrize("mask_of", FOREGROUND.values(), ids=FOREGROUND)
def test_foreground_masks_are_noticed_and_split(tmp_path: Path, mask_of: Callable[..., Any]) -> None:
    data = write_masks(tmp_path / "data", mask_of)
    report = examine(data)
    (finding,) = report.of("merged-objects")
    assert finding.severity == "warning"
    assert "12 in all" in finding.message
    assert brief(report)[0].startswith("warning: merged-objects: ")  # what train prints first
    assert "merged-objects" in verdict(report)
    _, left = write_repaired_copy(report, tmp_path / "copy")
    assert not left.of("merged-objects")
    convert(data, tmp_path / "coco", "coco", split_parts=True)
    for split in (tmp_path / "copy", tmp_path / "coco"):
        dataset = read_split(split, "train")[0]
        for number, image in enumerate(dataset.images):
            assert [a.area for a in image.annotations] == [mask.sum() for mask in objects_of(number)]
    ids = [a.id for image in dataset.images for a in image.annotations]
    assert len(set(ids)) == 12


def test_object_numbers_are_not_merged(tmp_path: Path) -> None:
    data = write_masks(
        tmp_path / "data", lambda masks: sum(n * m.astype(np.uint8) for n, m in enumerate(masks, 1))
    )
    report = examine(data)
    assert not report.of("merged-objects")
    assert [len(image.annotations) for image in report.splits[0].dataset.images] == [4, 4, 4]


def rings(number: int) -> list[list[int]]:
    """The outlines of the first three objects."""
    y = 4 + 2 * number
    return [[x, y, x + 14, y, x + 14, y + 14, x, y + 14] for x in (4, 22, 40)]


def write_coco(folder: Path, outlines: Callable[[int], list[list[list[int]]]]) -> Path:
    """12 images whose annotations of one class have these outlines."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE[1], "height": SIZE[0]})
        for outline in outlines(number):
            id_ = len(annotations) + 1
            annotations.append({"id": id_, "image_id": number, "category_id": 1, "segmentation": outline})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def test_one_coco_annotation_for_all_objects_of_a_class(tmp_path: Path) -> None:
    """Half of the images have one object: the others tell."""
    data = write_coco(tmp_path / "data", lambda n: [rings(n)[: 3 if n % 2 else 1]])
    report = examine(data)
    (finding,) = report.of("merged-objects")
    assert "6 of 12 annotations of 'cell'" in finding.message
    repairs, _ = write_repaired_copy(report, tmp_path / "copy")
    assert {repair["check"] for repair in repairs} == {"merged-objects"}
    images = read_split(tmp_path / "copy", "train")[0].images
    assert [len(image.annotations) for image in images] == [1, 3] * 6
    assert [a.segmentation for a in images[1].annotations] == [[ring] for ring in rings(1)]
    assert len({a.id for image in images for a in image.annotations}) == 24


@pytest.mark.parametrize(
    "outlines",
    [
        lambda n: [[ring] for ring in rings(n)],
        lambda n: [rings(n)[:2], [rings(n)[2]]],  # an object behind a pole, and another one
        lambda n: [[rings(n)[0]]],
        lambda n: [rings(n)[: 2 if n == 5 else 1]],
    ],
)
def test_real_objects_of_several_parts_are_left_alone(
    tmp_path: Path, outlines: Callable[[int], list[list[list[int]]]]
) -> None:
    assert not examine(write_coco(tmp_path / "data", outlines)).of("merged-objects")


def test_crowds_and_other_classes_are_not_split() -> None:
    outline = rings(0)
    annotations = tuple(
        Annotation(id_, label, (4.0, 4.0, 54.0, 18.0), outline, 588.0, crowd)  # type: ignore[arg-type]
        for id_, label, crowd in ((7, 0, False), (8, 1, False), (9, 0, True))
    )
    dataset = Dataset("d", (ImageRecord(1, Path("a"), *SIZE, annotations),), ("a", "b"), (1, 2))
    seen: list[tuple[int, int]] = []
    split = with_separate_parts(
        dataset, {0}, lambda image, annotation, parts: seen.append((annotation.id, parts))
    )
    assert seen == [(7, 3)]
    assert [(a.id, a.label, a.crowd) for a in split.images[0].annotations] == [
        (7, 0, False),
        (10, 0, False),
        (11, 0, False),
        (8, 1, False),
        (9, 0, True),
    ]


def test_outlines_that_share_a_part_become_rles() -> None:
    overlapping = [
        [4, 4, 14, 4, 14, 14, 4, 14],
        [10, 4, 20, 4, 20, 14, 10, 14],
        [40, 4, 50, 4, 50, 14, 40, 14],
    ]
    annotation = Annotation(1, 0, (4.0, 4.0, 50.0, 14.0), overlapping, 260.0)  # type: ignore[arg-type]
    dataset = Dataset("d", (ImageRecord(1, Path("a"), *SIZE, (annotation,)),), ("a",), (1,))
    (image,) = with_separate_parts(dataset).images
    assert [a.area for a in image.annotations] == [160, 100]
    assert all(isinstance(a.segmentation, dict) for a in image.annotations)
    assert image.annotations[0].box == (4, 4, 20, 14)
