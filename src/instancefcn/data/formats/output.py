"""The folder that a conversion writes, and a record of what the format cannot hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.formats.gathering import annotation_from_outline
from instancefcn.data.paths import IMAGE_SUFFIXES, findable, output_names
from instancefcn.errors import DataError
from instancefcn.files import atomic_write, link_or_copy
from instancefcn.images.embedded import image_bytes, is_embedded
from instancefcn.images.opening import describe_error, open_image


class Losses:
    """What a format cannot hold, and how many annotations (or other things) each loss concerns."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, what: str, count: int = 1, of: str = "annotations") -> None:
        """Add `count` things of the kind `of` to the loss `what`. A count of 0 adds nothing."""
        if count:
            self._counts[what, of] += count

    def rows(self) -> list[dict[str, str | int]]:
        """One {"what", "count", "of"} per loss, in the order of their first note."""
        return [{"what": what, "count": count, "of": of} for (what, of), count in self._counts.items()]


@dataclass
class OutputFolder:
    """A folder that a converted dataset is written to.

    Attributes:
        out: the folder.
        names: for each split, one file name without suffix per image, in order. An image shared by two
            splits has one name; names of different images differ even when case is ignored.
        on_image: called after every image written.
        losses: what the format cannot hold.
    """

    out: Path
    names: Mapping[str, list[str]]
    on_image: Callable[[], None] = lambda: None
    losses: Losses = field(default_factory=Losses)

    @classmethod
    def of(cls, out: Path, splits: Mapping[str, Dataset], on_image: Callable[[], None]) -> OutputFolder:
        """The output folder of these splits, with every renamed image noted as a loss.

        Names that some format's reader would not find are changed: `.a.jpg` becomes `a.jpg`.
        """
        unique: dict[tuple[Path, int], None] = {}
        keys: dict[str, list[tuple[Path, int]]] = {}
        for split, dataset in splits.items():
            times: Counter[Path] = Counter()
            keys[split] = []
            for image in dataset.images:
                key = (image.path, times[image.path])  # one file may have two records
                times[image.path] += 1
                unique[key] = None
                keys[split].append(key)
        found = {key: findable(key[0]) for key in unique}
        names = dict(zip(unique, output_names(list(found.values())), strict=True))
        output = cls(out, {split: [names[key] for key in own] for split, own in keys.items()}, on_image)
        longer = sum(name != found[key].stem for key, name in names.items())
        output.losses.note("names shared by several images are made longer", longer, "images")
        changed = sum(not _is_image(path) or path.name != found[path, i].name for path, i in unique)
        output.losses.note("names that a reader would not find are changed", changed, "images")
        return output

    def add_image(self, image: ImageRecord, name: str, folder: str) -> Path:
        """Hard-link or copy an image file into `folder` below `out`, unless it is already there."""
        suffix = image.path.suffix if _is_image(image.path) else suffix_of(image.path)
        path = self.out / folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            put_image(image.path, path)
        self.on_image()
        return path

    def write(self, path: Path, text: str) -> None:
        """Write a text file at `path` below `out`."""
        with atomic_write(self.out / path) as file:
            file.write_text(text, encoding="utf-8")


def _is_image(path: Path) -> bool:
    """Whether a file has the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def put_image(source: Path, target: Path) -> None:
    """Hard-link or copy an image file; write the image inside a LabelMe file."""
    if is_embedded(source):
        target.write_bytes(image_bytes(source))
    else:
        link_or_copy(source, target)


def suffix_of(path: Path) -> str:
    """The suffix that fits an image's content.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        with open_image(path) as image:
            kind = image.format
    except Exception as error:
        raise DataError(f"{path}: {describe_error(error)}") from error
    known = {"PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm"}
    return known.get(kind or "", ".jpg")  # JPEG, and MPO: a JPEG with several images


def note_derived(splits: Mapping[str, Dataset], losses: Losses) -> None:
    """Note the ids, boxes and areas that formats other than COCO do not store."""
    for dataset in splits.values():
        numbers = [a.id for image in dataset.images for a in image.annotations]
        if numbers != list(range(1, len(numbers) + 1)):
            losses.note("annotation ids are renumbered", len(numbers))
        ids = [image.id for image in dataset.images]
        if ids != list(range(1, len(ids) + 1)):
            losses.note("image ids are renumbered", len(ids), "images")
        for image in dataset.images:
            for a in image.annotations:
                derived = annotation_from_outline(a.label, a.segmentation, image.height, image.width)
                losses.note("boxes are recomputed from the outlines", a.box != derived.box)
                losses.note("areas are recomputed from the pixels", a.area != derived.area)
