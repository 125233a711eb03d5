"""Each check finds what it is for and nothing else; a clean dataset has no findings."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instancefcn.data import near_duplicates as alike
from instancefcn.data.dataset import Annotation, Dataset, ImageRecord
from instancefcn.data.doctor import images
from instancefcn.data.doctor.checked_data import CheckedData, Split
from instancefcn.data.doctor.examine import CHECKS, examine, examine_dataset
from instancefcn.data.doctor.report import brief, report_as_json, summary, verdict
from instancefcn.data.doctor.sizes import suggested_scales
from instancefcn.data.image_checks import Inspection
from instancefcn.data.near_duplicates import near_groups, near_pairs
from instancefcn.errors import ConfigError, DataError
from instancefcn.geometry.self_crossing import MAX_POINTS, crossing
from instancefcn.models.zoo import spec_of
from sick import SICK, Sick, clean

ROOT = Path(__file__).resolve().parents[3]


def test_a_clean_dataset_has_no_findings(tmp_path: Path) -> None:
    report = examine(clean(tmp_path / "data").write())
    assert report.findings == ()
    other = replace(report, splits=tuple(replace(split, name="all") for split in report.splits[:1]))
    assert verdict(other) != verdict(report), "training needs a split called train"
    assert "train: 4 images, 48 objects, 2 classes" in summary(report)
    assert brief(report) == []


@pytest.mark.parametrize(("check", "severity", "change", "repairable"), SICK)
def test_each_check_finds_its_own(
    tmp_path: Path, check: str, severity: str, change: Callable[[Sick], Any], repairable: bool
) -> None:
    sick = clean(tmp_path / "data")
    change(sick)
    report = examine(sick.write(), model="fcis_lite")
    assert {(f.check, f.severity) for f in report.findings} == {(check, severity)}, report.findings
    assert summary(report).count(f"\n{severity}  {check}  ") == 1


def test_every_check_has_a_sick_dataset_and_a_line_in_the_docs() -> None:
    names = [check.name for check in CHECKS]
    assert len(names) == len(set(names)) >= 20
    assert {check for check, *_ in SICK} == set(names)
    lines = re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", (ROOT / "docs/check.md").read_text(), re.M)
    assert [name for name, _ in lines] == names
    for name, severities in lines:
        assert {s for check, s, *_ in SICK if check == name} <= set(severities.split(", ")), name


def test_a_finding_names_file_and_annotation(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.train["annotations"][3]["bbox"] = [0, 0, 150, 24]
    (finding,) = examine(sick.write()).findings
    assert (finding.split, finding.annotation, finding.image) == ("train", 4, sick.image("train0.png"))
    assert finding.message.startswith("data/train: annotation 4 (train0.png): ")
    assert "[0, 0, 150, 24]" in finding.message


def test_several_splits_and_models(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    folder = sick.write()
    (folder / "test.json").write_text((folder / "val.json").read_text())
    report = examine(folder)
    assert [split.name for split in report.splits] == ["train", "val", "test"]
    assert [(f.check, f.split) for f in report.findings] == [("leak", "val")] * 2
    with pytest.raises(ConfigError, match="'fcis_light'"):
        examine(folder, model="fcis_light")
    with pytest.raises(DataError, match="none"):
        examine(tmp_path / "none")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="empty"):
        examine(tmp_path / "empty")


def test_lists_of_other_splits_images_are_not_leaks(voc_lists: Callable[..., Path]) -> None:
    """Of train's two images, which look nearly the same, each list holds both or one."""
    data = voc_lists(train="otter dark", val="tiger", trainval="tiger otter dark", train_noval="dark")
    report = examine(data)
    assert [split.name for split in report.splits] == ["train", "val", "train_noval", "trainval"]
    assert not [*report.of("leak"), *report.of("near-leak"), *report.errors]


@pytest.mark.parametrize("extra", ["", " dark"])
def test_a_real_leak_is_found_beside_lists_of_both(voc_lists: Callable[..., Path], extra: str) -> None:
    data = voc_lists(train="otter", val="tiger stray", trainval=f"otter tiger stray{extra}")
    images = data / "VOCdevkit" / "VOC2012" / "JPEGImages"
    (finding,) = examine(data).of("leak")
    assert finding.split == "train"
    assert (finding.image, finding.other) == (images / "otter.jpg", images / "stray.jpg")


@pytest.mark.parametrize(("own", "check"), [("dark", "near-leak"), ("stray", "leak")])
def test_a_list_with_its_own_images_is_compared_with_train(
    voc_lists: Callable[..., Path], own: str, check: str
) -> None:
    report = examine(voc_lists(train="otter", val="tiger", more=f"tiger {own}"))
    assert "train" in {finding.split for finding in report.of(check)}


