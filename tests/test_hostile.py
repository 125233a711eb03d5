"""Files made to do harm: each ends in our error or a right result, in little memory and time."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hostile_files import BOMBS, SOUND, encoded
from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.formats import sbd
from instancefcn.data.formats.coco import parse_coco
from instancefcn.data.formats.index_masks import crops_of
from instancefcn.data.formats.layouts import read_split
from instancefcn.data.image_checks import inspect_image
from instancefcn.errors import CheckpointError, ConfigError, DataError, ImageError, InstanceFCNError
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.geometry.outlines import outline_problem, to_rle
from instancefcn.geometry.tracing import one_outline
from instancefcn.images.decoding import read_image
from instancefcn.inference.tiling import segment_tiled
from instancefcn.training.checkpoints import read_run
from instancefcn.training.log import read_log


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """No test here may need more than 400 MB."""
    resource = pytest.importorskip("resource", reason="memory is measured where getrusage is")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


# -- images


@pytest.mark.parametrize("name", BOMBS)
def test_images_that_ask_for_too_much(tmp_path: Path, name: str) -> None:
    content, message = BOMBS[name]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    problem = inspect_image(ImageRecord(1, path, 9, 9)).problem
    assert problem is not None
    assert problem.check == "unreadable-image"


@pytest.mark.parametrize("name", SOUND)
def test_strange_images(tmp_path: Path, name: str) -> None:
    content, size = SOUND[name]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert read_image(path).shape == (3, *size)
    assert inspect_image(ImageRecord(1, path, *size)).problem is None


def test_a_list_of_other_files_is_no_video(tmp_path: Path) -> None:
    """FFmpeg knows a playlist by its content and would open what it names."""
    pytest.importorskip("av", reason="needs av")
    from instancefcn.inference.video import Video

    path = tmp_path / "a.mp4"
    for text in ("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "ffconcat version 1.0\nfile '/etc/passwd'\n"):
        path.write_text(text)
        with pytest.raises(ImageError, match=r"a\.mp4"):
            Video(path)


def test_tiles_without_number() -> None:
    image = torch.zeros((3, 1, 1), dtype=torch.uint8).expand(3, 10_000, 10_000)
    with pytest.raises(ImageError, match="choose larger tiles"):
        segment_tiled(lambda images, score: [], image, 32, 0.5)


# -- COCO


def coco(folder: Path, **changes: Any) -> tuple[Dataset, list[str]]:
    """Read a dataset of one image, 64 x 48, with other lists in it."""
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (64, 48)).save(folder / "images" / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 48} | changes.pop("image", {})
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]} | changes
    (folder / "train.json").write_text(json.dumps(content))
    return parse_coco(folder / "train.json", folder / "images")


def annotation(segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation, **more}


TRIANGLE = [[4.0, 4.0, 40.0, 4.0, 40.0, 40.0]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[]",
        "null",
        "{}",
        '{"images": 1}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "\xff",
        "9" * 5000,
        "NaN",
    ],
)
def test_json_of_the_wrong_shape(tmp_path: Path, text: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "train.json").write_text(text, encoding="latin-1")
    dataset, problems = parse_coco(tmp_path / "train.json", tmp_path / "images")
    assert not dataset.images
    assert all(str(tmp_path) in problem and len(problem) < 1000 for problem in problems)
    assert problems


def test_a_million_vertices() -> None:
    """Around a circle they are an outline; from side to side they would take 16 GB to draw."""
    turns = np.linspace(0, 2 * np.pi, 1_000_000)
    circle = np.stack((500 + 400 * np.cos(turns), 500 + 400 * np.sin(turns)), 1).reshape(-1).tolist()
    assert outline_problem([circle], 1000, 1000) is None
    area = int(CroppedMasks.from_rles([to_rle([circle], 1000, 1000)], (1000, 1000)).areas()[0])
    assert area == pytest.approx(np.pi * 400**2, rel=0.01)
    problem = outline_problem([[0.0, 0.0, 1000.0, 1000.0] * 500_000], 1000, 1000)
    assert problem is not None
    assert "4,000,000 pixels" in problem


def test_ten_thousand_parts() -> None:
    """Uniting them one by one, each with all before it, takes time with their square."""
    places = [(10 * (i % 100), 10 * (i // 100)) for i in range(10_000)]
    parts = [[x, y, x + 5, y, x + 5, y + 5, x, y + 5] for x, y in places]
    rle = to_rle([[float(v) for v in part] for part in parts], 1000, 1000)
    assert int(CroppedMasks.from_rles([rle], (1000, 1000)).areas()[0]) == 25 * 10_000


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2**31, 2**31], "counts": [0, 2**62]}, "size"),
        ({"size": [10**400, 48], "counts": "0"}, "size"),
        ({"size": [48, 64], "counts": [2**62, 2**62]}, "possible size"),
        ({"size": [48, 64], "counts": [2**30] * 1000}, "covers 1073741824000 pixels"),
        ({"size": [48, 64], "counts": "o" * 30}, "not a compressed RLE|beyond"),
        ({"size": [48, 64], "counts": "oooooo1" * 3000}, "beyond|negative run"),
        ({"size": [48, 64], "counts": {}}, "neither a list nor a string"),
        ({"size": [48, 64], "counts": "\ud800"}, "not a compressed RLE"),
    ],
    ids=str,
)
def test_run_lengths_that_claim_too_much(tmp_path: Path, rle: dict[str, Any], message: str) -> None:
    dataset, problems = coco(tmp_path, annotations=[annotation(rle)])
    assert dataset.images[0].annotations == ()
    with pytest.raises(DataError, match=message):
        raise DataError(problems)
    if rle["size"] == [48, 64]:
        with pytest.raises(ValueError, match=r"counts|covers"):
            CroppedMasks.from_rles([rle], (48, 64))


@pytest.mark.parametrize("side", [10**9, 1e300, 10**400, float("nan"), float("inf"), True, []])
def test_images_of_no_possible_size(tmp_path: Path, side: Any) -> None:
    rle = {"size": [side, 64], "counts": [0, 10**9]}
    dataset, problems = coco(
        tmp_path, image={"height": side}, annotations=[annotation(rle), annotation(TRIANGLE)]
    )
    assert dataset.images == ()
    assert any("width x height is" in problem for problem in problems)


def test_masks_that_are_large_together(tmp_path: Path) -> None:
    """Ten kB of run lengths, 16 GB of masks."""
    whole = {"size": [4000, 4000], "counts": [0, 16_000_000]}
    size = {"height": 4000, "width": 4000}
    dataset, problems = coco(tmp_path, image=size, annotations=[annotation(whole, id=i) for i in range(1000)])
    assert dataset.images == ()
    (problem,) = problems
    assert "a.png: image 1" in problem
    assert "16,000,000,000" in problem


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../../etc/passwd", "out of"),
        ("images/../../b.png", "out of"),
        ("/etc/passwd", "relative"),
        ("C:\\windows\\b.png", "relative"),
        ("\\\\host\\share\\b.png", "relative"),
        ("a.png\0.jpg", "relative"),
        ("x" * 5000, "valid file name"),
        ("\ud800.png", "not found"),
        ("\x1b[2J\x1b]0;title\x07", r"\\x1b\[2J"),
        ("", "no file_name"),
        (7, "no file_name"),
        (["a.png"], "no file_name"),
    ],
    ids=[
        "up",
        "through",
        "absolute",
        "drive",
        "share",
        "zero",
        "long",
        "surrogate",
        "escape",
        "none",
        "7",
        "list",
    ],
)
def test_file_names_that_lead_elsewhere(tmp_path: Path, name: Any, message: str) -> None:
    dataset, problems = coco(tmp_path, image={"file_name": name})
    assert dataset.images == ()
    with pytest.raises(DataError, match=message) as caught:
        raise DataError(problems)
    text = str(caught.value)
    assert text.replace("\n", "").isprintable()
    assert len(text) < 2000


@pytest.mark.parametrize(
    "box",
    [
        [float("nan")] * 4,
        [0, 0, float("inf"), 5],
        [1e308] * 4,
        [10**400, 0, 1, 1],
        "1 2 3 4",
        [1, 2, 3],
        [[]] * 4,
        {},
    ],
    ids=str,
)
def test_boxes_that_are_none(tmp_path: Path, box: Any) -> None:
    dataset, problems = coco(tmp_path, annotations=[annotation(TRIANGLE, bbox=box)])
    assert dataset.images[0].annotations[0].box == (4.0, 4.0, 40.0, 40.0)  # that of the outline
    assert len(problems) == 1
    assert "bbox is" in problems[0]
    assert rasterize(dataset.images[0]).areas().tolist() == [630]


def test_a_file_in_which_all_is_wrong_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instancefcn.data.formats import coco as reader
    from instancefcn.data.formats import gathering as gather

    monkeypatch.setattr(reader, "MAX_PROBLEMS", 50)
    monkeypatch.setattr(gather, "MAX_PROBLEMS", 50)
    with pytest.raises(DataError, match="and more: reading ended at 50 problems") as caught:
        coco(tmp_path, annotations=[{}] * 1000)
    assert len(caught.value.problems) == 51


@pytest.mark.parametrize("name", ["", " ", None, "a\nb", "\x1b[31m", "\ud800", ["cat"]])
def test_names_of_classes_that_cannot_be_shown(tmp_path: Path, name: Any) -> None:
    dataset, problems = coco(tmp_path, categories=[{"id": 1, "name": name}])
    assert dataset.class_names == ("category 1",)
    assert len(problems) == 1


# -- other formats


# Nine aliases of nine aliases: 400 bytes that stand for a hundred million words.
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS + "names: {0: *i}\ntrain: images\n",
        "names: " + "[" * 500 + "]" * 500,
        "names: [cat]\ntrain: images\nday: 2020-99-99\n",
        "names: [cat]\ntrain: images\nx: !!python/object/apply:os.system ['touch pwned']\n",
        "names: [cat]\ntrain: images\nx: !!timestamp x\ny: !!int ''\n",
        "nc: 1000000000\ntrain: images\n",
        "names: {0: [[[[]]]], .nan: cat, -1: dog}\ntrain: images\n",
        "names: [cat]\ntrain: " + "9" * 5000,
        "names: [cat]\ntrain: [1, 2]\n",
        "names: ['\x85']\ntrain: images\n",
        "x" * 2**21,
    ],
    ids=["laughs", "deep", "date", "object", "tags", "classes", "names", "number", "list", "control", "long"],
)
def test_yaml_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    for data in (tmp_path, tmp_path / "data.yaml"):
        with pytest.raises(DataError) as caught:
            raise DataError(read_split(data, "train")[1])
        assert len(str(caught.value)) < 2000
    assert not Path("pwned").exists()


def test_a_folder_whose_yaml_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("common: &a [cat]\nnames: *a\ntrain: images\n")
    with pytest.raises(DataError, match=r"data\.yaml .*aliases"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    "line",
    ["0 nan 0 1 0 1 1", "0 1e999 0 1 0 1 1", "9e99 0 0 1 0 1 1", "nan 0 0 1 0 1 1", "0 " + "0 1 " * 200_000],
)
def test_label_files(tmp_path: Path, line: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    (tmp_path / "labels" / "a.txt").write_text(f"{line}\n0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    dataset, problems = read_split(tmp_path, "train")
    assert len(dataset.images[0].annotations) == 1
    assert len(problems) == 1
    assert "labels/a.txt: line 1" in problems[0].replace("\\", "/")


def labelme(folder: Path, shapes: list[Any], **changes: Any) -> tuple[Dataset, list[str]]:
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 48, "imageWidth": 64} | changes
    (folder / "a.json").write_text(json.dumps(content))
    return read_split(folder, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imageHeight": float("inf")}, "imageWidth x imageHeight is 64 x inf"),
        ({"imageHeight": 10**6, "imageWidth": 10**6}, "more than 178,956,970 pixels"),
        ({"imagePath": "../../../etc/passwd"}, "out of"),
        ({"imagePath": "/etc/passwd"}, "relative"),
        ({"imagePath": "x" * 5000}, "valid file name"),
    ],
)
def test_labelme_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        labelme(tmp_path, [], **changes)


def test_a_labelme_mask_that_is_a_bomb(tmp_path: Path) -> None:
    for content in (BOMBS["tags"][0], BOMBS["claims 60,000 x 60,000"][0], b"x"):
        text = base64.b64encode(content).decode()
        mask = {"label": "cat", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": text}
        dataset, problems = labelme(tmp_path, [mask])
        assert dataset.images[0].annotations == ()
        assert "its mask" in problems[0]


def test_a_mask_of_noise() -> None:
    """Every number's rectangle is nearly the whole image: 65 GB from a file of 2 MB."""
    noise = np.random.default_rng(0).integers(0, 65_535, (1000, 1000)).astype(np.uint16)
    with pytest.raises(ImageError, match=r"a\.png: the rectangles around its 65\d{3} objects"):
        crops_of(noise, where="a.png")


