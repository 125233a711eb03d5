"""Masks alone, of one class "object": one mask of object numbers per image, or one mask file per object.

    data/                     object numbers, 0 is background; PNG or TIFF, of up to 32 bits
      images/a.jpg            or images/train/a.jpg
      masks/a.png             or masks/train/a.png, also a_mask.png, a_masks.png or Cellpose's a_cp_masks.png

    data/                     masks beside the images
      train/a.jpg             or a.jpg without splits, also a_img.jpg or a_image.jpg
      train/a_mask.png        or a_masks.png or a_cp_masks.png

    data/                     one mask file per object, as in the 2018 Data Science Bowl
      train/a/images/a.png    or a/images/a.png without splits
      train/a/masks/0.png     one object: every pixel that is not 0

There is no writer: VOC's format holds the same and classes too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.formats.gathering import OnProgress, gather
from instancefcn.data.formats.index_masks import Crop, annotations_of, crops_of, read_index, refuse_jpeg
from instancefcn.data.formats.split_names import folders_of_splits, split_folders, split_of
from instancefcn.data.paths import IMAGE_SUFFIXES, folders_in, images_below, images_in, in_any_case
from instancefcn.errors import ImageError
from instancefcn.images.decoding import read_image_size
from instancefcn.images.opening import describe_error, open_image
from instancefcn.instances import OBJECT

_ENDINGS = ("", "_mask", "_masks", "_cp_masks")
"""What a mask's name may add to its image's name. Beside the image it must add something."""
_IMAGE_ENDINGS = ("_img", "_image")
"""What an image's name may add instead: a_img.png belongs to a_masks.png."""
_CELLPOSE = ("_flows", "_outlines", "_cp_output", "_dP", "_cellprob")
"""What Cellpose adds to an image's name for files beside it that are neither image nor mask."""
_SUFFIXES = (".png", ".tif", ".tiff")


class MaskFolder:
    """A folder with one mask of object numbers per image, in masks/ or beside the image."""

    title = "images with masks of object numbers"
    reads = IMAGE_SUFFIXES  # an image without a mask, or the reverse, is an error

    def __init__(self, root: Path) -> None:
        self.folders = _image_and_mask_folders(root)

    @classmethod
    def at(cls, data: Path) -> MaskFolder | None:
        """The layout of the folder `data`, or None if it is another one."""
        return cls(data) if any(map(_holds_index_masks, (data, *split_folders(data)))) else None

    def splits(self) -> list[str]:
        """Those of the folders, or "train" alone."""
        return list(self.folders)

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest. No image is opened."""
        folder, masks = self.folders[split]
        apart = folder != masks
        images = images_below(folder) if apart else _without_cellpose(images_in(folder))
        found = {p: _mask_of(masks / p.relative_to(folder), apart) for p in images if not _is_mask(p, apart)}
        taken = set(found.values())
        problems = [
            f"{mask}: no image of this name found in {folder}: add the image or remove the mask"
            for mask in (images_below(masks) if apart else filter(lambda p: _is_mask(p, False), images))
            if mask not in taken
        ]

        def read(item: tuple[Path, Path | None]) -> tuple[ImageRecord | None, list[str]]:
            path, mask = item
            if mask is None:
                expected = masks / f"{path.stem}{'' if apart else '_mask'}.png"
                return None, [f"{path}: has no mask {expected}: add one (all 0 if there are no objects)"]
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
    """A folder with one folder per image, which holds images/NAME.png and one file per object in masks/."""

    title = "one folder per image, with one mask file per object"
    reads = IMAGE_SUFFIXES

    def __init__(self, root: Path) -> None:
        self.folders = folders_of_splits(root, _holds_object_masks, _holds_object_masks)

    @classmethod
    def at(cls, data: Path) -> ObjectMaskFolder | None:
        """The layout of the folder `data`, or None if it is another one."""
        return cls(data) if any(map(_holds_object_masks, (data, *split_folders(data)))) else None

    def splits(self) -> list[str]:
        """Those of the folders, or "train" alone."""
        return list(self.folders)

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and the problems of the rest. Only image headers are read."""
        return gather(name, ((OBJECT,), (1,)), folders_in(self.folders[split]), _read_image_folder, progress)


