"""VOC's published layout, with other lists than train and val."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def voc_lists(voc: Path) -> Callable[..., Path]:
    """Writes the lists, each given as names separated by spaces.

    "otter" and "tiger" are images, "stray" is a copy of "otter", and "dark" is a near duplicate of it.
    """
    root = voc / "VOCdevkit" / "VOC2012"
    for name in ("stray", "dark"):
        for kind in ("Object", "Class"):
            shutil.copy(root / f"Segmentation{kind}/otter.png", root / f"Segmentation{kind}/{name}.png")
    shutil.copy(root / "JPEGImages/otter.jpg", root / "JPEGImages/stray.jpg")
    with Image.open(root / "JPEGImages/otter.jpg") as image:
        image.point(lambda value: round(value * 0.9)).save(root / "JPEGImages/dark.jpg")
    folder = root / "ImageSets" / "Segmentation"

    def write(**lists: str) -> Path:
        for file in folder.iterdir():
            file.unlink()
        for split, names in lists.items():
            (folder / f"{split}.txt").write_text("\n".join(names.split()))
        return voc

    return write
