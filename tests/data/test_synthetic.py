"""The synthetic data: repeatable, exact, and with all three forms of outlines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instancefcn.data.dataset import rasterize
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.data.synthetic import write_shapes


def test_same_seed_same_files(tmp_path: Path) -> None:
    one = write_shapes(tmp_path / "one", train=2, val=1, size=64, seed=3)
    two = write_shapes(tmp_path / "two", train=2, val=1, size=64, seed=3)
    other = write_shapes(tmp_path / "other", train=2, val=1, size=64, seed=4)
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert len(files) == 5
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    assert any((one / f).read_bytes() != (other / f).read_bytes() for f in files)


def test_masks_are_exact_and_separate_and_have_every_form(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path, train=20, val=0, size=96)
    content = json.loads((folder / "train.json").read_text())
    forms = {
        a["category_id"]: type(a["segmentation"]["counts"]).__name__
        if isinstance(a["segmentation"], dict)
        else "polygons"
        for a in content["annotations"]
    }
    assert forms == {3: "str", 7: "polygons", 11: "list"}
    content["images"] = content["images"][:1]
    for image in open_dataset(folder, "train").images:
        masks = rasterize(image)
        assert 1 <= len(masks) <= 4
        assert masks.dense().sum(0).max() == 1, "shapes do not overlap"
        assert masks.areas().tolist() == [a.area for a in image.annotations]
        assert masks.tight_boxes().tolist() == [list(a.box) for a in image.annotations]


def test_too_small(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32"):
        write_shapes(tmp_path, size=31)
