"""A COCO file as the source of a call: its images, and the ids by which results refer to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from instancefcn.data.formats.layouts import CocoLayout, recognise
from instancefcn.data.paths import ImageFinder, at_home
from instancefcn.data.text_files import read_json
from instancefcn.errors import ConfigError, DataError
from instancefcn.safe_text import shown

Id: TypeAlias = int | str


@dataclass(frozen=True)
class CocoSource:
    """What results say instead of the ids of a call and of the model.

    Attributes:
        path: the file.
        image_ids: of the images, in their order in the file.
        categories: the ids of the classes by name.
    """

    path: Path
    image_ids: tuple[Id, ...]
    categories: dict[str, Id]

    def category_ids(self, class_names: Sequence[str]) -> tuple[Any, ...]:
        """The file's ids of classes by name; new ids for those that it does not have."""
        last = max((id_ for id_ in self.categories.values() if isinstance(id_, int)), default=0)
        fresh = count(last + 1)
        return tuple(
            self.categories[name] if name in self.categories else next(fresh) for name in class_names
        )

    def unknown(self, class_names: Sequence[str]) -> list[str]:
        """The classes that the file does not have."""
        return [name for name in class_names if name not in self.categories]


def read_coco_source(sources: Iterable[str | Path]) -> tuple[CocoSource, tuple[Path, ...]] | None:
    """The COCO file among `sources` and its images; None if there is none. Annotations are not read.

    Raises:
        ConfigError: the file is not the only source: ids of several files may be equal.
        DataError: records without a usable id or file; all problems are named.
    """
    sources = list(sources)
    files = [
        path for source in sources if (path := at_home(source)).suffix.lower() == ".json" and path.is_file()
    ]
    for path in files:
        content = _content(path)
        if content is None:
            continue
        if len(sources) > 1:
            raise ConfigError(f"{path}: a COCO file must be the only source, as results have its ids")
        return _read(path, content)
    return None


def _content(path: Path) -> dict[str, Any] | None:
    """The content of a COCO file; None if the file is another one, or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    listed = isinstance(content, dict) and isinstance(content.get("images"), list)
    return content if listed else None


def _read(path: Path, content: dict[str, Any]) -> tuple[CocoSource, tuple[Path, ...]]:
    finder = ImageFinder(_image_folder(path))
    problems: list[str] = []
    images: dict[Id, Path] = {}
    for number, record in enumerate(content["images"]):
        id_ = record.get("id") if isinstance(record, dict) else None
        where = f"{path}: image {shown(id_)}" if _is_id(id_) else f"{path}: image record {number}"
        if not isinstance(record, dict) or not _is_id(id_):
            problems.append(f"{where}: has no id: number the records")
        elif id_ in images:
            problems.append(f"{where}: this id is used more than once: give every record its own id")
        elif not isinstance(name := record.get("file_name"), str) or not name:
            problems.append(f"{where}: has no file_name: write the file's path below the folder of images")
        else:
            file, problem = finder.find(name)
            if file is None:
                problems.append(f"{where}: {problem}")
            else:
                images[id_] = file
    if not images and not problems:
        problems.append(f"{path}: no image found in it")
    if problems:
        raise DataError(problems)
    listed = content.get("categories")
    categories: dict[str, Id] = {}
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(one.get("name"), str) and _is_id(one.get("id")):
            categories.setdefault(one["name"], one["id"])
    return CocoSource(path, tuple(images), categories), tuple(images.values())


def _is_id(value: object) -> TypeGuard[Id]:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _image_folder(path: Path) -> Path:
    """The folder that file names start in: as the layouts of docs/data.md say, or else images/ beside the
    file, or the folder of the file.
    """
    for folder in (path.parent, path.parent.parent):
        try:
            layout = recognise(folder)
            files = [layout.paths(s) for s in layout.splits()] if isinstance(layout, CocoLayout) else []
        except DataError:
            continue
        for file, images in files:
            if file.resolve() == path.resolve():
                return images
    beside = path.parent / "images"
    return beside if beside.is_dir() else path.parent
