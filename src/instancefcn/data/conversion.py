"""From a dataset in any layout to one in another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from instancefcn.data.dataset import Dataset
from instancefcn.data.formats.coco import other_fields, write_coco
from instancefcn.data.formats.labelme import write_labelme
from instancefcn.data.formats.layouts import COCO, Layout, open_datasets, recognise
from instancefcn.data.formats.output import Losses, OutputFolder, note_derived
from instancefcn.data.formats.voc import write_voc
from instancefcn.data.formats.yolo import write_yolo
from instancefcn.data.validation_split import check_share, with_val
from instancefcn.errors import ConfigError, DataError
from instancefcn.files import new_folder

FORMAT_WRITERS: dict[str, Callable[[Mapping[str, Dataset], OutputFolder], None]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "voc": write_voc,
}
FIRST_ID = {"yolo": 0, "labelme": 1, "voc": 1}
"""Formats that number classes themselves, and the number of the first."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        source: the format that was read, in words.
        splits: of every split that was written, the number of its "pictures" and "annotations".
        lost: what the format cannot hold: {"what", "count", "of"} each.
    """

    source: str
    splits: dict[str, dict[str, int]]
    lost: list[dict[str, str | int]]


def convert(
    data: Path | str,
    out: Path | str,
    to: str,
    progress: Callable[[str, int, int], None] | None = None,
    val_share: float | None = None,
) -> Conversion:
    """Write all splits of a dataset in another format.

    Pictures are hard-linked where that is possible, else copied. `out` appears when everything is written.

    Args:
        data: a folder or YAML file of any layout in docs/data.md.
        out: a folder that does not exist yet.
        to: "coco", "yolo", "labelme" or "voc".
        progress: called with (what is done: "reading", "checking", "choosing" or "writing", pictures done,
            pictures).
        val_share: keep this share of train's pictures back as a split val (see `hold_out`); None keeps the
            splits as they are.

    Raises:
        ConfigError: `out` exists, or there is no such format; there is a val already.
        DataError: everything that is wrong with the data.
    """
    out = Path(out)
    if to not in FORMAT_WRITERS:
        raise ConfigError(f"there is no format {to!r}: choose one of {', '.join(FORMAT_WRITERS)}")
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists already: name a folder that does not")
    layout = recognise(data)
    names = layout.splits()
    if unfit := [name for name in names if Path(name).name != name or name.startswith(".")]:
        raise DataError(f"{data}: the split {unfit[0]!r} cannot be the name of a file: rename it")
    if not names:
        raise DataError(f"{data}: has no split: there is nothing to convert")
    if val_share is not None:
        check_share(val_share, names)
    datasets = open_datasets(
        data, names, progress=_stage("checking", progress), reading=_stage("reading", progress)
    )
    splits = dict(zip(names, datasets, strict=True))
    written = splits if val_share is None else with_val(splits, val_share, _stage("choosing", progress))
    with new_folder(out) as temporary:
        target = OutputFolder.of(temporary, written, _counter(sum(map(len, datasets)), progress))
        _note_numbers(layout, splits, to, target.losses)
        FORMAT_WRITERS[to](written, target)
    counts = {
        name: {"pictures": len(dataset), "annotations": sum(len(p.annotations) for p in dataset.images)}
        for name, dataset in written.items()
    }
    return Conversion(layout.title, counts, target.losses.rows())


def _note_numbers(layout: Layout, splits: Mapping[str, Dataset], to: str, losses: Losses) -> None:
    """Note what is lost whatever an annotation is like: fields and ids."""
    if isinstance(layout, COCO):
        fields = sorted({field for split in splits for field in other_fields(layout.places(split)[0])})
        losses.note(f"fields of the COCO files were left out: {', '.join(fields)}", len(fields), "fields")
    if to in FIRST_ID:
        note_derived(splits, losses)
        ids = next(iter(splits.values())).category_ids
        if ids != tuple(range(FIRST_ID[to], FIRST_ID[to] + len(ids))):
            losses.note("own ids of classes: they are numbered anew", len(ids), "classes")


def _stage(name: str, progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _counter(total: int, progress: Callable[[str, int, int], None] | None) -> Callable[[], None]:
    """Counts the pictures written."""
    done = 0

    def one() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("writing", done, total)

    return one