def _read_image_folder(folder: Path) -> tuple[ImageRecord | None, list[str]]:
    """The image and objects of one image's folder."""
    images = list(images_below(folder / "images"))
    if len(images) != 1:
        return None, [f"{folder / 'images'}: has {len(images)} images: keep exactly one"]
    if not (folder / "masks").is_dir():
        return None, [f"{folder}: has no masks/: add it (empty if there are no objects)"]
    try:
        height, width = read_image_size(images[0])
    except ImageError as error:
        return None, [str(error)]
    crops: list[Crop] = []
    problems: list[str] = []
    for file in images_below(folder / "masks"):
        try:
            crops.append(_object_mask(file, height, width))
        except ImageError as error:
            problems.append(str(error))
    annotations = annotations_of(crops, [0] * len(crops), (height, width))
    return ImageRecord(0, images[0], height, width, tuple(annotations)), problems


def _object_mask(file: Path, height: int, width: int) -> Crop:
    """The pixels of a mask file that are not 0 (in a colour mask: not black).

    Raises:
        ImageError: it cannot be read, is a JPEG, differs from the image in size, or has no pixel.
    """
    try:
        with open_image(file) as image:
            refuse_jpeg(image)
            colours = image.mode in ("RGB", "RGBA", "LA", "P", "PA")  # index 0 of a palette may be white
            values = np.array(image.convert("L") if colours else image)
    except Exception as error:
        raise ImageError(f"{file}: {describe_error(error)}") from error
    if values.shape != (height, width):
        raise ImageError(
            f"{file}: is {values.shape[1]} x {values.shape[0]} pixels, its image {width} x {height} "
            "after EXIF rotation: draw the mask at the image's size"
        )
    crop = crops_of((values != 0).astype(np.uint8)).get(1)
    if crop is None:
        raise ImageError(f"{file}: has only pixels of 0: draw the object or remove the mask")
    return crop


def _image_and_mask_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folder of images and the folder of masks of every split; the same one if they lie side by side.

    Raises:
        DataError: see `folders_of_splits`.
    """
    folders = folders_of_splits(root, _holds_index_masks, _holds_index_masks)
    if list(folders.values()) == [root] and (root / "masks").is_dir():
        inside = folders_of_splits(
            root / "images", lambda folder: bool(images_below(folder)), lambda folder: bool(images_in(folder))
        )
        return {
            split: (images, root / "masks" if images == root / "images" else _masks_of(images.name, root))
            for split, images in inside.items()
        }
    return {
        split: (folder / "images", folder / "masks") if (folder / "masks").is_dir() else (folder, folder)
        for split, folder in folders.items()
    }


def _masks_of(split: str, root: Path) -> Path:
    """The folder of a split's masks, whose name may be another of the same split."""
    same = [folder for folder in split_folders(root / "masks") if split_of(folder.name) == split_of(split)]
    folder = root / "masks" / split
    return same[0] if not folder.is_dir() and len(same) == 1 else folder


def _holds_index_masks(folder: Path) -> bool:
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return True
    # With a JSON file of its own it is an image of LabelMe's, whatever its name.
    return folder.is_dir() and any(
        _is_mask(path, apart=False) and not path.with_suffix(".json").is_file() for path in images_in(folder)
    )


def _holds_object_masks(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return any((p / "images").is_dir() and (p / "masks").is_dir() for p in folder.iterdir())


def _without_cellpose(images: list[Path]) -> list[Path]:
    """The images and masks without what Cellpose has written beside an image."""
    stems = {image.stem for image in images}
    return [
        image
        for image in images
        if not any(image.stem.removesuffix(end) in stems - {image.stem} for end in _CELLPOSE)
    ]


def _is_mask(path: Path, apart: bool) -> bool:
    """Whether an image file is a mask by its name, in a folder with images and masks (not `apart`)."""
    return not apart and path.suffix.lower() in _SUFFIXES and path.stem.endswith(_ENDINGS[1:])


def _mask_of(path: Path, apart: bool) -> Path | None:
    """The mask of an image, or None. `path` is the image's path if it lay in the folder of masks."""
    stems = [path.stem, *(path.stem.removesuffix(end) for end in _IMAGE_ENDINGS if path.stem.endswith(end))]
    candidates = (
        in_any_case(path.with_name(f"{stem}{ending}{suffix}"))
        for stem in stems
        for ending in _ENDINGS[0 if apart else 1 :]
        for suffix in _SUFFIXES
    )
    return next((c for c in candidates if c.is_file()), None)
