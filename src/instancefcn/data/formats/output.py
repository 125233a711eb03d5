"""Where a conversion writes to, and its notes of what the format cannot hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instancefcn.data.dataset import Dataset, ImageRecord
from instancefcn.data.formats.gathering import outlined
from instancefcn.data.paths import IMAGE_SUFFIXES, findable, output_names
from instancefcn.errors import DataError
from instancefcn.files import atomic_write, link_or_copy
from instancefcn.images.opening import describe_error, open_image


class Losses:
    """What a format cannot hold, in words, and how many annotations (or other things) each concerns."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, what: str, count: int = 1, of: str = "annotations") -> None:
        """Count `count` more of the things `of` for `what`; 0 says nothing."""
        if count:
            self._counts[what, of] += count

    def rows(self) -> list[dict[str, str | int]]:
        """One {"what", "count", "of"} for each, in the order in which they were first noted."""
        return [{"what": what, "count": count, "of": of} for (what, of), count in self._counts.items()]


@dataclass
class OutputFolder:
    """A folder that a converted dataset is written to.

    Attributes:
        out: the folder.
        names: of every split, a name without suffix for each of its pictures, in their order. A picture that
            two splits share has one name; otherwise names differ, even in small letters.
        done: called for every picture written.
        losses: what the format cannot hold.
    """

    out: Path
    names: Mapping[str, list[str]]
    done: Callable[[], None] = lambda: None
    losses: Losses = field(default_factory=Losses)

    @classmethod
    def of(cls, out: Path, splits: Mapping[str, Dataset], done: Callable[[], None]) -> OutputFolder:
        """The target of these splits; notes which pictures have another name there.

        Names that not every layout's reader would find again are changed: `a.jpg` for `.a.jpg`.
        """
        keys: dict[tuple[Path, int], None] = {}
        places: dict[str, list[tuple[Path, int]]] = {}
        for split, dataset in splits.items():
            times: Counter[Path] = Counter()
            places[split] = []
            for image in dataset.images:
                key = (image.path, times[image.path])  # one file may have two records
                times[image.path] += 1
                keys[key] = None
                places[split].append(key)
        found = {key: findable(key[0]) for key in keys}
        names = dict(zip(keys, output_names(list(found.values())), strict=True))
        target = cls(out, {split: [names[key] for key in place] for split, place in places.items()}, done)
        longer = sum(name != found[key].stem for key, name in names.items())
        target.losses.note("names that other pictures have too were made longer", longer, "pictures")
        lost = sum(not _is_image(path) or path.name != found[path, i].name for path, i in keys)
        target.losses.note("names that a reader would not find again were changed", lost, "pictures")
        return target

    def place(self, image: ImageRecord, name: str, folder: str) -> Path:
        """Put the picture's file into `folder` below `out`, unless it is there: by a hard link, or a copy."""
        suffix = image.path.suffix if _is_image(image.path) else _suffix_of(image.path)
        path = self.out / folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            link_or_copy(image.path, path)
        self.done()
        return path

    def write(self, path: Path, text: str) -> None:
        """Write a text file below `out`."""
        with atomic_write(self.out / path) as file:
            file.write_text(text, encoding="utf-8")


def _is_image(path: Path) -> bool:
    """Whether the suffix says so."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _suffix_of(path: Path) -> str:
    """That of the format which the file is in."""
    try:
        with open_image(path) as image:
            kind = image.format
    except Exception as error:
        raise DataError(f"{path}: {describe_error(error)}") from error
    known = {"PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm"}
    return known.get(kind or "", ".jpg")  # JPEG, also with several pictures, which has a name of its own


def note_derived(splits: Mapping[str, Dataset], losses: Losses) -> None:
    """Note what formats other than COCO leave to be derived: ids, boxes, areas."""
    for dataset in splits.values():
        numbers = [a.id for image in dataset.images for a in image.annotations]
        if numbers != list(range(1, len(numbers) + 1)):
            losses.note("own ids of annotations: they are numbered anew", len(numbers))
        ids = [image.id for image in dataset.images]
        if ids != list(range(1, len(ids) + 1)):
            losses.note("own ids of pictures: they are numbered anew", len(ids), "pictures")
        for image in dataset.images:
            for a in image.annotations:
                derived = outlined(a.label, a.segmentation, image.height, image.width)
                losses.note("boxes that are not those of their outlines", a.box != derived.box)
                losses.note("areas that are not the number of pixels", a.area != derived.area)