def test_an_outline_of_noise(tmp_path: Path) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).random((1, 300, 300)) < 0.3)
    (rle,) = CroppedMasks.from_dense(noise).rles()
    with pytest.raises(DataError, match="5,000"):
        one_outline(rle, 300, 300)


def test_matlab_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat = pytest.importorskip("scipy.io", reason="SBD's .mat files need scipy").savemat
    for folder in ("img", "inst"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "img" / "a.jpg")
    (tmp_path / "train.txt").write_text("a\n../../etc/passwd\n")
    numbers = np.zeros((48, 64), np.int16)
    numbers[3:9, 3:9], numbers[20:30, 20:30] = 1, -5
    record = {"Segmentation": numbers, "Categories": np.array([[3]], np.uint8)}
    savemat(tmp_path / "inst" / "a.mat", {"GTinst": record}, do_compression=True)
    dataset, problems = read_split(tmp_path, "train")
    assert [a.label for a in dataset.images[0].annotations] == [2]
    assert ["object -5 has no category" in problems[0], "leads out of" in problems[1]] == [True, True]
    monkeypatch.setattr(sbd, "MAX_PIXELS", 2000)
    with pytest.raises(DataError, match=r"a\.mat: .*2,000 bytes"):
        read_split(tmp_path, "train")


# -- runs


def test_a_packed_checkpoint_of_a_run(tmp_path: Path) -> None:
    """A zip file's members may be packed a thousandfold; torch's are not."""
    torch.save({"a": torch.zeros(9)}, tmp_path / "plain.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "last.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match="it holds compressed files"):
        read_run(tmp_path / "last.ckpt")


@pytest.mark.parametrize("text", ["step,seconds\nx,y\n", "a,b\n1,2\n", "\xff\n1\n"])
def test_a_log_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"log\.csv: is not the log of a run"):
        read_log(tmp_path / "log.csv")


def test_errors_steer_no_terminal() -> None:
    error = InstanceFCNError("a\x1b[2Jb\x9bc\r\ud800\nd\te")
    assert str(error) == "a\\x1b[2Jb\\x9bc\\x0d\\ud800\nd\te"


def test_no_format_of_images_runs_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript, whatever the file's name."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was called"))
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (9, 9)), "EPS"))
    with pytest.raises(ImageError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")
