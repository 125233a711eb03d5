"""COCO datasets as other tools write them: Roboflow, CVAT, and the published COCO."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from instancefcn.data.coco import parse_coco
from instancefcn.data.coco_folder import is_coco
from instancefcn.data.dataset import Dataset
from instancefcn.data.gather import Progress, in_order

_ROBOFLOW = "_annotations.coco.json"
_PREFIX = "instances_"
_VAL = ("valid", "validation")


class CocoExport:
    """A folder whose SPLIT/ holds pictures and _annotations.coco.json, or whose annotations/ holds
    instances_SPLIT.json for the pictures in SPLIT/, images/SPLIT/ or images/.

    Args:
        files: the annotation file and the folder of pictures of every split.
    """

    title = "COCO JSON, as exported"

    def __init__(self, files: Mapping[str, tuple[Path, Path]]) -> None:
        self.files = dict(files)

    @classmethod
    def at(cls, data: Path) -> CocoExport | None:
        """The folder at `data`; None when it is not laid out so."""
        files = _roboflow(data) or _annotations(data)
        return cls(files) if files else None

    def splits(self) -> list[str]:
        """Their names, without COCO's years; "valid" is "val"."""
        return in_order(list(self.files))

    def read(self, split: str, name: str, progress: Progress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest."""
        return parse_coco(*self.places(split), name=name)

    def places(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of pictures."""
        return self.files[split]


def _roboflow(data: Path) -> dict[str, tuple[Path, Path]]:
    files = sorted(data.glob(f"*/{_ROBOFLOW}"))
    names = _names([file.parent.name for file in files])
    return {names[file.parent.name]: (file, file.parent) for file in files}


def _annotations(data: Path) -> dict[str, tuple[Path, Path]]:
    files = [file for file in sorted(data.glob("annotations/*.json")) if is_coco(file)]
    # Beside them COCO has captions_, person_keypoints_ and others of the same pictures.
    files = [file for file in files if file.name.startswith(_PREFIX)] or files
    written = {file: file.stem.removeprefix(_PREFIX) for file in files}
    names = _names(list(written.values()))
    return {names[as_is]: (file, _pictures(data, as_is, names[as_is])) for file, as_is in written.items()}


def _pictures(data: Path, written: str, split: str) -> Path:
    """The folder of a split's pictures; where there is none, the one that COCO would have."""
    places = [data / inner / name for name in (written, split) for inner in (".", "images")]
    return next((place for place in (*places, data / "images") if place.is_dir()), data / written)


def _names(written: list[str]) -> dict[str, str]:
    """Splits by what they are called in files: train of train2017, unless another would be called so, too."""
    short = {name: re.sub(r"(?<=\D)\d{4}$", "", name) for name in written}
    short = {name: "val" if plain.lower() in _VAL else plain for name, plain in short.items()}
    counts = Counter(short.values())
    return {name: plain if counts[plain] == 1 else name for name, plain in short.items()}