def test_problems_without_a_check_belong_to_the_format(tmp_path: Path) -> None:
    folder = clean(tmp_path / "data").write()
    (folder / "val.json").write_text("{")
    report = examine(folder)
    assert [(f.check, f.split) for f in report.errors] == [("format", "val")]


def test_a_dataset_made_in_python(tmp_path: Path) -> None:
    clean(tmp_path / "data")
    bad = Annotation(7, 4, (0.0, 0.0, 100.0, 10.0), [[1.0, 1.0, 2.0, 2.0]], 1.0)
    outside = Annotation(8, 0, (0.0, 0.0, 900.0, 10.0), [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]], 32.0)
    image = ImageRecord(1, tmp_path / "data/images/val0.png", 120, 160, (bad, bad, outside))
    found = examine_dataset(Dataset("mine", (image, image), ("cat",), (1,)))
    assert {(f.check, f.annotation) for f in found if f.severity == "error"} == {
        ("duplicate-id", None),
        ("unknown-category", 7),
        ("polygon-points", 7),
        ("out-of-bounds", 8),
    }


def test_json_holds_everything(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    sick.train["annotations"][0]["area"] = 5000
    sick.image("val0.png").unlink()
    result = report_as_json(examine(sick.write()))
    assert result["splits"]["train"] == {"images": 4, "objects": 48, "classes": 2}
    assert result["severities"] == {"error": 1, "warning": 0, "note": 1}
    assert result["checks"] == {"missing-image": 1, "area-mask": 1}
    assert [f["image"] for f in result["findings"]] == [
        str(sick.image("val0.png")),
        str(sick.image("train0.png")),
    ]


def test_a_line_for_each_check_before_training(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for number in (0, 1):
        sick.train["annotations"][number]["bbox"] = [0, 0, 150, 24]
    lines = brief(examine(sick.write()))
    assert len(lines) == 2
    assert "box-mask" in lines[0]
    assert f"`instancefcn check {sick.folder}`" in lines[1]


@pytest.mark.parametrize(
    ("polygon", "where"),
    [
        ([0, 0, 10, 0, 10, 10, 0, 10], None),
        ([0, 0, 10, 10, 10, 0, 0, 10], (5, 5)),
        ([0, 0, 10, 0, 10, 10, 5, 10, 5, 0, 5, 10, 0, 10], None),  # touches itself
        ([0, 0, 100, 0, 100, 100, 50, 100, 51, 101, 50, 101, 51, 100, 0, 100], None),  # a loop of a pixel
        ([0, 0, 40, 0, 40, 20, 30, 20, 30, -10, 20, -10, 20, 20, 0, 20], (30, 0)),  # through the upper side
    ],
)
def test_crossing_table(polygon: list[float], where: tuple[float, float] | None) -> None:
    found = crossing(polygon)
    assert found == (None if where is None else pytest.approx(where))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 300), st.integers(0, 2**32 - 1), st.integers(0, 299))
def test_a_star_does_not_cross_itself_until_two_far_corners_are_swapped(
    n: int, seed: int, start: int
) -> None:
    random = np.random.default_rng(seed)
    angles = 2 * np.pi * np.arange(n) / n
    points = 200 + np.stack((np.cos(angles), np.sin(angles)), 1) * random.uniform(80, 100, (n, 1))
    points = np.roll(points, start, axis=0)
    assert crossing(points.reshape(-1).tolist()) is None
    if n >= 8:
        half = n // 2
        points[[0, half]] = points[[half, 0]]
        assert crossing(points.reshape(-1).tolist()) is not None


def test_huge_polygons_are_not_checked() -> None:
    bow = [0, 0, 10, 10, 10, 0, 0, 10]
    line = [value for i in range(MAX_POINTS) for value in (0, 10 - i * 1e-3)]
    assert crossing(bow) is not None
    assert crossing(bow + line) is None


def test_near_groups_are_chains() -> None:
    """The first is like the third and the third like the second, which `near_pairs` need not report."""
    generator = np.random.default_rng(0)
    first, second, other = generator.normal(size=(3, 17, 17))
    second = first + 0.34 * second
    thumbs = np.stack([first, second, (first + second) / 2, other])
    thumbs = np.uint8(127 + 100 * thumbs / np.abs(thumbs).max())
    nothing = np.zeros(4, np.int64)
    assert near_pairs(thumbs, nothing, np.arange(4)) == [(0, 2)]
    assert near_groups(thumbs, np.arange(4)).tolist() == [0, 0, 0, 3]
    assert near_groups(thumbs, np.array([0, 1, 2, 1])).tolist() == [0, 0, 0, 0], "equal files are together"


