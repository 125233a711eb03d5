"""Where the COCO JSON files of a dataset and their images lie, as several programs lay them out.

    data/                                     what `write_coco` writes
      train.json, val.json                    one file per split
      images/a.jpg                            file_name starts in images/

    data/                                     FiftyOne; a file beside its images is read, too
      labels.json                             a single file is the split train
      data/a.jpg

    data/                                     Roboflow; FiftyOne with a folder per split
      train/_annotations.coco.json            or any one COCO file
      train/a.jpg                             or in train/images/ or train/data/; valid/ is the split val

    data/                                     CVAT, and COCO itself
      annotations/instances_train2017.json
      train2017/a.jpg                         or train/, images/train/, images/

A YAML file names the files of any other layout, with paths that start in the YAML file's folder:

    train: {annotations: labels/first.json, images: photos/2024}
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.coco import parse_coco
from instancefcn.data.formats.gathering import OnProgress, list_found
from instancefcn.data.formats.split_names import name_splits, sort_splits, split_folders, split_of
from instancefcn.data.paths import ImageFinder, folders_in
from instancefcn.data.text_files import read_yaml
from instancefcn.errors import DataError

_USUAL_FILES = ("train.json", "val.json")
_ROBOFLOW_FILE = "_annotations.coco.json"
_COCO_PREFIX = "instances"
_YAML_ENTRY = "{annotations: FILE.json, images: FOLDER}"
_MANY = 10
"""A folder with more JSON files than this holds one per image, as LabelMe's do: they are not searched."""
_TRIED = 16
"""How many of a file's images are sought to find their folder."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class CocoFolder:
    """A folder with one COCO JSON file per split.

    Args:
        root: the folder.
        files: the annotation files by the names that they give their splits.

    Attributes:
        files: the annotation file of each split.
    """

    reads: tuple[str, ...] = ()  # other JSON files may be anything

    def __init__(self, root: Path, files: Mapping[str, Path]) -> None:
        self.root = root
        names = name_splits(list(files))
        self.files = {names[written]: file for written, file in files.items()}
        self._written = {names[written]: written for written in files}

    @classmethod
    def at(cls, data: Path) -> CocoFolder | None:
        """The layout of the folder `data`, or None if it has no COCO file in a usual place."""
        return cls._first(data, _files_with_images, _roboflow_files, _files_in_annotations)

    @classmethod
    def at_last(cls, data: Path) -> CocoFolder | None:
        """The layout of a folder that is none of another format, or None if it has no COCO file that fits."""
        return cls._first(data, _files_of_split_folders, _files_found_with_images)

    @classmethod
    def _first(cls, data: Path, *finders: Callable[[Path], dict[str, Path]]) -> CocoFolder | None:
        return next((cls(data, files) for find in finders if (files := find(data))), None)

    @property
    def title(self) -> str:
        """The format, and the files where they are not SPLIT.json."""
        if all(file == self.root / f"{split}.json" for split, file in self.files.items()):
            return "COCO JSON"
        names = [file.relative_to(self.root).as_posix() for file in self.files.values()]
        return f"COCO JSON ({', '.join(sorted(names)[:4])}{', ..' * (len(names) > 4)})"

    def splits(self) -> list[str]:
        """Split names without COCO's years; "Valid" is "val", a single file "train"."""
        return sort_splits(list(self.files))

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest.

        Raises:
            DataError: the split, or the folder of its images, does not exist.
        """
        return parse_coco(*self.paths(split), name=name)

    def paths(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of images. Raises DataError if one does not exist.

        A split is also found by the name that its file gives it.
        """
        split = next((name for name, written in self._written.items() if written == split), split)
        if split not in self.files:
            found = list_found("splits", self.splits())
            raise DataError(f"{self.root}: has no split {split!r} ({split}.json); {found}")
        file = self.files[split]
        candidates = self._image_folders(file, split)
        existing = [folder for folder in candidates if folder.is_dir()]
        others = [folder for folder in folders_in(self.root) if folder not in existing]
        images = _folder_of_images(file, [*existing, self.root, *others]) or next(iter(existing), None)
        if images is None:
            folders = list_found("folders", [folder.name for folder in folders_in(self.root)])
            raise DataError(
                f"{self.root}: has no folder {candidates[0].relative_to(self.root)}/ with the images of "
                f"{file.name}; {folders}. If the images lie elsewhere, write a YAML file with a line "
                f"'train: {_YAML_ENTRY}' and give that file instead"
            )
        return file, images

    def _image_folders(self, file: Path, split: str) -> list[Path]:
        """Where the images of a file usually lie, most usual first."""
        inside = self.root / "images"
        if file.parent != self.root and file.parent.name.casefold() != "annotations":
            return [file.parent, file.parent / "images", file.parent / "data"]
        named = [
            folder
            for parent in (self.root, inside)
            for name in (self._written[split], split)
            for folder in _named(parent, name)
        ]
        if file.parent == self.root:
            return [inside, *named, self.root / "data"]
        return [*(named or [self.root / self._written[split]]), inside, self.root / "data"]


def _named(parent: Path, name: str) -> list[Path]:
    """The folder of this name in a folder, and the one that means the same split if there is just one."""
    exact = [parent / name] if (parent / name).is_dir() else []
    folders = folders_in(parent) if parent.is_dir() else []
    same = [folder for folder in folders if split_of(name) and split_of(folder.name) == split_of(name)]
    return exact or (same if len(same) == 1 else [])


# The places of annotation files: each function returns them by the names that they give their splits.


