"""Variants of formats that people have: recognised, read with the right values, and said where it matters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.conftest import blocks, index_of, size_of, yolo_line
from instancefcn.data.dataset import rasterize
from instancefcn.data.doctor.examine import examine
from instancefcn.data.formats.coco_layouts import CocoFolder
from instancefcn.data.formats.layouts import open_datasets, read_split, recognise, splits_of
from instancefcn.data.formats.mask_folder import MaskFolder
from instancefcn.data.formats.yolo import YoloFolder
from instancefcn.errors import DataError

# YOLO


def without_yaml(yolo: Path, names: str = "aeroplane\ncat\nbird\n") -> Path:
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text(names)
    return yolo


def test_yolo_with_classes_txt(yolo: Path) -> None:
    data = without_yaml(yolo)
    assert isinstance(recognise(data), YoloFolder)
    train, val = open_datasets(data, ("train", "val"))
    assert train.class_names == val.class_names == ("aeroplane", "cat", "bird")
    assert [train.class_names[a.label] for a in train.images[0].annotations] == ["bird"]
    (data / "classes.txt").write_text("aeroplane\n\nbird\n")
    with pytest.raises(DataError, match="class 1 is ''"):
        read_split(data, "train")


def test_yolo_with_classes_txt_in_flat_folders(yolo: Path, tmp_path: Path) -> None:
    data = without_yaml(yolo)
    for flat in (data / "flat", data / "beside"):
        images, labels = (flat / "images", flat / "labels") if flat.name == "flat" else (flat, flat)
        images.mkdir(parents=True)
        labels.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "images" / "train" / "otter.jpg", images)
        shutil.copy(data / "labels" / "train" / "otter.txt", labels)
        shutil.copy(data / "classes.txt", labels)  # as LabelImg does
        (dataset,) = open_datasets(flat, ("train",))
        assert [len(image.annotations) for image in dataset.images] == [1]
    shutil.rmtree(data / "flat" / "labels")
    (data / "flat" / "classes.txt").write_text("a")
    with pytest.raises(DataError, match=r"classes\.txt"):  # labels of no image: another layout
        splits_of(data / "flat")


@pytest.mark.parametrize(
    "text",
    [
        "path: ../datasets/mice\ntrain: images/train",
        "path: C:\\mice\ntrain: images/train",
        "train: /home/me/mice/images/train",
        "train: [/home/me/mice/images/train]",
    ],
)
def test_yolo_paths_of_another_machine(yolo: Path, text: str) -> None:
    (yolo / "data.yaml").write_text(f"{text}\nnc: 3\n")
    (dataset,) = open_datasets(yolo, ("train",))
    assert [image.path for image in dataset.images] == [yolo / "images" / "train" / "otter.jpg"]
    assert str(yolo / "images" / "train") in dataset.notes[0]
    (finding,) = [f for f in examine(yolo).of("reading") if f.split == "train"]
    assert finding.severity == "warning"


def test_yolo_lists_of_another_machine(yolo: Path) -> None:
    (yolo / "list.txt").write_text(
        "/home/me/mice/images/train/otter.jpg\n/home/me/mice/images/train/gone.jpg\n"
    )
    (yolo / "data.yaml").write_text("train: list.txt\nnc: 3\n")
    dataset, problems = read_split(yolo, "train")
    assert [image.path for image in dataset.images] == [yolo / "images" / "train" / "otter.jpg"]
    assert len(dataset.notes) == 1
    assert [problem.split(": ")[1] for problem in problems] == ["line 2"]


@pytest.mark.parametrize(
    "names",
    [
        '{"0": aeroplane, "1": cat, "2": bird}',
        '"aeroplane, cat, bird"',
        "\"['aeroplane', 'cat', 'bird']\"",
        "|\n  aeroplane\n  cat\n  bird",
        "mine.names",
    ],
)
def test_yolo_names_as_text(yolo: Path, names: str) -> None:
    (yolo / "mine.names").write_text("aeroplane\ncat\nbird\n")
    (yolo / "data.yaml").write_text(f"train: images/train\nnames: {names}\nnc: '3'\n")
    (dataset,) = open_datasets(yolo, ("train",))
    assert dataset.class_names == ("aeroplane", "cat", "bird")


def test_yolo_linked_folders(yolo: Path, tmp_path: Path) -> None:
    """Of a folder linked among the images alone, the labels lie beside the images it leads to."""
    far = tmp_path / "far"
    for folder, name in (("images", "tiger.jpg"), ("labels", "tiger.txt")):
        (far / folder / "siteB").mkdir(parents=True)
        shutil.copy(yolo / folder / "val" / name, far / folder / "siteB" / name)
    (yolo / "images" / "train" / "siteB").symlink_to(far / "images" / "siteB")
    for links in (1, 2):
        if links == 2:
            (yolo / "labels" / "train" / "siteB").symlink_to(far / "labels" / "siteB")
        (dataset,) = open_datasets(yolo, ("train",))
        assert [(i.path.name, len(i.annotations)) for i in dataset.images] == [
            ("otter.jpg", 1),
            ("tiger.jpg", 1),
        ]


# LabelMe


def test_labelme_linked_folders(labelme: Path, tmp_path: Path) -> None:
    (labelme / "val").rename(tmp_path / "far")
    (labelme / "train" / "siteB").symlink_to(tmp_path / "far")
    (labelme / "train" / "siteB" / "loop").symlink_to(labelme / "train")
    assert [image.path.stem for image in open_datasets(labelme, ("train",))[0].images] == ["otter", "tiger"]


# Masks


def numbers() -> np.ndarray:
    objects = index_of(blocks("otter"))[0]
    return np.where(objects == 255, 0, objects)


def masks_of(data: Path) -> list[np.ndarray]:
    """The objects of the one image of train."""
    (image,) = open_datasets(data, ("train",))[0].images
    masks = rasterize(image)
    return [masks.paste(i).numpy() for i in range(len(masks))]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.png", "masks/a_cp_masks.png"),
        ("images/a.png", "masks/a_cp_masks.tif"),
        ("a.tif", "a_cp_masks.png"),
        ("a_img.png", "a_masks.tif"),
        ("a_image.png", "a_mask.png"),
        ("train/a_img.tif", "train/a_cp_masks.png"),
        ("images/a_img.png", "masks/a_masks.png"),
    ],
)
def test_names_of_cellpose(tmp_path: Path, image: str, mask: str) -> None:
    for name in (image, mask):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size_of("otter")[::-1]).save(tmp_path / image)
    Image.fromarray(numbers().astype(np.uint16)).save(tmp_path / mask)
    if image.count("/") == 0:  # what Cellpose writes beside an image
        stem = image.split(".")[0]
        for name in ("flows.tif", "cp_output.png", "seg.npy"):
            shutil.copy(tmp_path / mask, tmp_path / f"{stem}_{name}")
    assert isinstance(recognise(tmp_path), MaskFolder)
    for found, (_, wanted) in zip(masks_of(tmp_path), blocks("otter"), strict=True):
        np.testing.assert_array_equal(found, wanted)


def put_mask(folder: Path, mask: Any, suffix: str = "tif", **options: Any) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    Image.new("RGB", size_of("otter")[::-1]).save(folder / "images" / "otter.jpg")
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(
        folder / "masks" / f"otter.{suffix}", **options
    )
    return folder


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_floats_and_32_bits(tmp_path: Path, kind: Any) -> None:
    data = put_mask(tmp_path, numbers().astype(kind) * 1000)
    for found, (_, wanted) in zip(masks_of(data), blocks("otter"), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_gray_colours(tmp_path: Path) -> None:
    data = put_mask(tmp_path, Image.fromarray(numbers() * 50).convert("RGB"), "png")
    for found, (_, wanted) in zip(masks_of(data), blocks("otter"), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("mask", "value"),
    [
        (numbers() * np.float32(0.5), "0.5"),
        (np.where(numbers() > 0, np.float32("nan"), np.float32(0)), "finite"),
        (-numbers().astype(np.int32), "-3"),
        (np.stack([numbers(), numbers() * 0, numbers()], 2), "colours"),
    ],
)
def test_masks_that_number_no_objects(tmp_path: Path, mask: np.ndarray, value: str) -> None:
    with pytest.raises(DataError, match=r"otter\.tif") as caught:
        read_split(put_mask(tmp_path, mask), "train")
    assert value in str(caught.value)


def test_masks_of_several_pages(tmp_path: Path) -> None:
    pages = [Image.fromarray(numbers()), Image.fromarray(numbers())]
    data = put_mask(tmp_path, pages[0], save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="pages"):
        read_split(data, "train")


# Pascal VOC, as CVAT writes it


def coloured(values: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = np.zeros((*values.shape, 3), np.uint8)
    for value, colour in colours.items():
        image[values == value] = colour
    return Image.fromarray(image)


CLASS_COLOURS = {3: (250, 50, 83), 1: (51, 221, 255), 255: (224, 224, 192)}
VOC_COLOURS = {1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 255: (224, 224, 192)}
LABELMAP = "# label:color_rgb:parts:actions\nbird:250,50,83::\nbackground:0,0,0::\naeroplane:51,221,255::\n"


def cvat(voc: Path, object_colours: dict[int, tuple[int, int, int]] = VOC_COLOURS) -> Path:
    root = voc / "VOCdevkit" / "VOC2012"
    for file in (root / "ImageSets" / "Segmentation").iterdir():
        file.unlink()
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("otter\n")
    (root / "labelmap.txt").write_text(LABELMAP)
    objects, classes = index_of(blocks("otter"))
    coloured(objects, object_colours).save(root / "SegmentationObject" / "otter.png")
    coloured(classes, CLASS_COLOURS).save(root / "SegmentationClass" / "otter.png")
    return root


@pytest.mark.parametrize(
    "colours", [VOC_COLOURS, {1: (0, 0, 255), 2: (9, 8, 7), 3: (1, 2, 3), 255: (224, 224, 192)}]
)
def test_cvat_segmentation_masks(voc: Path, colours: dict[int, tuple[int, int, int]]) -> None:
    root = cvat(voc, colours)
    assert splits_of(root) == ["train"]
    (dataset,) = open_datasets(root, ("train",))
    assert (dataset.class_names, dataset.category_ids) == (("bird", "aeroplane"), (1, 2))
    (image,) = dataset.images
    masks = rasterize(image)
    found = {
        (dataset.class_names[a.label], masks.paste(i).numpy().tobytes())
        for i, a in enumerate(image.annotations)
    }
    names = {3: "bird", 1: "aeroplane"}
    assert found == {(names[kind], mask.astype(np.uint8).tobytes()) for kind, mask in blocks("otter")}


def test_cvat_masks_whose_palette_has_the_colours(voc: Path) -> None:
    root = cvat(voc)
    with Image.open(root / "SegmentationClass" / "otter.png") as opened:
        palette = opened.quantize(8)
    palette.save(root / "SegmentationClass" / "otter.png")
    (image,) = open_datasets(root, ("train",))[0].images
    assert [a.label for a in image.annotations] == [0, 1, 0]


def test_colours_and_numbers_without_a_class(voc: Path) -> None:
    root = cvat(voc)
    (root / "labelmap.txt").write_text("bird:250,50,83::\nbackground:0,0,0::\n")
    with pytest.raises(DataError, match="51,221,255"):
        read_split(root, "train")
    Image.fromarray(index_of(blocks("otter"))[1]).save(root / "SegmentationClass" / "otter.png")
    with pytest.raises(DataError, match="background"):
        read_split(root, "train")


def test_voc_lists_of_paths(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    lines = "/home/me/VOC2012/JPEGImages/otter.jpg\nJPEGImages/tiger.jpg\ngone.jpg\n"
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(lines)
    dataset, problems = read_split(voc, "train")
    assert [(image.path.stem, len(image.annotations)) for image in dataset.images] == [
        ("otter", 3),
        ("tiger", 3),
    ]
    assert len(dataset.notes) == 1
    assert len(problems) == 1
    assert "gone" in problems[0]


# COCO


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("labels.json", "data"),  # FiftyOne
        ("train.json", "."),
        ("_annotations.coco.json", "."),
        ("result.json", "photos"),
        ("annotations/instances_default.json", "images"),  # CVAT
        ("annotations/instances_default.json", "images/default"),
    ],
)
def test_one_coco_file_and_its_images(shapes_folder: Path, tmp_path: Path, file: str, images: str) -> None:
    data = tmp_path / "data"
    for folder in ((data / file).parent, data / images):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(shapes_folder / "train.json", data / file)
    for image in (shapes_folder / "images").glob("train_*"):
        shutil.copy(image, data / images)
    assert isinstance(recognise(data), CocoFolder)
    assert splits_of(data) == ["train"]
    (dataset,) = open_datasets(data, ("train",))
    assert len(dataset) == 4
    assert {image.path.parent for image in dataset.images} == {data / images}
    assert dataset.notes == ()


def test_utf16_beside_its_images(shapes_folder: Path, tmp_path: Path) -> None:
    """Recognised; `text_files` says whether it is read."""
    text = (shapes_folder / "train.json").read_text()
    (tmp_path / "export.json").write_text(text, encoding="utf-16")
    for image in (shapes_folder / "images").glob("train_*"):
        shutil.copy(image, tmp_path)
    assert isinstance(recognise(tmp_path), CocoFolder)


def test_paths_of_another_machine_in_coco(shapes_folder: Path, tmp_path: Path) -> None:
    content = json.loads((shapes_folder / "train.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"..\\..\\upload\\4\\{image['file_name']}"
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(shapes_folder / "images")
    (dataset,) = open_datasets(tmp_path, ("train",))
    assert len(dataset) == 4
    assert "4 image paths" in dataset.notes[0]


def test_files_that_no_split_uses_are_counted(yolo: Path) -> None:
    for name in ("a.heic", "b.heic", "images/train/c.jxl", "notes.json", "LICENSE", ".hidden"):
        (yolo / name).touch()
    report = examine(yolo)
    (finding,) = report.of("unread-file")
    assert finding.severity == "note"
    for part in ("4 files", "2 .heic (a.heic, b.heic)", "1 .jxl (c.jxl)", "1 .json (notes.json)"):
        assert part in finding.message
    assert not examine(yolo, ["train"]).of("unread-file")  # other splits may use them


def test_links_that_lead_nowhere_are_a_warning(yolo: Path) -> None:
    (yolo / "images" / "train" / "siteB").symlink_to(yolo / "nowhere")
    for splits in (None, ["train"]):
        (finding,) = examine(yolo, splits).of("unread-file")
        assert (finding.severity, "siteB" in finding.message) == ("warning", True)


def test_a_line_of_labels_in_a_linked_file(yolo: Path, tmp_path: Path) -> None:
    label = yolo / "labels" / "train" / "otter.txt"
    label.rename(tmp_path / "stored.txt")
    label.symlink_to(tmp_path / "stored.txt")
    line = yolo_line(2, [(20, 30), (60, 30), (60, 80), (20, 80)], size_of("otter"))
    assert label.read_text() == f"{line}\n"
    assert len(open_datasets(yolo, ("train",))[0].images[0].annotations) == 1
