"""Conversions report everything they lose, and leave no incomplete folder."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from instancefcn.data import conversion as module
from instancefcn.data.conversion import FORMAT_WRITERS, Conversion, convert
from instancefcn.data.dataset import Annotation, Dataset
from instancefcn.data.formats.layouts import open_dataset, open_datasets, splits_of
from instancefcn.errors import ConfigError, DataError, OutputError
from instancefcn.geometry.outlines import to_rle

SPLITS = ("train", "val")


def lost(done: Conversion) -> dict[str, int]:
    return {str(row["what"]): int(row["count"]) for row in done.lost}


def objects(dataset: Dataset, kept: list[int] | None = None) -> Counter[tuple[str, str, bool]]:
    """Class, pixels and crowd flag of the annotations (of those at `kept`) of all images."""
    return Counter(
        (dataset.class_names[a.label], to_rle(a.segmentation, p.height, p.width)["counts"], a.crowd)
        for p in dataset.images
        for i, a in enumerate(p.annotations)
        if kept is None or i in kept
    )


def test_coco_keeps_everything_but_other_fields(rich: Path, tmp_path: Path) -> None:
    done = convert(rich, tmp_path / "out", "coco")
    assert lost(done) == {
        "names shared by several images are made longer": 2,
        "fields of the COCO files are left out: categories.supercategory, images.license": 2,
    }
    for split in SPLITS:
        before, after = (open_dataset(data, split) for data in (rich, tmp_path / "out"))
        assert (after.class_names, after.category_ids) == (before.class_names, before.category_ids)
        for a, b in zip(before.images, after.images, strict=True):
            assert a.annotations == b.annotations
            assert (a.id, a.height, a.width) == (b.id, b.height, b.width)
            assert a.path.read_bytes() == b.path.read_bytes()
            assert b.path.name == f"{split}_same.jpg"


def test_yolo_keeps_pixels_and_reports_the_rest(rich: Path, tmp_path: Path) -> None:
    done = convert(rich, tmp_path / "out", "yolo")
    for split in SPLITS:
        before, after = (open_dataset(data, split) for data in (rich, tmp_path / "out"))
        assert objects(after) == objects(before, [0, 1, 2, 3, 4, 5])
        assert after.class_names == before.class_names
        assert after.images[0].annotations[0].segmentation == before.images[0].annotations[0].segmentation
    losses = lost(done)
    assert losses["crowd regions are left out"] == 2
    assert losses["parts are joined by lines of zero width"] == 2
    assert losses["holes are joined to the outline by lines of zero width"] == 2
    assert losses["RLE masks become outlines around the same pixels"] == 4
    assert losses["outlines are redrawn around the same pixels"] == 2
    assert losses["annotation ids are renumbered"] == 14
    assert losses["image ids are renumbered"] == 2
    assert losses["class ids are renumbered"] == 3
    assert losses["boxes are recomputed from the outlines"] == 2
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert content == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "ant", 1: "zebra", 2: "none"},
    }


def test_labelme_keeps_pixels_parts_and_crowds(rich: Path, tmp_path: Path) -> None:
    done = convert(rich, tmp_path / "out", "labelme")
    for split in SPLITS:
        before, after = (open_dataset(data, split) for data in (rich, tmp_path / "out"))
        assert objects(after) == objects(before)
        for number in (0, 1, 4, 5, 6):
            ours, theirs = (d.images[0].annotations[number].segmentation for d in (before, after))
            assert ours == theirs
        assert after.class_names == ("ant", "zebra")
    losses = lost(done)
    assert losses["classes without an object are left out"] == 1
    assert losses["RLE masks become polygons around the same pixels"] == 2
    assert not any("crowd" in what or "parts" in what for what in losses)
    shapes = json.loads((tmp_path / "out" / "train" / "train_same.json").read_text())["shapes"]
    assert [s["shape_type"] for s in shapes] == ["polygon"] * 3 + ["mask"] + ["polygon"] * 4
    assert [s["group_id"] for s in shapes] == [None, 2, 2, None, None, None, None, None]


def test_voc_keeps_visible_pixels(rich: Path, tmp_path: Path) -> None:
    done = convert(rich, tmp_path / "out", "voc")
    for split in SPLITS:
        before, after = (open_dataset(data, split) for data in (rich, tmp_path / "out"))
        # The first object is partly behind the sixth; the last is a crowd.
        assert objects(after, [1, 2, 3, 4, 5]) == objects(before, [1, 2, 3, 4, 5])
        assert len(after.images[0].annotations) == 6
        assert after.class_names == before.class_names
        void = np.array(Image.open(tmp_path / "out" / "SegmentationObject" / f"{split}_same.png")) == 255
        assert void.sum() == 50 * 50
    losses = lost(done)
    assert losses["crowd regions become void pixels (255)"] == 2
    assert losses["objects lose the pixels behind another object"] == 2
    assert losses["polygons become pixels"] == 8


@pytest.mark.parametrize("to", list(FORMAT_WRITERS))
@pytest.mark.parametrize("kind", ["voc", "sbd", "yolo", "labelme", "bowl"])
def test_every_format_to_every_format(
    kind: str, to: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Classes and pixels of all objects. These fixtures have no crowd and no overlap."""
    data = request.getfixturevalue(kind)
    out = tmp_path_factory.mktemp("out") / "deep" / "data"
    seen: list[tuple[str, int, int]] = []
    convert(data, out, to, lambda *now: seen.append(now))
    assert splits_of(out) == splits_of(data)
    images = sum(map(len, open_datasets(data, splits_of(data))))
    assert seen[-1] == ("writing", images, images)
    for split in SPLITS:
        assert objects(open_dataset(out, split)) == objects(open_dataset(data, split))
    assert [p.name for p in out.parent.iterdir()] == ["data"]


