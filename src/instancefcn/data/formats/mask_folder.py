"""Pictures with masks of their objects as PNGs: one mask of numbers a picture, or one file an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, folders_of_splits, gather
from instancefcn.data.formats.index_masks import Crop, annotations_of, crops_of, read_index, refuse_jpeg
from instancefcn.data.paths import IMAGE_SUFFIXES, folders_in, images_below, in_any_case
from instancefcn.errors import ImageError
from instancefcn.images.decoding import read_image_size
from instancefcn.images.opening import describe_error, open_image
from instancefcn.instances import OBJECT

_ENDINGS = ("", "_mask", "_masks")
"""What a mask's name may add to its picture's. Beside the picture it must add something."""
_SUFFIXES = (".png", ".tif", ".tiff")


class MaskFolder:
    """A folder with images/ and masks/ (a mask of object numbers for every picture, 0 is background), or with
    NAME_mask.png or NAME_masks.png beside every picture. Splits are train/ and val/, or images/train,
    masks/train and so on. Its one class is "object".
    """

    title = "pictures with masks of object numbers"

    def __init__(self, root: Path) -> None:
        self.places = _places(root)

    @classmethod
    def at(cls, data: Path) -> MaskFolder | None:
        """The folder at `data`; None when its layout is another."""
        places = (data, data / "train", data / "val")
        return cls(data) if any(_holds_index_masks(place) for place in places) else None

    def splits(self) -> list[str]:
        """train/ and val/, or "train" alone."""
        return list(self.places)

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest. No picture is opened yet."""
        folder, masks = self.places[split]
        apart = folder != masks
        images = list(images_below(folder)) if apart else _beside(folder)
        found = {p: _mask_of(masks / p.relative_to(folder), apart) for p in images if not _is_mask(p, apart)}
        taken = set(found.values())
        problems = [
            f"{mask}: there is no picture of this name in {folder}: add it or remove the mask"
            for mask in (images_below(masks) if apart else filter(lambda p: _is_mask(p, False), images))
            if mask not in taken
        ]

        def read(item: tuple[Path, Path | None]) -> tuple[ImageRecord | None, list[str]]:
            path, mask = item
            if mask is None:
                place = masks / f"{path.stem}{'' if apart else '_mask'}.png"
                return None, [f"{path}: has no mask {place}: add one (all 0 where there are no objects)"]
            try:
                index = read_index(mask)
                crops = list(crops_of(index, where=mask).values())
            except ImageError as error:
                return None, [str(error)]
            height, width = index.shape
            annotations = annotations_of(crops, [0] * len(crops), (height, width))
            return ImageRecord(0, path, height, width, tuple(annotations)), []

        dataset, wrong = gather(name, ((OBJECT,), (1,)), list(found.items()), read, progress)
        return dataset, problems + wrong


class ObjectMaskFolder:
    """One folder a picture, with images/NAME.png and masks/*.png, one file an object, as in the 2018 Data
    Science Bowl. Its one class is "object".
    """

    title = "a folder for each picture, with one mask file an object"

    def __init__(self, root: Path) -> None:
        self.folders = folders_of_splits(root, _holds_object_masks, _holds_object_masks)

    @classmethod
    def at(cls, data: Path) -> ObjectMaskFolder | None:
        """The folder at `data`; None when its layout is another."""
        places = (data, data / "train", data / "val")
        return cls(data) if any(_holds_object_masks(place) for place in places) else None

    def splits(self) -> list[str]:
        """train/ and val/, or "train" alone."""
        return list(self.folders)

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest. Of the pictures only the heads are
        read.
        """
        places = folders_in(self.folders[split])
        return gather(name, ((OBJECT,), (1,)), places, _read_place, progress)


def _read_place(place: Path) -> tuple[ImageRecord | None, list[str]]:
    """One picture's folder."""
    images = list(images_below(place / "images"))
    if len(images) != 1:
        return None, [f"{place / 'images'}: holds {len(images)} pictures: it must hold one"]
    if not (place / "masks").is_dir():
        return None, [f"{place}: has no masks/: add it (an empty one where there are no objects)"]
    try:
        height, width = read_image_size(images[0])
    except ImageError as error:
        return None, [str(error)]
    crops: list[Crop] = []
    problems: list[str] = []
    for file in images_below(place / "masks"):
        try:
            crops.append(_object_mask(file, height, width))
        except ImageError as error:
            problems.append(str(error))
    annotations = annotations_of(crops, [0] * len(crops), (height, width))
    return ImageRecord(0, images[0], height, width, tuple(annotations)), problems


def _object_mask(file: Path, height: int, width: int) -> Crop:
    """The pixels of a mask file that are not 0 (black).

    Raises:
        ImageError: it cannot be read, is a JPEG, has another size than the picture, or no pixel.
    """
    try:
        with open_image(file) as image:
            refuse_jpeg(image)
            colours = image.mode in ("RGB", "RGBA", "LA", "P", "PA")  # 0 of a palette may be white
            values = np.array(image.convert("L") if colours else image)
    except Exception as error:
        raise ImageError(f"{file}: {describe_error(error)}") from error
    if values.shape != (height, width):
        raise ImageError(
            f"{file}: is {values.shape[1]} x {values.shape[0]} pixels, the picture {width} x {height} "
            "(as its EXIF rotation shows it): draw the mask at the picture's size"
        )
    crop = crops_of((values != 0).astype(np.uint8)).get(1)
    if crop is None:
        raise ImageError(f"{file}: has no pixel that is not 0: remove it or draw the object")
    return crop


def _places(root: Path) -> dict[str, tuple[Path, Path]]:
    """Of every split the folders of its pictures and of its masks; one folder, where they lie side by side.

    Raises:
        DataError: see `folders_of_splits`.
    """
    folders = folders_of_splits(root, _holds_index_masks, _holds_index_masks)
    if list(folders.values()) == [root] and (root / "masks").is_dir():
        inside = folders_of_splits(
            root / "images", lambda folder: any(images_below(folder)), lambda images: bool(_beside(images))
        )
        return {
            s: (images, root / "masks" / images.relative_to(root / "images")) for s, images in inside.items()
        }
    return {
        split: (folder / "images", folder / "masks") if (folder / "masks").is_dir() else (folder, folder)
        for split, folder in folders.items()
    }


def _holds_index_masks(folder: Path) -> bool:
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return True
    # With a file of its own it is a picture of LabelMe's, whatever it is called.
    return folder.is_dir() and any(
        _is_mask(path, apart=False) and not path.with_suffix(".json").is_file() for path in _beside(folder)
    )


def _holds_object_masks(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return any((p / "images").is_dir() and (p / "masks").is_dir() for p in folder.iterdir())


def _beside(folder: Path) -> list[Path]:
    """The pictures and masks directly in a folder, sorted."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    )


def _is_mask(path: Path, apart: bool) -> bool:
    """Whether a picture file beside pictures is a mask, by its name."""
    return not apart and path.suffix.lower() in _SUFFIXES and path.stem.endswith(_ENDINGS[1:])


def _names_of_masks(apart: bool) -> Iterator[str]:
    """What follows the stem of a picture."""
    for ending in _ENDINGS[0 if apart else 1 :]:
        for suffix in _SUFFIXES:
            yield f"{ending}{suffix}"


def _mask_of(place: Path, apart: bool) -> Path | None:
    """The mask of a picture; `place` is where the picture would lie among the masks."""
    candidates = (in_any_case(place.with_name(f"{place.stem}{end}")) for end in _names_of_masks(apart))
    return next((c for c in candidates if c.is_file()), None)
