"""The repaired copy: what can be repaired is, every repair is listed, and nothing is lost in silence."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instancefcn.data.dataset import rasterize
from instancefcn.data.doctor.examine import Report, examine
from instancefcn.data.doctor.fix import write_repaired_copy
from instancefcn.data.doctor.repairs import clip_polygon
from instancefcn.data.formats.layouts import open_datasets, splits_of
from instancefcn.errors import OutputError
from instancefcn.images.decoding import read_image
from sick import HEIGHT, SICK, WIDTH, Sick, clean, first


def fixed(sick: Sick) -> tuple[list[dict[str, Any]], Report, Path]:
    copy = sick.folder.parent / "copy"
    found = examine(sick.write(), model="fcis_lite")
    return (*write_repaired_copy(found, copy, model="fcis_lite"), copy)


@pytest.mark.parametrize(("check", "severity", "change", "repairable"), SICK)
def test_repairable_findings_go_away_and_others_stay(
    tmp_path: Path, check: str, severity: str, change: Callable[[Sick], Any], repairable: bool
) -> None:
    sick = clean(tmp_path / "data")
    change(sick)
    repairs, left, copy = fixed(sick)
    written = json.loads((copy / "repairs.json").read_text())
    assert written["repairs"] == repairs
    assert written["left"] == [finding.as_json() for finding in left.findings]
    listed = repairable and check != "unread-file"  # what is not read is only left out
    assert {repair["check"] for repair in repairs} == ({check} if listed else set())
    assert (check in {finding.check for finding in left.findings}) == (not repairable)
    if repairable:
        assert not left.errors
        open_datasets(copy, ("train", "val"))
    assert splits_of(copy) == ["train", "val"]


def test_a_clean_dataset_does_not_change(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.train |= {"info": {"year": 2024}, "licenses": [{"id": 1, "name": "CC0"}]}
    sick.train["images"][0]["license"] = 1
    sick.train["annotations"][0]["attributes"] = {"seen": True}
    sick.train["categories"][0]["supercategory"] = "thing"
    repairs, left, copy = fixed(sick)
    assert repairs == []
    assert left.findings == ()
    assert json.loads((copy / "train.json").read_text()) == sick.train
    assert json.loads((copy / "val.json").read_text()) == sick.val
    for path in sorted((sick.folder / "images").iterdir()):
        assert (copy / "images" / path.name).read_bytes() == path.read_bytes()
        assert os.path.samefile(copy / "images" / path.name, path)


def test_a_yaml_file_of_two_folders(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.val["info"] = {"year": 2024}
    sick.write()
    lines = [
        f"{split}: {{annotations: data/{split}.json, images: data/images}}" for split in ("train", "val")
    ]
    (tmp_path / "both.yaml").write_text("\n".join(lines))
    repairs, left = write_repaired_copy(examine(tmp_path / "both.yaml"), tmp_path / "copy")
    assert (repairs, left.findings) == ([], ())
    assert json.loads((tmp_path / "copy/val.json").read_text()) == sick.val


@pytest.mark.parametrize("absolute", [False, True])
def test_paths_with_dots_are_named_from_their_common_folder(tmp_path: Path, absolute: bool) -> None:
    """Links among the images are not followed: they keep their names."""
    sick = clean(tmp_path / "data")
    own = tmp_path / "deep" / "er" / "own"
    own.mkdir(parents=True)
    for split in ("train", "val"):
        (own.parent / f"{split}.json").write_text(json.dumps(getattr(sick, split)))
    for name in ("val0.png", "val1.png"):
        sick.image(name).rename(own / name)
    sick.image("train1.png").rename(tmp_path / "elsewhere.png")
    sick.image("train1.png").symlink_to(tmp_path / "elsewhere.png")
    train = sick.folder / "images" if absolute else "../../data/images"
    text = f"train: {{annotations: train.json, images: {train}}}\nval: {{annotations: val.json, images: own}}"
    (own.parent / "both.yaml").write_text(text)
    with contextlib.chdir(tmp_path / "deep"):
        repairs, left = write_repaired_copy(examine("er/both.yaml"), tmp_path / "out" / "copy")
    assert (repairs, left.findings) == ([], ())
    written = {
        p.relative_to(tmp_path / "out/copy/images").as_posix() for p in (tmp_path / "out").rglob("*.png")
    }
    assert written == {
        *(f"data/images/train{number}.png" for number in range(4)),
        *(f"deep/er/own/val{number}.png" for number in range(2)),
    }


def test_folders_without_a_common_folder_are_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", refuse)
    sick = clean(tmp_path / "data")
    sick.image("sub").mkdir()
    sick.image("val0.png").rename(sick.image("sub") / "train0.png")
    sick.val["images"][0]["file_name"] = "sub/train0.png"
    repairs, left, copy = fixed(sick)
    assert (repairs, left.findings) == ([], ())
    assert json.loads((copy / "val.json").read_text())["images"][0]["file_name"] == "1/train0.png"


def test_voc_lists_keep_their_images(voc_lists: Callable[..., Path], tmp_path: Path) -> None:
    data = voc_lists(train="otter dark", val="tiger", trainval="otter dark tiger", train_noval="dark")
    repairs, left = write_repaired_copy(examine(data), tmp_path / "copy")
    assert repairs == []
    kept = {split.name: len(split.dataset) for split in left.splits}
    assert kept == {"train": 2, "val": 1, "train_noval": 1, "trainval": 3}
    assert not left.of("leak")


def test_lists_of_train_and_val_lose_what_train_loses(voc_lists: Callable[..., Path], tmp_path: Path) -> None:
    """Otherwise they would have an image that no other split has, and count as a split to evaluate on."""
    both = "otter dark tiger stray"
    data = voc_lists(train="otter dark", val="tiger stray", trainval=both, train_noval="otter dark")
    repairs, left = write_repaired_copy(examine(data), tmp_path / "copy")
    assert {(r["check"], r["split"], Path(r["image"]).stem) for r in repairs} == {
        ("leak", split, "otter") for split in ("train", "train_noval", "trainval")
    }
    kept = {split.name: " ".join(p.path.stem for p in split.dataset.images) for split in left.splits}
    wanted = {"train": "dark", "val": "tiger stray", "train_noval": "dark", "trainval": "dark tiger stray"}
    assert kept == wanted
    assert not left.of("leak")


def test_nan_and_infinity_in_other_fields_become_null(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.train["annotations"][4] |= {"score": math.nan, "notes": {"depth": [1.5, -math.inf], "seen": True}}
    sick.train["images"][1]["exposure"] = math.inf
    sick.train["info"] = {"version": math.nan}
    repairs, left, copy = fixed(sick)
    assert left.findings == ()
    content = json.loads((copy / "train.json").read_text())
    assert content["annotations"][4]["score"] is None
    assert content["annotations"][4]["notes"] == {"depth": [1.5, None], "seen": True}
    assert (content["images"][1]["exposure"], content["info"]) == (None, {"version": None})
    fields = ["info", "images.exposure", "annotations.score", "annotations.notes"]
    assert [(r["check"], r["annotation"]) for r in repairs] == [("format", id_) for id_ in (None, None, 5, 5)]
    assert all(field in repair["what"] for field, repair in zip(fields, repairs, strict=True))


def test_every_annotation_keeps_its_own_other_fields(tmp_path: Path) -> None:
    """Also annotations that get a new id from the reader, and those whose id is a float."""
    sick = clean(tmp_path / "data")
    for place, id_ in enumerate([1, 1, 3.0, True]):
        sick.train["annotations"][place] |= {"id": id_, "tag": place}
    sick.train["categories"].append({"id": 1, "name": "cell", "supercategory": "second"})
    _, _, copy = fixed(sick)
    content = json.loads((copy / "train.json").read_text())
    found = {a["tag"]: (a["id"], a["bbox"]) for a in content["annotations"] if "tag" in a}
    boxes = [a["bbox"] for a in sick.train["annotations"]]
    assert found == {place: (id_, boxes[place]) for place, id_ in enumerate([1, 49, 3, 50])}
    assert content["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "ring"}]


def test_a_disk_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    _, left, copy = fixed(clean(tmp_path / "data"))
    assert left.findings == ()
    assert not os.path.samefile(copy / "images/val0.png", tmp_path / "data/images/val0.png")


def test_images_in_folders_keep_their_paths(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for name in ("train0.png", "val0.png"):
        place = sick.image(name[:-5]) / "same.png"
        place.parent.mkdir()
        sick.image(name).rename(place)
    sick.train["images"][0]["file_name"] = "train/same.png"
    sick.val["images"][0]["file_name"] = "val/same.png"
    _, left, copy = fixed(sick)
    assert left.findings == ()
    assert (copy / "images/val/same.png").read_bytes() == (sick.folder / "images/val/same.png").read_bytes()


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    report = examine(clean(tmp_path / "data").write())
    (tmp_path / "copy").mkdir()
    with pytest.raises(OutputError, match="copy"):
        write_repaired_copy(report, tmp_path / "copy")


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instancefcn.data.doctor import fix

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    report = examine(clean(tmp_path / "data").write())
    monkeypatch.setattr(fix, "_put", stop)
    with pytest.raises(KeyboardInterrupt):
        write_repaired_copy(report, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_cut_outline(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    first(segmentation=[[-9, 8, 33, 8, 33, 32, -9, 32]], bbox=[-1, 8, 34, 24], area=1008)(sick)
    repairs, _, copy = fixed(sick)
    assert [(r["check"], r["annotation"]) for r in repairs] == [("out-of-bounds", 1), ("area-mask", 1)]
    record = json.loads((copy / "train.json").read_text())["annotations"][0]
    assert record["bbox"] == [0, 8, 33, 24]
    assert record["area"] == 33 * 24


def test_a_repeated_id_and_a_bad_polygon_keep_the_object(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    second = sick.train["annotations"][1]
    second |= {"id": 1, "segmentation": [[1, 1, 2, 2], *second["segmentation"]]}
    repairs, _, copy = fixed(sick)
    records = json.loads((copy / "train.json").read_text())["annotations"]
    assert len(records) == 48
    assert sorted(record["id"] for record in records) == [1, *range(3, 50)]
    assert [(repair["check"], repair["annotation"]) for repair in repairs] == [
        ("duplicate-id", 49),
        ("polygon-points", 49),
    ]


def test_the_annotations_of_all_records_of_a_file_stay(tmp_path: Path) -> None:
    """A second record of the first file repeats one object and adds one. A copy of the second file gets the
    objects of the second record.
    """
    sick = clean(tmp_path / "data")
    record, other = sick.train["images"][:2]
    again, copied = 1000, 1001
    sick.train["images"] += [record | {"id": again}, other | {"id": copied, "file_name": "copy.png"}]
    folder = sick.folder / "images"
    (folder / "copy.png").write_bytes((folder / other["file_name"]).read_bytes())
    mine = [a for a in sick.train["annotations"] if a["image_id"] == record["id"]]
    x, y = mine[0]["bbox"][:2]
    new = [[x + 1, y + 1, x + 6, y + 1, x + 6, y + 6, x + 1, y + 6]]
    sick.train["annotations"] += [
        mine[0] | {"id": 1000, "image_id": again},
        mine[0]
        | {"id": 1001, "image_id": again, "segmentation": new, "bbox": [x + 1, y + 1, 5, 5], "area": 25},
    ]
    moved = [a for a in sick.train["annotations"] if a["image_id"] == other["id"]]
    for annotation in moved:
        annotation["image_id"] = copied
    repairs, left, copy = fixed(sick)
    content = json.loads((copy / "train.json").read_text())
    of = {image["file_name"]: image["id"] for image in content["images"]}
    kept = [a for a in content["annotations"] if a["image_id"] == of[record["file_name"]]]
    assert [a["id"] for a in kept] == [*(a["id"] for a in mine), 1001]
    assert other["file_name"] not in of
    assert len([a for a in content["annotations"] if a["image_id"] == of["copy.png"]]) == len(moved)
    assert [repair["check"] for repair in repairs] == ["duplicate-image"] * 2
    assert not left.errors


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    """3 rotates by 180 degrees: the record fits, so the image is stored as viewers show it. 6 rotates by 90:
    the record and its outlines belong to the unrotated image."""
    sick = clean(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = sick.image("val0.png")
    with Image.open(path) as image:
        stored = np.array(image)
        image.save(path, exif=exif)
    seen = read_image(path)
    _, left, copy = fixed(sick)
    assert left.findings == ()
    with Image.open(copy / "images/val0.png") as image:
        assert image.getexif().get(0x0112) is None
        pixels = np.array(image)
    assert np.array_equal(pixels, seen.permute(1, 2, 0).numpy() if orientation == 3 else stored)
    assert np.array_equal(read_image(path), seen)  # the source does not change


def test_encoding_again_loses_almost_nothing(tmp_path: Path) -> None:
    """WebP loses nothing, not even at alpha 0; JPEG loses no colour resolution."""
    sick = clean(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(sick.image("val0.png")) as image:
        image.putalpha(0)
        image.save(sick.image("val0.webp"), exif=exif, lossless=True, exact=True)
    stripes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200
    Image.fromarray(stripes).save(sick.image("val1.jpg"), exif=exif, quality=95, subsampling=0)
    names = ("val0.webp", "val1.jpg")
    for record, name in zip(sick.val["images"], names, strict=True):
        record["file_name"] = name
    _, left, copy = fixed(sick)
    assert left.findings == ()
    before, after = ([read_image(p / "images" / name).int() for name in names] for p in (sick.folder, copy))
    webp, jpeg = (int((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    assert webp == 0
    assert jpeg < 12


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_tiff_orientation(tmp_path: Path, orientation: int, compression: str | None) -> None:
    """As above, although Pillow rotates TIFF files itself."""
    sick = clean(tmp_path / "data")
    path = sick.image("val0.tif")
    sick.val["images"][0]["file_name"] = path.name
    with Image.open(sick.image("val0.png")) as image:
        stored = np.array(image)
        image.save(path, tiffinfo={0x0112: orientation, 270: "a note"}, compression=compression)
    seen = read_image(path)
    repairs, left, copy = fixed(sick)
    assert left.findings == ()
    assert [repair["check"] for repair in repairs] == ["exif-rotation"]
    with Image.open(copy / "images/val0.tif") as image:
        assert image.getexif().get(0x0112) is None
        assert image.getexif()[270] == "a note"
        pixels = np.array(image)
    assert np.array_equal(pixels, seen.permute(1, 2, 0).numpy() if orientation < 5 else stored)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_sideways_tiff_is_stored_upright(tmp_path: Path, orientation: int) -> None:
    """The old file's width and height tags are not copied."""
    sick = clean(tmp_path / "data")
    path = sick.image("val0.tif")
    sick.val["images"][0]["file_name"] = path.name
    with Image.open(sick.image("val0.png")) as image:
        turned = image.transpose({6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation])
        turned.save(path, tiffinfo={0x0112: orientation})
        stored = np.array(image)
    _, left, copy = fixed(sick)
    assert left.findings == ()
    assert np.array_equal(read_image(copy / "images/val0.tif").permute(1, 2, 0).numpy(), stored)


