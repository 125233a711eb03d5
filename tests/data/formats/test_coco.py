"""The COCO reader: what it accepts, and that every problem is listed at once, by file and annotation id."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.formats.coco import parse_coco, read_coco
from instancefcn.data.image_checks import inspect_image
from instancefcn.errors import DataError, Problem

Content = dict[str, Any]
Form = Literal["NFC", "NFD"]
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three 60 x 40 images: a and b with an object each, c with none."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name in ("a.jpg", "deep/b.jpg", "c.png"):
        Image.fromarray(noise).save(tmp_path / "images" / name)
    return tmp_path


def good() -> Content:
    record = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "segmentation": SQUARE}
    return {
        "images": [
            {"id": 5, "file_name": "a.jpg", "width": 60, "height": 40},
            {"id": 2, "file_name": "deep/b.jpg", "width": 60, "height": 40},
            {"id": 9, "file_name": "c.png", "width": 60, "height": 40},
        ],
        "annotations": [
            {"id": 100, "image_id": 5, "category_id": 70, **record},
            {"id": 101, "image_id": 2, "category_id": 3, **record},
        ],
        "categories": [{"id": 70, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def read(folder: Path, content: object) -> Dataset:
    (folder / "train.json").write_text(json.dumps(content))
    return read_coco(folder / "train.json", folder / "images")


def problems_of(folder: Path, content: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(folder, content)
    return list(caught.value.problems)


def test_labels_boxes_and_order(folder: Path) -> None:
    dataset = read(folder, good())
    assert dataset.category_ids == (3, 70)
    assert dataset.class_names == ("dog", "cat")
    assert [p.id for p in dataset.images] == [5, 2, 9]
    assert [[a.label for a in p.annotations] for p in dataset.images] == [[1], [0], []]
    assert dataset.images[0].annotations[0].box == (10.0, 10.0, 30.0, 30.0)
    assert dataset.images[1].path == folder / "images" / "deep" / "b.jpg"
    assert (dataset.images[0].height, dataset.images[0].width) == (40, 60)
    assert len(dataset.subset([2, 0])) == 2


def test_what_other_tools_leave_out(folder: Path) -> None:
    content = good()
    for annotation in content["annotations"]:
        del annotation["bbox"], annotation["area"], annotation["iscrowd"]
    runs = [40 * 5 + 2, 3, 37, 3, 40 * 60 - 245]  # columns 5 and 6, rows 2 to 4
    content["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": runs}
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = 5.0
    first, second, _ = read(folder, content).images
    assert first.id == 5
    assert first.annotations[0].box == (10, 10, 30, 30)
    assert first.annotations[0].area == 400
    assert not first.annotations[0].crowd
    assert second.annotations[0].box == (5, 2, 7, 5)
    assert rasterize(second).tight_boxes().tolist() == [[5, 2, 7, 5]]


def test_a_missing_area_is_the_number_of_pixels(folder: Path) -> None:
    content = good()
    del content["annotations"][0]["area"]
    content["annotations"][0]["segmentation"] = [[10, 10, 30, 10, 10, 30]]
    content["annotations"][1] |= {
        "area": None,
        "segmentation": {"size": [40, 60], "counts": [202, 3, 37, 3, 2155]},
    }
    first, second, _ = read(folder, content).images
    assert first.annotations[0].area == rasterize(first).areas()[0] < 20 * 20 / 1.5
    assert second.annotations[0].area == 6


def test_null_is_as_good_as_missing(folder: Path) -> None:
    content = good()
    content["annotations"][0] |= {"bbox": None, "area": None, "iscrowd": None}
    annotation = read(folder, content).images[0].annotations[0]
    assert (annotation.box, annotation.area, annotation.crowd) == ((10, 10, 30, 30), 400, False)


def test_crowd_stays(folder: Path) -> None:
    content = good()
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"size": [40, 60], "counts": [80, 40, 2280]}}
    annotation = read(folder, content).images[0].annotations[0]
    assert annotation.crowd
    assert isinstance(annotation.segmentation, dict)
    assert isinstance(annotation.segmentation["counts"], str)
    assert len(rasterize(ImageRecord(1, Path("a"), 40, 60, (annotation,)))) == 0


def edit(path: str, value: Any) -> Callable[[Content], None]:
    """Set content[a][b].. for a path "a.b.."; the value `del` removes it."""

    def apply(content: Content) -> None:
        keys = [int(key) if key.isdigit() else key for key in path.split(".")]
        target: Any = content
        for key in keys[:-1]:
            target = target[key]
        if value is del_:
            del target[keys[-1]]
        else:
            target[keys[-1]] = value

    return apply


del_ = object()


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (edit("images.0.file_name", "gone.jpg"), ["image 5 (gone.jpg)"]),
        (edit("images.1.file_name", "b.jpg"), ["image 2 (b.jpg)", '"deep/b.jpg"']),
        (edit("images.0.file_name", "../secret.jpg"), ["image 5 (../secret.jpg)"]),
        (edit("images.0.file_name", "deep/../../secret.jpg"), ["image 5 (deep/../../secret.jpg)"]),
        (edit("images.0.file_name", "..\\secret.jpg"), ["image 5 (..\\secret.jpg)"]),
        (edit("images.0.file_name", "/etc/hostname"), ["image 5 (/etc/hostname)"]),
        (edit("images.0.file_name", "C:\\z.jpg"), ["image 5 (C:\\z.jpg)"]),
        (edit("images.0.file_name", "."), ["image 5 (.)"]),
        (edit("images.0.file_name", ""), ["image 5", "file_name"]),
        (edit("images.0.file_name", 3), ["image 5 (3)", "file_name"]),
        (edit("images.0.width", 61), ["a.jpg", "60 x 40", "61 x 40"]),
        (edit("images.0.width", "wide"), ["image 5", "'wide' x 40"]),
        (edit("images.0", {"id": 5, "file_name": "a.jpg", "width": 61}), ["image 5", "61 x None"]),
        (edit("images.0.id", del_), ["image record 0", "image_id 5"]),
        (edit("images.1.id", 5), ["image 5", "annotation 101", "image_id 2"]),
        (edit("images.0", "a.jpg"), ["image record 0", "str"]),
        (edit("annotations.0.id", 1.5), ["annotation record 0", "1.5"]),
        (edit("annotations.0.image_id", "x"), ["annotation 100", "image_id 'x'"]),
        (edit("annotations.0.segmentation", [[]]), ["annotation 100 (a.jpg)", "outline"]),
        (edit("annotations.0.segmentation", {}), ["annotation 100 (a.jpg)", "outline"]),
        (edit("annotations.0.segmentation", [1, 1, 9, 1, 9]), ["annotation 100 (a.jpg)", "5 numbers"]),
        (edit("annotations.1.id", 100), ["annotation 100"]),
        (edit("annotations.0.category_id", 4), ["annotation 100 (a.jpg)", "category_id 4", "3, 70"]),
        (edit("annotations.0.category_id", del_), ["annotation 100 (a.jpg)", "category_id None"]),
        (edit("annotations.0.image_id", 1), ["annotation 100", "image_id 1"]),
        (edit("annotations.0.segmentation", [[1, 1, 9, 9]]), ["annotation 100 (a.jpg)", "2 points"]),
        (edit("annotations.0.segmentation", del_), ["annotation 100 (a.jpg)", "outline"]),
        (
            edit("annotations.0.segmentation", {"size": [41, 60], "counts": [41 * 60]}),
            ["annotation 100 (a.jpg)", "[41, 60]", "[40, 60]"],
        ),
        (edit("annotations.0.bbox", [50, 10, 30, 20]), ["annotation 100 (a.jpg)", "[50, 10, 30, 20]"]),
        (edit("annotations.0.bbox", [-9, 10, 30, 20]), ["annotation 100 (a.jpg)", "[-9, 10, 30, 20]"]),
        (edit("annotations.0.bbox", [10, 10, -3, 20]), ["annotation 100 (a.jpg)", "[10, 10, -3, 20]"]),
        (edit("annotations.0.bbox", [10, 10, 0, 0]), ["annotation 100 (a.jpg)", "[10, 10, 0, 0]"]),
        (edit("annotations.0.bbox", [float("nan"), 1, 2, 2]), ["annotation 100 (a.jpg)", "[nan, 1, 2, 2]"]),
        (edit("annotations.0.bbox", [10**400, 1, 2, 2]), ["annotation 100 (a.jpg)", "bbox"]),
        (edit("annotations.0.bbox", [1, 2, 3]), ["annotation 100 (a.jpg)", "[1, 2, 3]"]),
        (edit("annotations.0.iscrowd", 2), ["annotation 100 (a.jpg)", "iscrowd is 2"]),
        (edit("categories.0.id", 3), ["category 3"]),
        (edit("categories.0.name", ""), ["category 70"]),
        (edit("categories", []), ['"categories"']),
        (edit("images", []), ['"images"']),
        (edit("images", {}), ['"images"', "dict"]),
        (edit("annotations", del_), ['"annotations"']),
    ],
)
def test_bad_records(folder: Path, change: Callable[[Content], None], values: list[str]) -> None:
    shutil.copy(folder / "images" / "a.jpg", folder / "secret.jpg")
    content = good()
    change(content)
    text = "\n".join(problems_of(folder, content))
    for value in values:
        assert value in text


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"images": []}', "\0", "[" * 100_000])
def test_files_of_another_shape(folder: Path, text: str) -> None:
    (folder / "train.json").write_text(text)
    with pytest.raises(DataError, match=r"train\.json"):
        read_coco(folder / "train.json", folder / "images")


def test_missing_places(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_coco(folder / "none.json", folder / "photos")
    assert len(caught.value.problems) == 2


def test_everything_is_listed_at_once(folder: Path) -> None:
    content = good()
    template = content["annotations"][0]
    content["annotations"] += [
        {**template, "id": 200, "segmentation": [[1, 1, 9, 9]], "bbox": [100, 100, 5, 5]},
        {**template, "id": 201, "category_id": 8},
        {**template, "id": 202, "segmentation": {"size": [60, 40], "counts": [2400]}},
        {**template, "id": 101},
    ]
    content["images"] += [{"id": 10, "file_name": "gone.jpg", "width": 60, "height": 40}]
    content["annotations"] += [{**template, "id": 203, "image_id": 10}]
    broken = folder / "images" / "a.jpg"
    broken.write_bytes(broken.read_bytes()[:900])
    problems = problems_of(folder, content)
    wanted = [
        ("image 10 (gone.jpg)", "missing-image"),
        ("annotation 200 (a.jpg)", "polygon-points"),
        ("annotation 200 (a.jpg)", "out-of-bounds"),
        ("annotation 201 (a.jpg)", "unknown-category"),
        ("annotation 202 (a.jpg)", "outline"),
        ("annotation 101", "duplicate-id"),
        ("a.jpg: image 5", "unreadable-image"),
    ]
    assert len(problems) == len(wanted), problems
    for where, check in wanted:
        found = [p for p in problems if where in p and isinstance(p, Problem) and p.check == check]
        assert len(found) == 1, (where, check, problems)


def test_boxes_may_be_rounded_over_the_edge(folder: Path) -> None:
    content = good()
    content["annotations"][0]["bbox"] = [-0.5, 0, 61.0, 41.5]
    content["annotations"][1]["bbox"] = [10, 10, 20, 0]
    assert len(read(folder, content)) == 3


def test_names_that_begin_with_the_folder(folder: Path) -> None:
    content = good()
    content["images"][0]["file_name"] = "images/a.jpg"
    content["images"][1]["file_name"] = "images\\deep\\b.jpg"
    assert read(folder, content).images[0].path == folder / "images" / "a.jpg"


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_composed_or_decomposed_accents(folder: Path, written: Form, stored: Form) -> None:
    """Archives made on macOS hold names with decomposed accents."""
    normal = unicodedata.normalize
    (folder / "images" / normal(stored, "tête")).mkdir()
    path = folder / "images" / normal(stored, "tête/é.jpg")
    (folder / "images" / "a.jpg").rename(path)
    content = good()
    for name in ("tête/é.jpg", "images/tête/é.jpg"):
        content["images"][0]["file_name"] = normal(written, name)
        assert read(folder, content).images[0].path == path
    exact = folder / "images" / normal(written, "é.jpg")
    other = folder / "images" / normal(stored, "é.jpg")
    for place in (exact, other):
        shutil.copy(path, place)
    content["images"][0]["file_name"] = exact.name
    assert read(folder, content).images[0].path == exact
    other.unlink()
    exact.unlink()
    assert f'"{path.relative_to(folder / "images").as_posix()}"' in problems_of(folder, content)[0]
    name = normal("NFC", "é" * 120 + ".jpg")  # too long for a file name in NFD
    content["images"][0]["file_name"] = name
    (problem,) = problems_of(folder, content)
    assert str(folder / "images" / name) in problem


def test_exif_rotation_against_the_record(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "images" / "a.jpg"
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    assert inspect_image(ImageRecord(1, path, 60, 40)).problem is None
    problem = inspect_image(ImageRecord(1, path, 40, 60)).problem
    assert problem is not None
    assert problem.check == "exif-rotation"


def test_progress_and_no_check(folder: Path) -> None:
    (folder / "train.json").write_text(json.dumps(good()))
    seen: list[tuple[int, int]] = []
    read_coco(folder / "train.json", folder / "images", progress=lambda *now: seen.append(now))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    (folder / "images" / "a.jpg").write_bytes(b"nothing")
    assert len(read_coco(folder / "train.json", folder / "images", check_images=False)) == 3


def test_parse_keeps_what_is_usable(folder: Path) -> None:
    content = good()
    content["annotations"][0]["category_id"] = 1
    (folder / "train.json").write_text(json.dumps(content))
    shutil.rmtree(folder / "images" / "deep")
    dataset, problems = parse_coco(folder / "train.json", folder / "images", name="mine")
    assert dataset.name == "mine"
    assert [p.id for p in dataset.images] == [5, 9]
    assert len(problems) == 2


@pytest.mark.parametrize("unknown", [None, 0, -1, ""])
def test_sizes_that_are_not_stated_are_read_from_the_files(folder: Path, unknown: object) -> None:
    content = good()
    for record in content["images"]:
        record |= {"width": unknown, "height": unknown}
    del content["images"][1]["width"], content["images"][1]["height"]
    dataset = read(folder, content)
    assert [(p.height, p.width) for p in dataset.images] == [(40, 60)] * 3
    (note,) = dataset.notes
    assert "3 image records have no size (a.jpg, ..)" in note


def test_a_missing_or_broken_file_without_a_size_is_one_problem(folder: Path) -> None:
    content = good()
    for record in content["images"]:
        del record["width"], record["height"]
    (folder / "images" / "a.jpg").unlink()
    (folder / "images" / "c.png").write_bytes(b"no image")
    problems = problems_of(folder, content)
    found = [p.check for p in problems if isinstance(p, Problem)]
    assert found == ["missing-image", "unreadable-image"]


def test_ids_of_text_are_numbered(folder: Path) -> None:
    """Text that is a number is that number; other text gets one that no record has."""
    content = good()
    names = {5: "img_a", 2: "img_b", 9: "img_a "}
    for record in content["images"]:
        record["id"] = names[record["id"]]
    for record in content["annotations"]:
        record |= {"id": f"uuid-{record['id']}", "image_id": names[record["image_id"]]}
    content["annotations"][0]["category_id"] = "70"
    content["categories"][1]["id"] = content["annotations"][1]["category_id"] = "dog"
    dataset = read(folder, content)
    assert dataset.category_ids == (70, 71)
    assert dataset.class_names == ("cat", "dog")
    assert [p.id for p in dataset.images] == [1, 2, 3]
    assert [[(a.id, a.label) for a in p.annotations] for p in dataset.images] == [[(1, 0)], [(2, 1)], []]
    assert ["'img_a', .." in dataset.notes[1], "'dog'" in dataset.notes[0]] == [True, True]
    content["images"][1]["id"] = "img_a"
    assert any("image 'img_a'" in p and "more than once" in p for p in problems_of(folder, content))


@pytest.mark.parametrize(
    ("written", "polygons"),
    [
        ([1, 2, 9, 2, 9, 8], [[1, 2, 9, 2, 9, 8]]),
        ([[1, 2], [9, 2], [9, 8]], [[1, 2, 9, 2, 9, 8]]),
        ([{"x": 1, "y": 2}, {"x": 9, "y": 2}, {"x": 9, "y": 8}], [[1, 2, 9, 2, 9, 8]]),
        (
            [[[1, 2], [9, 2], [9, 8]], [[20, 2], [29, 2], [29, 8]]],
            [[1, 2, 9, 2, 9, 8], [20, 2, 29, 2, 29, 8]],
        ),
    ],
)
def test_outlines_that_are_lists_of_points(folder: Path, written: Any, polygons: Any) -> None:
    content = good()
    content["annotations"][0] |= {"segmentation": written, "bbox": None}
    dataset = read(folder, content)
    assert dataset.images[0].annotations[0].segmentation == polygons
    assert "1 outlines" in dataset.notes[0]
    assert "annotation 100" in dataset.notes[0]


def test_a_list_with_one_rle_is_that_rle(folder: Path) -> None:
    content = good()
    runs = {"size": [40, 60], "counts": [202, 3, 37, 3, 2155]}
    content["annotations"][0] |= {"segmentation": [runs], "bbox": None, "iscrowd": "1"}
    annotation = read(folder, content).images[0].annotations[0]
    assert annotation.box == (5, 2, 7, 5)
    assert annotation.crowd


def test_class_names_that_are_numbers(folder: Path) -> None:
    content = good()
    content["categories"][0]["name"] = 7
    assert read(folder, content).class_names == ("dog", "7")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_encodings(folder: Path, encoding: str) -> None:
    content = good()
    content["categories"][0]["name"] = "čat"
    (folder / "train.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert read_coco(folder / "train.json", folder / "images").class_names == ("dog", "čat")


def test_another_encoding_is_named(folder: Path) -> None:
    content = good()
    content["categories"][0]["name"] = "chien à poil"
    text = json.dumps(content, ensure_ascii=False)
    (folder / "train.json").write_text(text, encoding="cp1252")
    with pytest.raises(DataError) as caught:
        read_coco(folder / "train.json", folder / "images")
    (problem,) = caught.value.problems
    assert f"byte {text.index('à')}" in problem
    assert "UTF-8" in problem


def test_stale_paths_of_two_records_to_one_file(folder: Path) -> None:
    """`/old/train/a.jpg` and `/old/val/a.jpg` end alike; a file of that name may be either."""
    content = good()
    content["images"][0]["file_name"] = "/old/train/a.jpg"
    assert read(folder, content).images[0].path == folder / "images" / "a.jpg"
    content["images"][2]["file_name"] = "/old/val/a.jpg"
    problems = problems_of(folder, content)
    assert [p.check for p in problems if isinstance(p, Problem)] == ["missing-image"] * 2
    assert ["/old/train" in problems[0], "/old/val" in problems[1]] == [True, True]


def test_parse_keeps_the_sound_part_of_an_annotation(folder: Path) -> None:
    content = good()
    content["annotations"][0]["segmentation"] = [[1, 1, 9, 9], *SQUARE]
    content["annotations"][1] |= {"id": 100, "bbox": [500, 10, 20, 20]}
    (folder / "train.json").write_text(json.dumps(content))
    dataset, problems = parse_coco(folder / "train.json", folder / "images")
    first, second = (image.annotations[0] for image in dataset.images[:2])
    assert first.segmentation == SQUARE
    assert (second.id, second.box) == (101, (10, 10, 30, 30))
    assert [(p.check, p.annotation) for p in problems if isinstance(p, Problem)] == [
        ("polygon-points", 100),
        ("duplicate-id", 101),
        ("out-of-bounds", 101),
    ]


@pytest.mark.parametrize(("name", "count"), [("animals7", 296), ("nuclei", 3043), ("coco80", 2685)])
def test_real_data(shared: Path, name: str, count: int) -> None:
    from instancefcn.data.formats.layouts import open_dataset

    dataset = open_dataset(shared / "data" / name, "val", check_images=False)
    assert sum(len(p.annotations) for p in dataset.images) == count
