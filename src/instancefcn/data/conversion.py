"""Convert a dataset from any format to another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.coco import other_fields, write_coco
from instancefcn.data.formats.labelme import write_labelme
from instancefcn.data.formats.layouts import CocoLayout, Layout, open_datasets, recognise
from instancefcn.data.formats.output import Losses, OutputFolder, note_derived
from instancefcn.data.formats.split_names import name_splits
from instancefcn.data.formats.voc import write_voc
from instancefcn.data.formats.yolo import write_yolo
from instancefcn.data.separate_parts import with_separate_parts
from instancefcn.data.validation_split import check_share, with_val
from instancefcn.errors import ConfigError, DataError, OutputError
from instancefcn.files import new_folder

FORMAT_WRITERS: dict[str, Callable[[Mapping[str, Dataset], OutputFolder], None]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "voc": write_voc,
}
FIRST_ID = {"yolo": 0, "labelme": 1, "voc": 1}
"""Formats that number classes themselves, and the number of their first class."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        source: the format that was read, in words.
        splits: the numbers of "images" and "annotations" of each split written.
        lost: one {"what", "count", "of"} for each thing that the format cannot hold.
        notes: what was decided in reading, one line each.
    """

    source: str
    splits: dict[str, dict[str, int]]
    lost: list[dict[str, str | int]]
    notes: list[str]


def convert(
    data: Path | str,
    out: Path | str,
    to: str,
    progress: Callable[[str, int, int], None] | None = None,
    val_share: float | None = None,
    split_parts: bool = False,
    crowds_as_objects: bool = False,
) -> Conversion:
    """Write all splits of a dataset in another format.

    Images are hard-linked if the disk allows it, else copied. `out` appears when everything is written.

    Args:
        data: a folder or YAML file of any layout in docs/data.md.
        out: a folder that does not exist yet.
        to: "coco", "yolo", "labelme" or "voc".
        progress: called with (stage, images done, images in total). The stage is "reading", "checking",
            "choosing" or "writing".
        val_share: hold out this share of train's images as the split val (see `hold_out`); None keeps the
            splits.
        split_parts: give every connected part of an annotation an annotation of its own, as masks that hold
            all objects of an image need (see `with_separate_parts`).
        crowds_as_objects: write every crowd (iscrowd 1) as one object.

    Raises:
        ConfigError: the format is unknown, or `val_share` is out of range or not possible for these splits.
        OutputError: `out` exists.
        DataError: every problem of the data.
    """
    out = Path(out)
    if to not in FORMAT_WRITERS:
        raise ConfigError(f"unknown format {to!r}: choose one of {', '.join(FORMAT_WRITERS)}")
    if os.path.lexists(out):
        raise OutputError(f"{out}: exists already: choose a new folder")
    layout = recognise(data)
    names = layout.splits()
    if unfit := [name for name in names if Path(name).name != name or name.startswith(".")]:
        raise DataError(f"{data}: split {unfit[0]!r} is not a valid file name: rename it")
    if not names:
        raise DataError(f"{data}: no split found: there is nothing to convert")
    if val_share is not None:
        check_share(val_share, names)
    datasets = open_datasets(
        data, names, progress=_stage("checking", progress), reading=_stage("reading", progress)
    )
    if crowds_as_objects:
        datasets = [dataset.crowds_as_objects() for dataset in datasets]
    if split_parts:
        datasets = [with_separate_parts(dataset) for dataset in datasets]
    splits = dict(zip(names, datasets, strict=True))
    written = splits if val_share is None else with_val(splits, val_share, _stage("choosing", progress))
    with new_folder(out) as temporary:
        output = OutputFolder.of(temporary, written, _counter(sum(map(len, datasets)), progress))
        _note_numbers(layout, splits, to, output.losses)
        FORMAT_WRITERS[to](written, output)
    counts = {
        name: {"images": len(dataset), "annotations": sum(len(p.annotations) for p in dataset.images)}
        for name, dataset in written.items()
    }
    notes = [f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes]
    return Conversion(layout.title, counts, output.losses.rows(), notes)


def _note_numbers(layout: Layout, splits: Mapping[str, Dataset], to: str, losses: Losses) -> None:
    """Note the fields, ids and names that are lost whatever the annotations are."""
    if to in ("coco", "voc") and name_splits(list(splits)) != {name: name for name in splits}:
        losses.note("a single split of another name is read back as train", of="splits")
    if isinstance(layout, CocoLayout):
        fields = sorted({field for split in splits for field in other_fields(layout.paths(split)[0])})
        losses.note(f"fields of the COCO files are left out: {', '.join(fields)}", len(fields), "fields")
    if to in FIRST_ID:
        note_derived(splits, losses)
        ids = next(iter(splits.values())).category_ids
        if ids != tuple(range(FIRST_ID[to], FIRST_ID[to] + len(ids))):
            losses.note("class ids are renumbered", len(ids), "classes")


def _stage(name: str, progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _counter(total: int, progress: Callable[[str, int, int], None] | None) -> Callable[[], None]:
    """A function that reports one more image written each time it is called."""
    done = 0

    def one() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("writing", done, total)

    return one
