"""What `instancefcn label` opens: a folder of images, an annotated data set, or labels begun before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from instancefcn.console import Progress
from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.layouts import read_split, recognise
from instancefcn.data.image_checks import class_problems
from instancefcn.data.paths import LABELLING, at_home, images_below
from instancefcn.errors import ConfigError, DataError, OutputError
from instancefcn.files import check_output_folder
from instancefcn.instances import OBJECT
from instancefcn.safe_text import is_name
from instancefcn.studio.labelling.store import FILE, Row, Store

MAX_CLASSES = 500
"""Classes that the page can show."""

HELD_OUT = 5
"""One in this many labelled images is held out: never trained on, to measure on."""


@dataclass(frozen=True)
class Labels:
    """Open labels.

    Attributes:
        store: the labels on disk.
        root: the folder that the images' names start in.
    """

    store: Store
    root: Path

    def path(self, image: Row) -> Path:
        """An image's file."""
        return self.root / image["name"]


def open_labels(
    source: Path | str, out: Path | str | None, classes: Sequence[str], progress: Progress | None = None
) -> Labels:
    """Open labels, or begin them.

    Args:
        source: a folder of images, an annotated data set in any layout of docs/data.md, or the OUT of an
            earlier call.
        out: the data set's folder; by default SOURCE with "-labelled" behind its name.
        classes: names to have at least.
        progress: receives the progress.

    Raises:
        ConfigError: another server has the labels open, or a class is named wrongly.
        DataError: there are no images, or the data set cannot be read.
        OutputError: OUT holds something else, or cannot be written.
    """
    source = at_home(source)
    if wrong := [name for name in classes if not is_name(name)]:
        raise ConfigError(f"--classes: {wrong[0]!r} is not a valid class name: separate names by commas")
    if out is None:
        begun = (source / LABELLING / FILE).is_file()
        out = source if begun else source.with_name(f"{source.resolve().stem}-labelled")
    out = at_home(out)
    store = Store(out) if (out / LABELLING / FILE).is_file() else None
    try:
        if store is not None and store.fact("source") is not None:
            return _continue(store, source, classes)
        if not source.exists():
            raise DataError(f"{source}: folder of images or data set not found: correct the path")
        _check_out(source, out)
        root, found = _contents(source, progress or Progress())
        store = store or Store(out)
        _begin(store, source, root, found, classes)
        return Labels(store, root)
    except BaseException:
        if store is not None:
            store.close()
        raise


def _check_out(source: Path, out: Path) -> None:
    if taken := [name for name in ("train.json", "val.json") if (out / name).exists()]:
        raise OutputError(f"{out} holds a data set already ({taken[0]}): choose another folder with --out")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"{out} lies inside {source}: choose a folder beside the images with --out")
    check_output_folder(out)


@dataclass(frozen=True)
class _Found:
    """Images to label, and what is known of them."""

    images: list[tuple[Path, Row]]
    classes: dict[int, str]
    objects: list[tuple[int, Row]]
    problems: list[str]


def _contents(source: Path, progress: Progress) -> tuple[Path, _Found]:
    """The folder that the names start in, and what was found."""
    try:
        layout = recognise(source)
    except DataError:
        if not source.is_dir():
            raise
        paths = list(images_below(source))
        if not paths:
            raise DataError(f"{source}: no image found: give a folder with images, or a data set") from None
        return source.absolute(), _Found([(path.absolute(), _image_row()) for path in paths], {}, [], [])
    datasets: dict[str, Dataset] = {}
    problems: list[str] = []
    for split in layout.splits():
        datasets[split], found = read_split(
            source, split, lambda done, total: progress("reading", done, total)
        )
        problems += map(str, found)
    if not datasets:
        raise DataError(f"{source}: no split found: there is nothing to label")
    contents = _annotated(datasets, problems)
    return Path(os.path.commonpath([path.parent for path, _ in contents.images])), contents


def _annotated(datasets: dict[str, Dataset], problems: list[str]) -> _Found:
    first = next(iter(datasets.values()))
    if differing := [p for other in datasets.values() for p in class_problems(first, other)]:
        raise DataError(differing)
    images: list[tuple[Path, Row]] = []
    objects: list[tuple[int, Row]] = []
    single = len(datasets) == 1  # as many tools export: something is held out to measure on
    trained: set[int] = set()
    for split, dataset in datasets.items():
        for image in dataset.images:
            if single:
                classes = {a.label for a in image.annotations}
                held = (len(images) + 1) % HELD_OUT == 0 and bool(classes) and classes <= trained
                split = "val" if held else "train"
                trained |= set() if held else classes
            images.append((image.path.absolute(), _image_row(image.width, image.height, split)))
            for a in image.annotations:
                row = {
                    "image": len(images),
                    "class": dataset.category_ids[a.label],
                    "segmentation": a.segmentation,
                    "box": list(a.box),
                    "area": a.area,
                    "crowd": int(a.crowd),
                    "deleted": 0,
                }
                objects.append((a.id, row))
    ids = [id_ for id_, _ in objects]
    if len(set(ids)) < len(ids) or min(ids, default=1) < 1:  # each split numbers its own
        objects = [(number, row) for number, (_, row) in enumerate(objects, start=1)]
    return _Found(images, dict(zip(first.category_ids, first.class_names, strict=True)), objects, problems)


def _image_row(width: int | None = None, height: int | None = None, split: str | None = None) -> Row:
    return {"name": "", "width": width, "height": height, "done": int(split is not None), "split": split}


def _begin(store: Store, source: Path, root: Path, found: _Found, classes: Sequence[str]) -> None:
    with store.transaction():
        store.fill(
            "images",
            (
                (number, {**row, "name": path.relative_to(root).as_posix()})
                for number, (path, row) in enumerate(found.images, start=1)
            ),
        )
        store.fill("classes", ((id_, {"name": name}) for id_, name in found.classes.items()))
        store.fill("objects", found.objects)
        _add_classes(store, classes)
        if not store.classes():
            store.fill("classes", [(1, {"name": OBJECT})])
        store.put("root", str(root))
        store.put("source", str(source.absolute()))
        store.put("problems", found.problems)


def _continue(store: Store, source: Path, classes: Sequence[str]) -> Labels:
    """Labels begun before: with the images that were added since."""
    begun, root = Path(store.fact("source")), Path(store.fact("root"))
    if source.absolute() != begun and source.resolve() != store.out.resolve():
        raise OutputError(f"{store.out} holds labels of {begun}: choose another folder with --out")
    if not root.is_dir():
        # The images were moved away: those that are labelled lie beside the labels.
        root = store.out / "images"
    with store.transaction():
        _add_classes(store, classes)
        if begun == root and root.is_dir():
            known = {name for _, name, _, _ in store.images()}
            first = max((id_ for id_, *_ in store.images()), default=0) + 1
            new = [name for name in _names_below(root) if name not in known]
            rows = ((number, {**_image_row(), "name": name}) for number, name in enumerate(new, start=first))
            store.fill("images", rows)
    return Labels(store, root)


def _names_below(root: Path) -> Iterator[str]:
    return (path.relative_to(root).as_posix() for path in images_below(root))


def _add_classes(store: Store, names: Sequence[str]) -> None:
    known = store.classes()
    new = [name for name in dict.fromkeys(names) if name not in known.values()]
    if len(known) + len(new) > MAX_CLASSES:
        raise ConfigError(f"there are more than {MAX_CLASSES} classes: label fewer kinds of objects")
    store.fill(
        "classes", ((max(known, default=0) + n, {"name": name}) for n, name in enumerate(new, start=1))
    )