def test_a_resized_image_scales_outlines_and_masks(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.val["images"][0] |= {"width": 320, "height": 240}
    runs = [240 * 100 + 40, *([60, 180] * 49), 60]
    rest = 320 * 240 - sum(runs)
    sick.val["annotations"][0] |= {
        "segmentation": {"size": [240, 320], "counts": [*runs, rest]},
        "bbox": [100, 40, 50, 60],
        "area": 3000,
    }
    _, left, copy = fixed(sick)
    assert left.findings == ()
    image = open_datasets(copy, ("val",))[0].images[0]
    boxes = rasterize(image).tight_boxes()
    assert boxes[0].tolist() == [50, 20, 75, 50]
    x, y, w, h = sick.val["annotations"][1]["bbox"]
    assert image.annotations[1].box == (x / 2, y / 2, (x + w) / 2, (y + h) / 2)


@pytest.mark.parametrize(
    ("polygon", "cut"),
    [
        ([1, 1, 9, 1, 9, 9], [1, 1, 9, 1, 9, 9]),
        ([-5, 0, 5, 0, 5, 10, -5, 10], [0, 0, 5, 0, 5, 10, 0, 10]),
        ([20, 0, 30, 0, 30, 5], []),
        ([5, -5, 15, 5, 5, 15, -5, 5], [10, 0, 10, 0, 10, 10, 10, 10, 0, 10, 0, 10, 0, 0, 0, 0]),
    ],
)
def test_clip_polygon(polygon: list[float], cut: list[float]) -> None:
    found = clip_polygon(polygon, 10, 10)
    assert {*zip(found[0::2], found[1::2], strict=True)} == {*zip(cut[0::2], cut[1::2], strict=True)}
