"""The Semantic Boundaries Dataset: Matlab files of object numbers, with VOC's photographs and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from instancefcn.data.dataset import Dataset, Picture
from instancefcn.data.gather import Progress, gather, in_order, read_lines
from instancefcn.data.index_masks import annotations_of, crops_of
from instancefcn.data.matlab import read_struct
from instancefcn.data.paths import PictureFinder, is_there
from instancefcn.data.voc_format import VOC_CLASSES
from instancefcn.errors import DataError, ImageError

_PLACES = (".", "dataset", "benchmark_RELEASE/dataset")


class SbdFolder:
    """A folder with img/, inst/ and the lists train.txt and val.txt.

    An inst/ file holds the class of every object, so that the cls/ files are not needed.
    """

    title = "SBD (inst/*.mat)"

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def at(cls, data: Path) -> SbdFolder | None:
        """The SBD folder at `data`, or inside it where the published archive has it; None elsewhere."""
        places = (data / place for place in _PLACES)
        return next((cls(p) for p in places if next((p / "inst").glob("*.mat"), None)), None)

    def splits(self) -> list[str]:
        """The names of the lists."""
        return in_order([p.stem for p in self.root.glob("*.txt") if self._is_list(p)])

    def _is_list(self, path: Path) -> bool:
        """Whether a text file is a list and no README: its first line names a file in inst/. The published
        lists are in any case, so that what is wrong with them is said.
        """
        if path.stem in ("train", "val"):
            return True
        try:
            lines = read_lines(path)
        except DataError:
            return False
        return bool(lines) and is_there(self.root / "inst" / f"{lines[0]}.mat")

    def read(self, split: str, name: str, progress: Progress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest. No photograph is opened yet.

        Raises:
            DataError: there is no such list.
        """
        finder = PictureFinder(self.root / "img")

        def read(stem: str) -> tuple[Picture | None, list[str]]:
            path, problem = finder.find_stem(stem)
            if path is None:
                return None, [f"{self.root}: {split}.txt: {stem}: {problem}"]
            return _picture(path, self.root / "inst" / f"{stem}.mat")

        classes = (VOC_CLASSES, range(1, len(VOC_CLASSES) + 1))
        return gather(name, classes, read_lines(self.root / f"{split}.txt"), read, progress)


def _picture(path: Path, masks: Path) -> tuple[Picture | None, list[str]]:
    try:
        index, categories = _instances(masks)
        found = crops_of(index, where=masks)
    except (DataError, ImageError) as error:
        return None, [str(error)]
    crops, labels, problems = [], [], []
    for number, crop in found.items():
        kind = int(categories[number - 1]) if 1 <= number <= len(categories) else None
        if kind is None:
            problems.append(f"{masks}: object {number} has no category: {len(categories)} are given")
        elif not 1 <= kind <= len(VOC_CLASSES):
            problems.append(f"{masks}: object {number} has the category {kind}, known are 1 to 20")
        else:
            crops.append(crop)
            labels.append(kind - 1)
    height, width = index.shape
    annotations = annotations_of(crops, labels, (height, width))
    return Picture(0, path, height, width, tuple(annotations)), problems


def _instances(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Numbers of objects [H, W], and the class of object 1, 2, ..

    Raises:
        DataError: the file is missing, damaged, or another one.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file: add it or take the picture off the list")
    try:
        fields = read_struct(path, "GTinst")
        index, categories = fields["Segmentation"], fields["Categories"].reshape(-1)
        if (
            index.ndim != 2
            or not index.size
            or index.dtype.kind not in "ui"
            or categories.dtype.kind not in "ui"
        ):
            raise ValueError(f"Segmentation is {index.dtype} {list(index.shape)}")
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: holds no GTinst with Segmentation and Categories ({error}): is it of SBD's inst/ "
            "folder, and whole?"
        ) from error
    return index, categories
