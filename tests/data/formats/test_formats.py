"""Every format's reader: the published layout, splits, and errors that name the file, all at once."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.conftest import PHOTOS, blocks, labelme_shapes, shape, size_of, yolo_line
from instancefcn.data.dataset import Dataset, rasterize
from instancefcn.data.formats.labelme import LabelmeFolder
from instancefcn.data.formats.layouts import (
    describe_layout,
    open_datasets,
    read_split,
    recognise,
    splits_of,
)
from instancefcn.data.formats.mask_folder import ObjectMaskFolder
from instancefcn.data.formats.sbd import SbdFolder
from instancefcn.data.formats.voc import VOC_CLASSES, VocFolder
from instancefcn.data.paths import images_below
from instancefcn.errors import DataError


def same_as_blocks(dataset: Dataset, name: str, wanted: list[int], ordered: bool = True) -> None:
    """The image has the objects `wanted` of `blocks`, with their classes, tight boxes and areas."""
    (image,) = (p for p in dataset.images if p.path.stem == name)
    assert (image.height, image.width) == size_of(name)
    masks = rasterize(image)
    for i, number in enumerate(wanted):
        label, mask = blocks(name)[number]
        np.testing.assert_array_equal(masks.paste(i).numpy(), mask)
        annotation = image.annotations[i]
        if dataset.class_names != ("object",):
            assert dataset.class_names[annotation.label] == VOC_CLASSES[label - 1]
        assert annotation.area == mask.sum()
        assert annotation.box == pytest.approx(masks.tight_boxes()[i].tolist(), abs=1e-3)
    assert len(masks) == len(wanted)


def problems_of(data: Path, split: str = "train") -> str:
    """The problems of a split that `read_split` reports."""
    try:
        return "\n".join(read_split(data, split)[1])
    except DataError as error:
        return "\n".join(error.problems)


@pytest.mark.parametrize("kind", ["voc", "sbd", "labelme", "bowl"])
def test_published_layouts(kind: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(kind)
    assert splits_of(data)[:2] == ["train", "val"]
    layouts = {"voc": VocFolder, "sbd": SbdFolder, "labelme": LabelmeFolder, "bowl": ObjectMaskFolder}
    assert isinstance(recognise(data), layouts[kind])
    assert describe_layout(data).startswith(f"{data}: ")
    train, val = open_datasets(data, ("train", "val"))
    assert train.name == f"{data.name}/train"
    assert train.class_names == val.class_names
    for split, dataset in (("train", train), ("val", val)):
        same_as_blocks(dataset, PHOTOS[split], [0, 1, 2])
        assert [p.id for p in dataset.images] == [1]
        assert [a.id for a in dataset.images[0].annotations] == [1, 2, 3]
    if kind in ("voc", "sbd"):
        assert (train.class_names, train.category_ids) == (VOC_CLASSES, tuple(range(1, 21)))


def test_read_split_tells_progress_and_refuses_other_splits(voc: Path) -> None:
    seen: list[tuple[int, int]] = []
    read_split(voc, "trainval", lambda *now: seen.append(now))
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(DataError, match=r"'test'.*train, val, trainval"):
        read_split(voc, "test")


def test_unknown_folder_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"notes\.txt"):
        splits_of(tmp_path)


# Pascal VOC


def test_voc_errors_all_at_once(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    names = ["otter", "gone", "../../secret", "unmasked", "coloured", "small", "wrong"]
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names))
    (voc / "secret.jpg").write_bytes(b"")
    for name in names[3:]:
        shutil.copy(root / "JPEGImages" / "otter.jpg", root / "JPEGImages" / f"{name}.jpg")
        for kind in ("Object", "Class") if name != "unmasked" else ():
            folder = root / f"Segmentation{kind}"
            shutil.copy(folder / "otter.png", folder / f"{name}.png")
    Image.new("RGB", size_of("otter")[::-1], (1, 2, 3)).save(root / "SegmentationClass" / "coloured.png")
    Image.new("L", (9, 9)).save(root / "SegmentationClass" / "small.png")
    classes = np.array(Image.open(root / "SegmentationClass" / "otter.png"))
    classes[classes == 1] = 21
    Image.fromarray(classes).save(root / "SegmentationClass" / "wrong.png")
    dataset, problems = read_split(voc, "train")
    assert [p.path.stem for p in dataset.images] == ["otter", "wrong"]
    wanted = [
        ("train.txt: gone", "gone.jpg"),
        ("train.txt: ../../secret", "../../secret.jpg"),
        ("SegmentationObject/unmasked.png", "unmasked"),
        ("SegmentationClass/unmasked.png", "unmasked"),
        ("SegmentationClass/coloured.png", "1,2,3"),
        ("SegmentationClass/small.png", "9 x 9"),
        ("SegmentationClass/wrong.png: object 2", "21"),
    ]
    assert len(problems) == len(wanted), problems
    for problem, (where, what) in zip(problems, wanted, strict=True):
        assert where in problem
        assert what in problem
    with pytest.raises(DataError) as caught:
        open_datasets(voc, ("train", "val"))
    assert list(caught.value.problems) == problems


def test_voc_names_of_other_classes(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    (root / "labelmap.txt").write_text(
        "# label:color:parts:actions\nbackground:0,0,0::\na:b:1,2,3::\ntwo\nc::\n"
    )
    assert read_split(voc, "val")[0].class_names == ("a:b", "two", "c")
    (root / "labelmap.txt").write_text("a:1,2,3::\n")
    assert "labelmap.txt" in problems_of(voc)


def test_voc_suffixes_in_any_case(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    (root / "JPEGImages" / "otter.jpg").rename(root / "JPEGImages" / "otter.Jpg")
    (root / "SegmentationObject" / "otter.png").rename(root / "SegmentationObject" / "otter.PNG")
    (root / "SegmentationClass" / "otter.png").rename(root / "SegmentationClass" / "otter.Png")
    assert problems_of(voc) == ""


# SBD


def test_sbd_errors_all_at_once(sbd: Path) -> None:
    from scipy.io import loadmat, savemat

    root = sbd / "benchmark_RELEASE" / "dataset"
    names = ["gone", "unmasked", "text", "other", "few"]
    for name in names[1:]:
        shutil.copy(root / "img" / "otter.jpg", root / "img" / f"{name}.jpg")
    (root / "inst" / "text.mat").write_bytes(b"no Matlab file at all" * 20)
    shutil.copy(root / "cls" / "otter.mat", root / "inst" / "other.mat")
    record = loadmat(root / "inst" / "otter.mat")["GTinst"][0, 0]
    few = {"Segmentation": record["Segmentation"], "Categories": np.array([[21], [1]], np.uint8)}
    savemat(root / "inst" / "few.mat", {"GTinst": few})
    (root / "train.txt").write_text("\n".join(["otter", *names]))
    dataset, problems = read_split(sbd, "train")
    assert [len(p.annotations) for p in dataset.images] == [3, 1]
    wanted = [
        ("train.txt", "gone"),
        ("unmasked.mat", "unmasked"),
        ("text.mat", "GTinst"),
        ("other.mat", "GTinst"),
        ("few.mat: object 1", "21"),
        ("few.mat: object 3", "category"),
    ]
    assert len(problems) == len(wanted)
    for problem, (where, what) in zip(problems, wanted, strict=True):
        assert where in problem
        assert what in problem


def test_sbd_text_files_that_are_not_lists(sbd: Path) -> None:
    root = sbd / "benchmark_RELEASE" / "dataset"
    (root / "README.txt").write_text("The Semantic Boundaries Dataset\n")
    (root / "binary.txt").write_bytes(b"\xff\xfe")
    (root / "empty.txt").write_text("")
    (root / "few.txt").write_text("tiger\n")
    (root / "train.txt").write_text("gone\notter\n")
    assert splits_of(sbd) == ["train", "val", "few"]
    assert "train.txt: gone" in problems_of(sbd)


# YOLO


def test_yolo(yolo: Path) -> None:
    for data in (yolo, yolo / "data.yaml"):
        assert splits_of(data) == ["train", "val"]
        train, val = open_datasets(data, ("train", "val"))
        same_as_blocks(train, "otter", [0])
        same_as_blocks(val, "tiger", [0])
        assert (train.class_names, train.category_ids) == (("aeroplane", "bird"), (0, 2))
        assert train.images[0].annotations[0].segmentation == [
            pytest.approx([20, 30, 60, 30, 60, 80, 20, 80], abs=1e-3)
        ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("names: [a, bird, c]\nnc: 2", ["2", "3"]),
        ("names: [a, b, no]", ["class 2", "False"]),
        ("names: {x: a}", ["'x'"]),
        ("names: 3", ["names"]),
        ("nc: 0", ["names"]),
    ],
)
def test_yolo_bad_names(yolo: Path, text: str, values: list[str]) -> None:
    (yolo / "data.yaml").write_text(f"train: images/train\n{text}\n")
    with pytest.raises(DataError) as caught:
        read_split(yolo, "train")
    (problem,) = caught.value.problems
    file, _, rest = problem.partition(": ")
    assert file == str(yolo / "data.yaml")
    assert all(value in rest for value in values)


def test_yolo_other_ways_to_name_images(yolo: Path) -> None:
    for text in (
        "train: ../images/train",  # some exports write ../ for what lies beside the file
        "train: [images/train]",
        "train: list.txt",
        "path: images\ntrain: train",
    ):
        (yolo / "list.txt").write_text("./images/train/otter.jpg\n")
        (yolo / "data.yaml").write_text(f"{text}\nnc: 3\n")
        dataset, problems = read_split(yolo, "train")
        assert not problems
        assert dataset.class_names == ("class_0", "class_1", "class_2")
        assert dataset.class_names[dataset.images[0].annotations[0].label] == "class_2"
    (yolo / "data.yaml").write_text("train: list.txt\nnc: 3\n")
    shutil.copy(yolo / "images" / "train" / "otter.jpg", yolo.parent / "secret.jpg")
    (yolo / "list.txt").write_text("../secret.jpg\n/etc/hostname\nimages/train/otter.jpg\nnone.jpg\n")
    dataset, problems = read_split(yolo, "train")
    assert len(dataset) == 1
    assert [p.split(": ")[1] for p in problems] == ["line 1", "line 2", "line 4"]
    assert ["secret" in problems[0], "hostname" in problems[1], "none" in problems[2]] == [True] * 3
    (yolo / "data.yaml").write_text("train: nowhere\nnc: 3\n")
    with pytest.raises(DataError, match="nowhere"):
        read_split(yolo, "train")


def test_yolo_bad_lines_all_at_once(yolo: Path) -> None:
    square = [(20.0, 30.0), (60.0, 30.0), (60.0, 80.0)]
    good = yolo_line(2, square, size_of("otter"))
    bad = {
        "1 0.1 0.1 0.2 0.1 0.2 0.2": "class 1 ",
        "0.5 0.1 0.1 0.2 0.1 0.2 0.2": "class 0.5 ",
        "2 0.5 0.5 0.2 0.2": "box",
        "2 0.1 0.1 0.2 0.1": "box",
        "2 0.1 0.1 0.2 0.1 0.2": "5 numbers",
        "2 0.1 0.1 0.2 0.1 0.2 x": "number",
        "2 0.1 0.1 0.2 0.1 0.2 nan": "finite",
        "2 10 10 60 10 60 80": "10 to 80",
        "": None,
        "2 0.1 0.1 0.2 0.1 0.2 1.001": None,
    }
    file = yolo / "labels" / "train" / "otter.txt"
    file.write_text("\n".join([good, *bad]))
    (yolo / "labels" / "train" / "orphan.txt").write_text(good)
    (yolo / "images" / "train" / "broken.jpg").write_bytes(b"no image")
    dataset, problems = read_split(yolo, "train")
    assert len(dataset.images[0].annotations) == 2
    assert problems[0].startswith(f"{yolo / 'labels' / 'train' / 'orphan.txt'}: ")
    assert "broken.jpg" in problems[1]
    wanted = [(number, what) for number, what in enumerate(bad.values(), start=2) if what]
    assert len(problems) == len(wanted) + 2
    for problem, (number, what) in zip(problems[2:], wanted, strict=True):
        assert problem.startswith(f"{file}: line {number}: ")
        assert what in problem


def test_yolo_without_any_label_file_is_an_error(yolo: Path) -> None:
    shutil.rmtree(yolo / "labels")
    (problem,) = read_split(yolo, "train")[1]
    assert str(yolo / "labels" / "train" / "otter.txt") in problem


def test_yolo_sides_follow_the_exif_rotation(yolo: Path) -> None:
    path = yolo / "images" / "train" / "otter.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as opened:
        opened.resize((60, 40)).save(path, exif=exif)
    (yolo / "labels" / "train" / "otter.txt").write_text("2 0.25 0.5 0.5 0.5 0.5 1 0.25 1\n")
    (image,) = open_datasets(yolo, ("train",))[0].images
    assert (image.height, image.width) == (60, 40)
    assert image.annotations[0].box == (10, 30, 20, 60)


def test_yolo_keys_and_files_that_are_not_splits_or_labels(yolo: Path) -> None:
    (yolo / "LICENSE").write_text("")
    with (yolo / "data.yaml").open("a") as file:
        file.write("download: labels\nlicense: LICENSE\nmore: images/val\n")
    for folder in ("images/train/._otter.jpg", "labels/train/._otter.txt"):
        (yolo / folder).write_bytes(b"\0\5\x16\7")
    assert splits_of(yolo) == ["train", "val", "more"]
    assert problems_of(yolo) == ""


# LabelMe


def edit_labelme(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "train" / "otter.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_labelme_folder_without_splits(labelme: Path) -> None:
    folder = labelme / "train"
    assert splits_of(folder) == ["train"]
    assert read_split(folder, "train")[0].class_names == ("aeroplane", "bird")
    shutil.copy(folder / "otter.jpg", folder / "other.jpg")
    assert "1 images" in describe_layout(folder)


def test_labelme_classes_of_all_splits(labelme: Path) -> None:
    edit_labelme(labelme, lambda c: c["shapes"].append(shape("zoo", [[1, 1], [9, 1], [9, 9]])))
    edit_labelme(labelme, lambda c: c["shapes"].pop(1))
    train, val = open_datasets(labelme, ("train", "val"))
    assert train.class_names == val.class_names == ("aeroplane", "bird", "zoo")


def test_labelme_circle_and_crowd(labelme: Path) -> None:
    circle = shape("sun", [[100, 60], [100, 20]], "circle") | {"flags": {"crowd": True}}
    edit_labelme(labelme, lambda c: c.update(shapes=[circle], imageHeight=None, imageWidth=None))
    (annotation,) = read_split(labelme, "train")[0].images[0].annotations
    assert annotation.crowd
    assert annotation.area == pytest.approx(np.pi * 40**2, rel=0.005)
    assert annotation.box == pytest.approx((60, 20, 140, 100), abs=0.05)


def test_labelme_errors_all_at_once(labelme: Path) -> None:
    bad = {
        "'line'": shape("a", [[1, 1], [9, 9]], "line"),
        "2 points": shape("b", [[1, 1], [9, 9]]),
        "finite": shape("c", [[1, 1], [9, 9], [1, float("nan")]]),
        "label": shape("", [[1, 1], [9, 9], [9, 1]]),
        "280 x 260": shape("d", [[1, 1], [9, 9], [9, 90000]]),
        "1 points": shape("e", [[1, 1]], "circle"),
        "pixels": shape("f", [[1, 1], [9, 9]], "mask"),
        "mask": shape("g", [[1, 1], [9, 9]], "mask", mask="bm8="),
        "mask .*280 x 260": labelme_shapes("otter")[1] | {"points": [[250, 30], [289, 79]]},
        "int": 3,
    }
    edit_labelme(labelme, lambda c: c["shapes"].extend(bad.values()))
    (labelme / "train" / "other.json").write_text('{"shapes": 3}')
    (labelme / "train" / "text.json").write_text("{")
    dataset, problems = read_split(labelme, "train")
    assert len(dataset.images[0].annotations) == 3
    assert "other.json" in problems[0]
    assert "text.json" in problems[-1]
    assert len(problems) == len(bad) + 2
    for number, (problem, what) in enumerate(zip(problems[1:], bad, strict=False), start=4):
        assert f"otter.json: shape {number}" in problem
        assert re.search(what, problem)


@pytest.mark.parametrize(
    "name", ["../../secret.jpg", "..\\..\\secret.jpg", "/etc/hostname", "C:\\a.jpg", "gone.jpg", ""]
)
def test_labelme_paths(labelme: Path, name: str) -> None:
    shutil.copy(labelme / "train" / "otter.jpg", labelme.parent / "secret.jpg")
    edit_labelme(labelme, lambda c: c.update(imagePath=name, imageData=None))
    with pytest.raises(DataError, match=r"otter\.json") as caught:
        read_split(labelme, "train")
    (problem,) = caught.value.problems
    assert (repr(name) if name else "imagePath") in problem


def test_labelme_images_in_a_folder_beside(labelme: Path) -> None:
    (labelme / "photos").mkdir()
    (labelme / "train" / "otter.jpg").rename(labelme / "photos" / "otter.jpg")
    edit_labelme(labelme, lambda c: c.update(imagePath="..\\photos\\otter.jpg"))
    assert len(open_datasets(labelme, ("train",))[0]) == 1


@pytest.mark.parametrize("name", ["2020-01-01T12:30:00.jpg", "cell_mask.png"])
def test_labelme_names_that_look_like_others(labelme: Path, name: str) -> None:
    """Like that of a drive, and like that of a mask."""
    with Image.open(labelme / "train" / "otter.jpg") as opened:
        opened.save(labelme / "train" / name)
    edit_labelme(labelme, lambda c: c.update(imagePath=name))
    (labelme / "train" / "otter.json").rename(labelme / "train" / f"{name[:-4]}.json")
    (image,) = open_datasets(labelme, ("train",))[0].images
    assert image.path == labelme / "train" / name


def test_annotations_beside_the_folders_of_splits_are_an_error(labelme: Path) -> None:
    shutil.copy(labelme / "train" / "otter.json", labelme)
    with pytest.raises(DataError, match=re.escape(str(labelme))):
        splits_of(labelme)


def test_labelme_splits_in_a_folder_of_images(labelme: Path) -> None:
    (labelme / "images").mkdir()
    for split in PHOTOS:
        (labelme / split).rename(labelme / "images" / split)
    assert splits_of(labelme) == ["train", "val"]
    for dataset, name in zip(open_datasets(labelme, ("train", "val")), PHOTOS.values(), strict=True):
        same_as_blocks(dataset, name, [0, 1, 2])
    shutil.copytree(labelme / "images" / "train", labelme / "more")
    with pytest.raises(DataError, match=re.escape(str(labelme / "images"))):
        splits_of(labelme)


def test_hidden_files_of_macos_are_not_lists(voc: Path) -> None:
    lists = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "._train.txt").write_bytes(b"\0\5\x16\7")
    assert splits_of(voc) == ["train", "val", "trainval"]


# Masks


def test_masks_of_8_and_16_bits(masks_apart: Path) -> None:
    assert splits_of(masks_apart) == ["train"]
    (dataset,) = open_datasets(masks_apart, ("train",))
    assert dataset.class_names == ("object",)
    for name in PHOTOS.values():
        same_as_blocks(dataset, name, [0, 1, 2])


def test_masks_beside_images_and_splits(masks_apart: Path) -> None:
    for split, name in PHOTOS.items():
        (masks_apart / split).mkdir()
        (masks_apart / "images" / f"{name}.jpg").rename(masks_apart / split / f"{name}.jpg")
        (masks_apart / "masks" / f"{name}.png").rename(masks_apart / split / f"{name}_masks.png")
    for folder in ("images", "masks"):
        (masks_apart / folder).rmdir()
    assert splits_of(masks_apart) == ["train", "val"]
    for dataset, name in zip(open_datasets(masks_apart, ("train", "val")), PHOTOS.values(), strict=True):
        same_as_blocks(dataset, name, [0, 1, 2])


def test_masks_in_folders_of_splits(masks_apart: Path) -> None:
    """images/train with masks/train, as for YOLO's labels."""
    for split, name in PHOTOS.items():
        for folder, suffix in (("images", "jpg"), ("masks", "png")):
            (masks_apart / folder / split).mkdir()
            place = masks_apart / folder
            (place / f"{name}.{suffix}").rename(place / split / f"{name}.{suffix}")
    assert splits_of(masks_apart) == ["train", "val"]
    for dataset, name in zip(open_datasets(masks_apart, ("train", "val")), PHOTOS.values(), strict=True):
        same_as_blocks(dataset, name, [0, 1, 2])
    shutil.copy(masks_apart / "images" / "val" / "tiger.jpg", masks_apart / "images")
    with pytest.raises(DataError, match=re.escape(str(masks_apart / "images"))):
        splits_of(masks_apart)


