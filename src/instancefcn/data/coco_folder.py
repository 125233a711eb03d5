"""Where the files of a COCO dataset are: a folder in the usual layout, or a YAML file that names them."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instancefcn.data.coco import parse_coco
from instancefcn.data.dataset import Annotation, Dataset
from instancefcn.data.gather import Progress, in_order
from instancefcn.data.reading import read_json, read_yaml
from instancefcn.data.target import Target
from instancefcn.errors import DataError
from instancefcn.files import write_json

_USUAL = ("train.json", "val.json")
FIELDS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"},
    "categories": {"id", "name"},
}
"""The fields of COCO's records that a Dataset keeps."""


class CocoFolder:
    """A folder with SPLIT.json and images/."""

    title = "COCO JSON"

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def at(cls, data: Path) -> CocoFolder | None:
        """The folder at `data`; None when there is no file of COCO's kind in it."""
        if any(is_coco(data / name) for name in _USUAL):
            return cls(data)
        has_pictures = (data / "images").is_dir()
        return cls(data) if has_pictures and any(is_coco(p) for p in data.glob("*.json")) else None

    def splits(self) -> list[str]:
        """The names of the annotation files."""
        return in_order([p.stem for p in self.root.glob("*.json") if p.name in _USUAL or is_coco(p)])

    def read(self, split: str, name: str, progress: Progress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest.

        Raises:
            DataError: its files are not there; the message names what is.
        """
        return parse_coco(*self.places(split), name=name)

    def places(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of pictures. Raises DataError when they are not there."""
        annotations, images = self.root / f"{split}.json", self.root / "images"
        problems = []
        if not annotations.is_file():
            problems.append(f"{self.root}: has no {split}.json; {there('splits', self.splits())}")
        if not images.is_dir():
            folders = sorted(p.name for p in self.root.iterdir() if p.is_dir())
            problems.append(
                f"{self.root}: has no folder images/; {there('folders', folders)}. If they lie elsewhere, "
                "name the places in a YAML file (train: {annotations: .., images: ..}) and give that instead"
            )
        if problems:
            raise DataError(problems)
        return annotations, images


class CocoYaml:
    """A YAML file that names the annotation file and the folder of pictures of every split.

    Args:
        file: the YAML file; the paths in it start from its folder.
        content: what it holds.
    """

    title = "COCO JSON, named by a YAML file"

    def __init__(self, file: Path, content: Mapping[str, Any]) -> None:
        # YAML takes a name such as 2017 for a number.
        self.file, self.content = file, {str(key): value for key, value in content.items()}

    @classmethod
    def at(cls, file: Path) -> CocoYaml:
        """Raises DataError when the file is not of this kind."""
        if file.suffix.lower() not in (".yaml", ".yml"):
            raise DataError(f"{file}: is neither a folder nor a .yaml file: give the folder of the dataset")
        try:
            content: Any = read_yaml(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: is no YAML file ({error})") from error
        if not isinstance(content, dict):
            raise DataError(f"{file}: must hold lines such as 'train: {_FORM}'")
        return cls(file, content)

    def splits(self) -> list[str]:
        """The keys."""
        return in_order(list(self.content))

    def read(self, split: str, name: str, progress: Progress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest.

        Raises:
            DataError: the file does not name it as it should.
        """
        return parse_coco(*self.places(split), name=name)

    def places(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of pictures. Raises DataError when they are not named."""
        if split not in self.content:
            raise DataError(f"{self.file}: has no {split!r}; {there('splits', self.splits())}")
        entry = self.content[split]
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(k), str) for k in ("annotations", "images")
        ):
            raise DataError(f"{self.file}: {split} must be {_FORM}")
        if unknown := sorted(set(map(str, entry)) - {"annotations", "images"}):
            raise DataError(
                f"{self.file}: {split} holds {', '.join(unknown)}; only annotations and images are known"
            )
        return self.file.parent / entry["annotations"], self.file.parent / entry["images"]


_FORM = "{annotations: FILE.json, images: FOLDER}"


def there(kind: str, names: Sequence[str]) -> str:
    """For messages: what there is instead."""
    return f"{kind} there: {', '.join(names)}" if names else f"there are no {kind}"


def is_coco(path: Path) -> bool:
    """Whether the file holds the names of COCO's lists. A damaged file may: reading it says what is wrong."""
    if not path.is_file():
        return False
    if path.stat().st_size == 0:
        return path.name in _USUAL
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        listed = content.find(b'"images"') >= 0 and content.find(b'"categories"') >= 0
        return listed or (path.name in _USUAL and content.find(b'"shapes"') < 0)


def other_fields(annotations: Path) -> list[str]:
    """Fields of a COCO file that a Dataset does not keep, such as "licenses" and "images.license"."""
    content = read_json(annotations)
    found = {key for key in content if key not in FIELDS and content[key]}
    for kind, known in FIELDS.items():
        for record in content[kind]:
            found |= {f"{kind}.{key}" for key in record if key not in known}
    return sorted(found)


def write_coco(splits: Mapping[str, Dataset], target: Target) -> None:
    """Write images/ and a JSON file for every split, with the ids, boxes, areas and outlines as they are."""
    for split, dataset in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name, picture in zip(target.names[split], dataset.pictures, strict=True):
            file_name = target.place(picture, name, "images").name
            images.append(
                {"id": picture.id, "file_name": file_name, "width": picture.width, "height": picture.height}
            )
            annotations += [_record(a, picture.id, dataset) for a in picture.annotations]
        categories = [
            {"id": id_, "name": name}
            for id_, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(target.out / f"{split}.json", content, indent=None)


def _record(annotation: Annotation, image_id: int, dataset: Dataset) -> dict[str, Any]:
    x1, y1, x2, y2 = annotation.box
    return {
        "id": annotation.id,
        "image_id": image_id,
        "category_id": dataset.category_ids[annotation.label],
        # Differences of floats: a millionth of a pixel is as near as they come to what was written once.
        "bbox": [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)],
        "area": annotation.area,
        "iscrowd": int(annotation.crowd),
        "segmentation": annotation.segmentation,
    }