def test_near_pairs() -> None:
    random = np.random.default_rng(0)
    thumbs = random.integers(0, 200, (300, 17, 17)).astype(np.uint8)
    thumbs[280] = thumbs[7] * 0.9 + 20
    thumbs[[3, 4]] = 100  # flat: nothing to compare
    nothing = np.zeros(300, np.int64)
    assert near_pairs(thumbs, nothing, np.arange(300)) == [(7, 280)]
    assert near_pairs(thumbs, nothing, nothing) == [], "equal files are no near duplicates"


def all_near(thumbs: np.ndarray, splits: np.ndarray, files: np.ndarray) -> list[tuple[int, int]]:
    """The result of `near_pairs`, from all pairs one by one."""
    steps = [np.r_[np.diff(t, axis=1).ravel(), np.diff(t, axis=0).ravel()] for t in thumbs.astype(float)]
    seen, pairs = set(), []
    for a, b in combinations(range(len(thumbs)), 2):
        alike = steps[a] @ steps[b] >= 0.96 * np.linalg.norm(steps[a]) * np.linalg.norm(steps[b])
        key = ("own", b) if splits[a] == splits[b] else (int(splits[b]), a)
        if alike and files[a] != files[b] and key not in seen:
            seen.add(key)
            pairs.append((a, b))
    return pairs


@pytest.mark.parametrize("seed", range(8))
def test_near_pairs_in_blocks(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(alike, "_ROWS", 7)
    monkeypatch.setattr(alike, "_COLUMNS", 13)
    random = np.random.default_rng(seed)
    scenes = random.integers(0, 200, (6, 17, 17))
    thumbs = (scenes[random.integers(0, 6, 60)] + random.integers(0, 9, (60, 17, 17))).astype(np.uint8)
    splits = np.sort(random.integers(0, 4, 60))
    files = random.integers(0, 20, 60)
    expected = all_near(thumbs, splits, files)
    assert len(expected) > 30
    assert near_pairs(thumbs, splits, files) == expected


def test_near_pairs_of_a_fixed_camera_are_few(tmp_path: Path) -> None:
    """3000 similar frames make 4.5 million pairs."""
    random = np.random.default_rng(0)
    thumbs = (random.integers(0, 200, (17, 17)) + random.integers(0, 9, (3000, 17, 17))).astype(np.uint8)
    train, val = (
        Split(
            name,
            Dataset(name, tuple(ImageRecord(i, Path(f"{i}.png"), 8, 8) for i in range(1500)), ("cat",), (1,)),
            (),
            tuple(Inspection(None, (8, 8), False, thumb.tobytes(), thumb) for thumb in part),
        )
        for name, part in (("train", thumbs[:1500]), ("val", thumbs[1500:]))
    )
    data = CheckedData((train, val), spec_of("fcis_lite"))
    tracemalloc.start()
    try:
        assert len(data.near_duplicates) == 2 * 1499 + 1500
        # Gradients and their squares take 2 x 6.5 MB, a block's comparisons 4; all pairs would take 600.
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    assert len(list(images.near_duplicates(data))) == 2 * 1499
    assert len(list(images.near_leaks(data))) == 1500


def test_anchor_scales() -> None:
    assert suggested_scales(32, 256, 16) == (2, 4, 8, 16)
    assert suggested_scales(4, 64, 16) == (1, 2, 4)
    assert suggested_scales(50, 50, 16) == (3.1,)
    scales = suggested_scales(20, 700, 16)
    assert all(b / a <= 2.1 for a, b in pairwise(scales))
    assert math.isclose(scales[-1], 700 / 16, rel_tol=0.05)


def test_suggested_sizes(tmp_path: Path) -> None:
    sick = clean(tmp_path / "data")
    for annotation in sick.train["annotations"]:
        x, y = annotation["bbox"][:2]
        annotation.update(segmentation=[[x, y, x + 4, y, x + 4, y + 4, x, y + 4]], bbox=[x, y, 4, 4], area=16)
    (finding,) = examine(sick.write(), model="fcis_lite").findings
    # 4 pixels are 4 * 512 / 120 = 17 at the input; the smallest anchor fits from 32 * sqrt(1/2) = 22.6 on.
    for part in ("48 of 48", "100%", "--set short_side=704"):
        assert part in finding.message
    # 30 at InstanceFCN's first level of 900; its windows fit larger sides from 96 / sqrt(1.5) = 78 on.
    (finding,) = examine(sick.folder, model="instancefcn_lite").findings
    for part in ("48 of 48", "100%", " 78 ", "--set short_side=1824", "2.6 times"):
        assert part in finding.message


def test_real_data_has_no_errors(shared: Path) -> None:
    report = examine(shared / "data" / "animals7", ["val"])
    assert {finding.severity for finding in report.findings} == {"note"}