@pytest.mark.parametrize(
    ("kind", "mask"), [("masks_apart", "masks/otter"), ("bowl", "train/otter/masks/more")]
)
@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".tif", {"compression": "jpeg"})])
def test_a_mask_that_was_a_jpeg_is_refused(
    kind: str, mask: str, suffix: str, options: Any, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(kind)
    (data / f"{mask}.png").unlink(missing_ok=True)
    image = Image.new("L", size_of("otter")[::-1])
    image.paste(1, (5, 5, 90, 90))
    image.save(data / f"{mask}{suffix}", format="TIFF" if options else "JPEG", **options)
    assert f"{data / mask}{suffix}: is a JPEG" in problems_of(data)


def test_masks_with_a_palette_are_read_by_their_colours(tmp_path: Path) -> None:
    """Its first colour may be the white of the object."""
    place = tmp_path / "train" / "a"
    for folder in ("images", "masks"):
        (place / folder).mkdir(parents=True)
    mask = Image.new("L", (50, 40))
    mask.paste(255, (5, 5, 15, 15))
    Image.new("RGB", (50, 40)).save(place / "images" / "a.png")
    mask.quantize(2).save(place / "masks" / "0.png")
    with Image.open(place / "masks" / "0.png") as saved:
        assert saved.mode == "P"
        assert saved.getpixel((0, 0)) == 1
    (image,) = open_datasets(tmp_path, ("train",))[0].images
    assert [annotation.area for annotation in image.annotations] == [100]


def test_images_in_hidden_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("b.png", ".a.png", ".ipynb_checkpoints/b-checkpoint.png", "deep/c.png"):
        (tmp_path / ".data" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / ".data" / name).touch()
    assert [path.name for path in images_below(tmp_path / ".data")] == ["b.png", "c.png"]


@pytest.mark.parametrize("suffix", ["PNG", "Png"])
def test_masks_whose_suffix_differs_in_case(masks_apart: Path, suffix: str) -> None:
    (masks_apart / "images" / "otter.jpg").rename(masks_apart / "images" / "otter.JPG")
    (masks_apart / "masks" / "otter.png").rename(masks_apart / "masks" / f"otter.{suffix}")
    assert problems_of(masks_apart) == ""


def test_masks_that_do_not_fit(masks_apart: Path) -> None:
    Image.new("L", (9, 9), 1).save(masks_apart / "masks" / "otter.png")
    (masks_apart / "masks" / "tiger.png").rename(masks_apart / "masks" / "lion.png")
    with pytest.raises(DataError) as caught:
        open_datasets(masks_apart, ("train",))
    for problem, what in zip(
        sorted(caught.value.problems),
        ["otter.jpg: image 1", "tiger.jpg", "lion.png"],
        strict=True,
    ):
        assert what in problem


def test_bowl_errors_all_at_once(bowl: Path) -> None:
    first = bowl / "train" / "otter"
    Image.new("L", (9, 9), 1).save(first / "masks" / "small.png")
    Image.new("L", size_of("otter")[::-1]).save(first / "masks" / "nothing.png")
    (first / "masks" / "text.png").write_bytes(b"text")
    for name in ("two", "bare"):
        shutil.copytree(first / "images", bowl / "train" / name / "images")
    shutil.copy(first / "images" / "otter.png", bowl / "train" / "two" / "images" / "again.png")
    dataset, problems = read_split(bowl, "train")
    assert [len(p.annotations) for p in dataset.images] == [3]
    wanted = [
        "bare: .*masks/",
        "nothing.png: ",
        "small.png: .*9 x 9",
        "text.png: ",
        "two/images: .*2 images",
    ]
    assert len(problems) == len(wanted)
    for problem, what in zip(problems, wanted, strict=True):
        assert re.search(what, problem)