def named(folder: Path, splits: dict[str, list[str]]) -> Path:
    """A COCO folder with small images of these names, each with one triangle."""
    (folder / "images").mkdir(parents=True)
    for split, names in splits.items():
        images = [{"id": i, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(names, start=1)]
        for name in names:
            (folder / "images" / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (64, 48)).save(folder / "images" / name, "PNG")
        outline = [[5, 5, 40, 5, 5, 40]]
        annotations = [
            {"id": i, "image_id": i, "category_id": 1, "segmentation": outline}
            for i in range(1, len(names) + 1)
        ]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def test_labelme_refuses_splits_that_it_would_read_as_one(tmp_path: Path) -> None:
    data = named(tmp_path / "data", {"first": ["a.png"], "second": ["b.png"]})
    with pytest.raises(DataError, match="first, second"):
        convert(data, tmp_path / "out", "labelme")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    (data / "first.json").rename(data / "train.json")
    assert not lost(convert(data, tmp_path / "out", "labelme"))
    assert splits_of(tmp_path / "out") == ["train", "second"]


@pytest.mark.parametrize("to", ["labelme", "coco", "voc"])
def test_a_single_split_of_another_name_becomes_train(tmp_path: Path, to: str) -> None:
    data = named(tmp_path / "data", {"test": ["a.png"]})
    said = "a single split of another name is read back as train"
    assert said not in lost(convert(data, tmp_path / "out", to))
    assert splits_of(tmp_path / "out") == ["test"]
    (tmp_path / "data.yaml").write_text("all: {annotations: data/test.json, images: data/images}\n")
    assert lost(convert(tmp_path / "data.yaml", tmp_path / "again", to))[said] == 1
    assert splits_of(tmp_path / "again") == ["train"]
    (tmp_path / "data.yaml").write_text("eval: {annotations: data/test.json, images: data/images}\n")
    if to == "labelme":
        with pytest.raises(DataError, match="eval"):
            convert(tmp_path / "data.yaml", tmp_path / "third", to)
    else:
        convert(tmp_path / "data.yaml", tmp_path / "third", to)
        assert splits_of(tmp_path / "third") == ["eval"]


def test_yolo_refuses_a_split_named_like_another_key(tmp_path: Path) -> None:
    data = named(tmp_path / "data", {"train": ["a.png"], "names": ["b.png"]})
    with pytest.raises(DataError, match="'names'"):
        convert(data, tmp_path / "out", "yolo")


@pytest.mark.parametrize("to", list(FORMAT_WRITERS))
def test_images_of_any_name_are_found_again(tmp_path: Path, to: str) -> None:
    names = [".h.png", "bare", " lead.png", "trail .png", "a.Png", "scan.001", "scan.002", "h.png", "...png"]
    names += ["x\x0by.png", "z.PNG ", "1/same.png", ".2/same.png", "good.png"]
    data = named(tmp_path / "data", {"train": names})
    done = convert(data, tmp_path / "out", to)
    assert lost(done)["names that a reader would not find are changed"] == 9
    dataset = open_dataset(tmp_path / "out", "train")
    found = {p.path.name for p in dataset.images}
    assert len(found) == len(names)
    assert found >= {"1_same.png", "2_same.png", "a.Png", "bare.png", "good.png", "lead.png", "image.png"}
    assert found >= {"scan_001.png", "scan_002.png", "trail.png", "x_y.png", "z.png"}


def test_names_that_would_be_other_paths(yolo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("c:d", "e\\f", "g\udcff"):
        shutil.copy(yolo / "images" / "train" / "otter.jpg", yolo / "images" / "train" / f"{name}.jpg")
    for to in FORMAT_WRITERS:
        out = tmp_path_factory.mktemp("out") / to
        convert(yolo, out, to)
        found = {p.path.stem for p in open_dataset(out, "train").images}
        assert found == {"otter", "c_d", "e_f", "g\ufffd"}


def test_images_are_linked_or_copied(
    yolo: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path_factory.mktemp("out")
    source = yolo / "images" / "train" / "otter.jpg"
    convert(yolo, out / "linked", "coco")
    assert (out / "linked" / "images" / "otter.jpg").samefile(source)

    def refuse(*places: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    convert(yolo, out / "copied", "coco")
    copy = out / "copied" / "images" / "otter.jpg"
    assert not copy.samefile(source)
    assert copy.read_bytes() == source.read_bytes()


def test_more_objects_than_voc_holds(tmp_path: Path) -> None:
    from instancefcn.data.synthetic import write_shapes

    data = write_shapes(tmp_path / "many", train=1, val=0, size=64)
    (data / "val.json").unlink()
    content = json.loads((data / "train.json").read_text())
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 3, "segmentation": [[x, y, x + 2, y, x + 2, y + 2, x, y + 2]]}
        for i, (x, y) in enumerate(((3 * (i % 20), 3 * (i // 20)) for i in range(260)), start=1)
    ]
    (data / "train.json").write_text(json.dumps(content))
    done = convert(data, tmp_path / "out", "voc")
    assert lost(done)["objects beyond the 254th of an image become void pixels (255)"] == 6
    assert len(open_dataset(tmp_path / "out", "train").images[0].annotations) == 254


def test_an_interruption_leaves_nothing(rich: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(annotation: Annotation, *rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("instancefcn.data.formats.yolo._line", stop)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        convert(rich, tmp_path / "out", "yolo")
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_converted(rich: Path, yolo: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="rich"):
        convert(rich, rich, "yolo")
    with pytest.raises(ConfigError, match="'xml'"):
        convert(rich, tmp_path / "out", "xml")
    (rich / "images" / "val" / "same.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"val/same\.jpg"):
        convert(rich, tmp_path / "out", "yolo")
    (tmp_path / "evil.yaml").write_text("../../evil: {annotations: rich/train.json, images: rich/images}\n")
    with pytest.raises(DataError, match=r"'\.\./\.\./evil'"):
        convert(tmp_path / "evil.yaml", tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()


def test_formats_are_those_of_the_command_line() -> None:
    from instancefcn.cli.convert import DatasetFormat

    assert [f.value for f in DatasetFormat] == list(module.FORMAT_WRITERS)


@pytest.mark.parametrize("to", list(FORMAT_WRITERS))
def test_real_data(shared: Path, tmp_path: Path, to: str) -> None:
    """Real outlines keep their pixels: polygons of every thirtieth image."""
    content = json.loads((shared / "data" / "animals7" / "val.json").read_text())
    content["images"] = content["images"][::30]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (tmp_path / "images").symlink_to(shared / "data" / "animals7" / "images")
    (tmp_path / "val.json").write_text(json.dumps(content))
    losses = lost(convert(tmp_path, tmp_path / "out", to))
    before, after = (objects(open_dataset(data, "val")) for data in (tmp_path, tmp_path / "out"))
    hidden = sum(count for what, count in losses.items() if "behind" in what)
    assert sum((before - after).values()) == (hidden if to == "voc" else 0)