def _files_with_images(data: Path) -> dict[str, Path]:
    """COCO files beside images/, or with the name of a split."""
    files = _json_files(data)
    named = any(split_of(file.stem) and is_coco(file) for file in files)
    if not named and not (data / "images").is_dir():
        return {}
    return {file.stem: file for file in files if is_coco(file)}


def _roboflow_files(data: Path) -> dict[str, Path]:
    files = {folder.name: folder / _ROBOFLOW_FILE for folder in folders_in(data)}
    return {name: file for name, file in files.items() if file.is_file()}


def _files_of_split_folders(data: Path) -> dict[str, Path]:
    """The one COCO file in each folder that may be a split."""
    found = {}
    for folder in split_folders(data):
        files = _json_files(folder)
        coco = _instances([file for file in files if is_coco(file)]) if len(files) <= _MANY else []
        if len(coco) == 1:
            found[folder.name] = coco[0]
    return found


def _files_in_annotations(data: Path) -> dict[str, Path]:
    folders = [folder for folder in folders_in(data) if folder.name.casefold() == "annotations"]
    files = _instances([file for folder in folders for file in _json_files(folder) if is_coco(file)])
    return {file.stem.removeprefix(f"{_COCO_PREFIX}_"): file for file in files}


def _files_found_with_images(data: Path) -> dict[str, Path]:
    """COCO files of any name whose images are found, beside them or in a folder."""
    files = _json_files(data)
    files = [file for file in files if is_coco(file)] if len(files) <= _MANY else []
    folders = [data, *folders_in(data)]
    return {f.stem: f for f in files} if any(_folder_of_images(file, folders) for file in files) else {}


def _json_files(folder: Path) -> list[Path]:
    """The JSON files directly in a folder, sorted."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() == ".json" and not path.name.startswith(".")
    )


def _instances(files: list[Path]) -> list[Path]:
    """COCO also has captions_, person_keypoints_ and other files for the same images: those of instances."""
    return [file for file in files if file.name.startswith(_COCO_PREFIX)] or files


def is_coco(path: Path) -> bool:
    """Whether a file names COCO's lists. A damaged file may pass: reading it reports what is wrong."""
    usual = path.name.lower() in _USUAL_FILES
    if not path.is_file():
        return False
    if path.stat().st_size == 0:
        return usual
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        listed = _holds(content, '"images"') and _holds(content, '"categories"')
        return listed or (usual and not _holds(content, '"shapes"'))


def _holds(content: mmap.mmap, text: str) -> bool:
    """Whether a file holds a text, in UTF-8 or as its first bytes say in UTF-16."""
    coding = "utf-8" if content[:2] not in _UTF16 else ("utf-16-le", "utf-16-be")[_UTF16.index(content[:2])]
    return content.find(text.encode(coding)) >= 0


def _folder_of_images(file: Path, folders: Sequence[Path]) -> Path | None:
    """The first folder in which some of a file's images are found by their names as written; failing that, by
    the ends of these names.
    """
    names = list(islice(_file_names(file), _TRIED))
    finders = [ImageFinder(folder) for folder in folders]
    for moved in (False, True):
        for finder in finders:
            if any(finder.finds(name, moved=moved) for name in names):
                return finder.folder
    return None


def _file_names(path: Path) -> Iterator[str]:
    """The names of a COCO file's images, without parsing the whole file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        text: Any = content
        if content[:2] in _UTF16:
            text = content[: 2**20].decode("utf-16", "ignore").encode()
        for match in re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.){1,1000}")', text):
            try:
                yield json.loads(match[1])
            except ValueError:  # not UTF-8
                continue


class CocoYaml:
    """A YAML file that names the annotation file and the folder of images of every split.

    Args:
        file: the YAML file; the paths in it start in its folder.
        content: what it holds.
    """

    title = "COCO JSON named by a YAML file"
    reads: tuple[str, ...] = ()

    def __init__(self, file: Path, content: Mapping[str, Any]) -> None:
        # YAML reads a name such as 2017 as a number.
        written = {str(key): value for key, value in content.items()}
        names = name_splits(list(written), sole=False)
        self.file, self.content = file, {names[key]: value for key, value in written.items()}

    @classmethod
    def at(cls, file: Path) -> CocoYaml:
        """Read the YAML file.

        Raises:
            DataError: it is not a YAML file of this kind.
        """
        if file.suffix.lower() not in (".yaml", ".yml"):
            raise DataError(f"{file}: is neither a folder nor a .yaml file: give the dataset's folder")
        try:
            content: Any = read_yaml(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: is not a valid YAML file ({error}): correct it") from error
        if not isinstance(content, dict):
            raise DataError(f"{file}: must have lines such as 'train: {_YAML_ENTRY}'")
        return cls(file, content)

    def splits(self) -> list[str]:
        """The keys; "valid" is "val"."""
        return sort_splits(list(self.content))

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest.

        Raises:
            DataError: the YAML file does not name the split's files.
        """
        return parse_coco(*self.paths(split), name=name)

    def paths(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of images. Raises DataError if the YAML file lacks them."""
        if split not in self.content:
            raise DataError(f"{self.file}: has no {split!r}; {list_found('splits', self.splits())}")
        entry = self.content[split]
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(k), str) for k in ("annotations", "images")
        ):
            raise DataError(f"{self.file}: {split} must be {_YAML_ENTRY}")
        if unknown := sorted(set(map(str, entry)) - {"annotations", "images"}):
            raise DataError(
                f"{self.file}: {split} has the unknown keys {', '.join(unknown)}: "
                "keep only annotations and images"
            )
        return self.file.parent / entry["annotations"], self.file.parent / entry["images"]
