"""Writing a mended copy of a dataset, in COCO's layout, with a list of everything that was done."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from instancefcn.data.dataset import Annotation, ImageRecord
from instancefcn.data.doctor.checked_data import Split, absolute_path, separate_splits
from instancefcn.data.doctor.examine import Report, examine
from instancefcn.data.doctor.repairs import Repairs, Treatment, merge_records, repaired
from instancefcn.data.formats.coco import FIELDS, CocoReader
from instancefcn.data.formats.layouts import COCO, recognise
from instancefcn.data.image_checks import Look
from instancefcn.data.text_files import read_json
from instancefcn.errors import ConfigError, DataError, Problem
from instancefcn.files import link_or_copy, new_folder, write_json
from instancefcn.images.decoding import stored_turn, turn_of
from instancefcn.images.opening import open_image
from instancefcn.models.zoo import AnySpec

REPAIRS = "repairs.json"
"""The list of repairs lies beside the splits of a mended copy and is none of them."""
_ORIENTATION = 0x0112
_BACK = {
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
}
"""What undoes a turn; the other turns undo themselves."""
_FINE: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}
"""How to store pixels anew so that (nearly) nothing is lost. "exact" keeps colours below alpha 0, which are
read as any others."""
_NOTES = frozenset({270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853})
"""Tags of a TIFF file that say nothing about how its pixels are stored: description, camera, resolution,
program, date, author, rights, EXIF and GPS data. The rest, such as width and height, belongs to the old file.
"""


def mend(
    report: Report,
    copy: Path | str,
    *,
    model: str | AnySpec = "fcis_lite",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Report]:
    """Write a mended copy of the dataset that was examined, and examine the copy.

    The copy holds SPLIT.json, images/ (hard links to the pictures where the disk allows, otherwise copies)
    and repairs.json. It appears under its name when it is complete.

    Args:
        report: what `examine` found.
        copy: the new folder.
        model, progress: for the examination of the copy.

    Returns:
        the repairs, and the report on the copy: what could not be mended.

    Raises:
        ConfigError: the folder is there already.
    """
    copy = Path(copy)
    if copy.exists():
        raise ConfigError(f"{copy} is there already: give --fix a new folder")
    repairs: list[dict[str, Any]] = []
    names, own = _names(report), separate_splits(report.splits)
    kept: set[str] = set()
    with new_folder(copy) as folder:
        # Lists of other splits' pictures come last: they lose what those lose.
        for split in sorted(report.splits, key=lambda split: split.name not in own):
            notes = Repairs(split.name)
            gone = _lost(report, own, kept) if split.name not in own else _leaked(report, own, split)
            kept |= _write_split(report, split, gone, names, folder, notes)
            repairs += notes.entries
        write_json(folder / REPAIRS, {"source": report.data, "repairs": repairs})
    left = examine(copy, [split.name for split in report.splits], model=model, progress=progress)
    findings = [finding.as_json() for finding in left.findings]
    write_json(copy / REPAIRS, {"source": report.data, "repairs": repairs, "left": findings})
    return repairs, left


def _names(report: Report) -> dict[str, str]:
    """By the place of every picture its name below images/: the path from the folder that holds all of them.
    Where there is none, as on several drives, the folders are numbered.
    """
    places = {absolute_path(p) for split in report.splits for p in split.dataset.images}
    folders = sorted({os.path.dirname(place) for place in places})
    try:
        root = os.path.commonpath(folders)
        below = {folder: Path(os.path.relpath(folder, root)) for folder in folders}
    except ValueError:
        below = {folder: Path(str(number)) for number, folder in enumerate(folders)}
    return {place: (below[os.path.dirname(place)] / os.path.basename(place)).as_posix() for place in places}


def _leaked(report: Report, own: set[str], split: Split) -> set[str]:
    """Of train: the places of the pictures that a split after it holds too, lists of others left out."""
    if split.name != "train":
        return set()
    after = report.splits[report.splits.index(split) + 1 :]
    later = {look.digest for other in after if other.name in own for look in other.looks}
    pairs = zip(split.dataset.images, split.looks, strict=True)
    return {absolute_path(image) for image, look in pairs if look.digest in later}


def _lost(report: Report, own: set[str], kept: set[str]) -> set[str]:
    """The places of the pictures that no split with pictures of its own has kept."""
    splits = [split for split in report.splits if split.name in own]
    return {absolute_path(p) for split in splits for p in split.dataset.images} - kept


def _write_split(
    report: Report, split: Split, gone: set[str], names: dict[str, str], folder: Path, notes: Repairs
) -> set[str]:
    """Write a split's file and pictures into `folder`, without those that are at the places `gone`; `names`
    says what to call them. Returns the places of what was written.
    """
    kept_ids = {a.id for image in split.dataset.images for a in image.annotations}
    for problem in split.problems:
        _note_reading(problem, kept_ids, notes)
    written: dict[Path, Treatment] = {}
    images: list[tuple[ImageRecord, str]] = []
    for records in _files(split, gone, notes):
        results = [result for record in records if (result := repaired(*record, notes)) is not None]
        if results:
            better, treatment = merge_records(results, notes)
            written[better.path] = treatment
            images.append((better, names[absolute_path(better)]))
    places = {absolute_path(image) for image, _ in images}
    for path, treatment in written.items():
        _put(path, folder / "images" / names[os.path.abspath(path)], treatment)
    images = _numbered(images, notes)
    content = _content(report, split, images, notes)
    _without_nan(content, notes)
    write_json(folder / f"{split.name}.json", content, indent=None)
    (folder / "images").mkdir(exist_ok=True)
    return places


def _files(split: Split, gone: set[str], notes: Repairs) -> Iterator[list[tuple[ImageRecord, Look]]]:
    """What to keep of the split: for each different picture the records of one file, the file with the most
    annotations where several are equal.
    """
    alike: dict[bytes | int, dict[str, list[tuple[ImageRecord, Look]]]] = {}
    for number, (image, look) in enumerate(zip(split.dataset.images, split.looks, strict=True)):
        if look.digest and absolute_path(image) in gone:
            _leave_out("leak", "another split", image, notes)
        else:
            files = alike.setdefault(look.digest or number, {})
            files.setdefault(absolute_path(image), []).append((image, look))
    for files in alike.values():
        counts = {place: sum(len(p.annotations) for p, _ in records) for place, records in files.items()}
        kept = max(counts, key=counts.__getitem__)
        yield files.pop(kept)
        for image, _ in chain.from_iterable(files.values()):
            _leave_out("duplicate-picture", "this split", image, notes)


def _leave_out(check: str, where: str, image: ImageRecord, notes: Repairs) -> None:
    what = f"left out, with its {len(image.annotations)} annotations: the same picture is in {where}"
    notes.add(check, what, image)


def _note_reading(problem: str, kept_ids: set[int], notes: Repairs) -> None:
    """What became of something that the reader could not take as it was."""
    problem = problem if isinstance(problem, Problem) else Problem(problem)
    image = None if problem.image is None else ImageRecord(0, problem.image, 1, 1)
    if problem.annotation not in kept_ids:
        what = f"left out: {problem}"
    elif problem.check == "duplicate-id":
        what = f"given the id {problem.annotation}: {problem}"
    else:
        what = f"kept without it, box taken from the outline: {problem}"
    notes.add(problem.check, what, image, problem.annotation)


def _put(source: Path, target: Path, treatment: Treatment) -> None:
    """Link, copy or rewrite a picture. Splits may share one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    if treatment == "as it is":
        link_or_copy(source, target)
        return
    with open_image(source) as image:
        asked, turn = stored_turn(image), turn_of(image)
        image.load()
        kind = "JPEG" if image.format in ("JPEG", "MPO") else image.format
        if treatment == "without EXIF rotation":
            # What turn_of has turned already goes back.
            turn = _BACK.get(asked, asked) if asked is not None and turn is None else None
        exif = image.getexif()
        exif.pop(_ORIENTATION, None)
        if kind == "TIFF":
            for tag in exif.keys() - _NOTES:
                del exif[tag]
        options: dict[str, Any] = {"exif": exif, "icc_profile": image.info.get("icc_profile")}
        options |= _FINE.get(str(kind), {})
        turned = image.copy() if turn is None else image.transpose(turn)
        turned.save(target, format=kind, **{k: v for k, v in options.items() if v is not None})


def _numbered(images: list[tuple[ImageRecord, str]], notes: Repairs) -> list[tuple[ImageRecord, str]]:
    """With new numbers for pictures and annotations whose id another before them has."""
    ids = Counter(p.id for p, _ in images)
    fresh_image = max(ids, default=0)
    taken = Counter(a.id for p, _ in images for a in p.annotations)
    fresh = max(taken, default=0)
    seen_images: set[int] = set()
    seen: set[int] = set()
    result = []
    for image, name in images:
        if image.id in seen_images:
            fresh_image += 1
            notes.add("duplicate-id", f"image {image.id} given the id {fresh_image}", image)
            image = replace(image, id=fresh_image)
        seen_images.add(image.id)
        annotations: list[Annotation] = []
        for annotation in image.annotations:
            if annotation.id in seen:
                fresh += 1
                notes.add("duplicate-id", f"given the id {fresh}", image, annotation.id)
                annotation = replace(annotation, id=fresh)
            seen.add(annotation.id)
            annotations.append(annotation)
        result.append((replace(image, annotations=tuple(annotations)), name))
    return result


def _content(
    report: Report, split: Split, images: list[tuple[ImageRecord, str]], notes: Repairs
) -> dict[str, Any]:
    """A COCO file of the pictures, with all the fields of the source's that nothing here concerns."""
    old = _source(report, split)
    extra = {kind: _extra(old.get(kind, []), kind) for kind in FIELDS}
    ids = split.dataset.category_ids
    names = dict(zip(ids, split.dataset.class_names, strict=True))
    for image, _ in images:
        for a in image.annotations:
            if not 0 <= a.label < len(ids):
                notes.add("unknown-category", "left out: its class is unknown", image, a.id)
    for other in report.splits:
        for id_, name in zip(other.dataset.category_ids, other.dataset.class_names, strict=True):
            if id_ not in names:
                names[id_] = name
                notes.add("class-names", f"category {id_} {name!r} added, as in {other.dataset.name}")
    written = [
        {"id": p.id, "file_name": name, "width": p.width, "height": p.height} | extra["images"].get(p.id, {})
        for p, name in images
    ]
    annotations = [
        {
            "id": a.id,
            "image_id": p.id,
            "category_id": ids[a.label],
            "bbox": [a.box[0], a.box[1], round(a.box[2] - a.box[0], 3), round(a.box[3] - a.box[1], 3)],
            "area": a.area,
            "iscrowd": int(a.crowd),
            "segmentation": a.segmentation,
        }
        | extra["annotations"].get(a.id, {})
        for p, _ in images
        for a in p.annotations
        if 0 <= a.label < len(ids)
    ]
    categories = [{"id": i, "name": names[i]} | extra["categories"].get(i, {}) for i in sorted(names)]
    rest = {key: value for key, value in old.items() if key not in FIELDS}
    return {**rest, "images": written, "annotations": annotations, "categories": categories}


def _extra(records: list[Any], kind: str) -> dict[int, dict[str, Any]]:
    """The fields of every record that nothing here concerns, by the id that the reader gave it."""
    found: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(DataError):  # too much is wrong: then the reader has read nothing either
        singular = {"images": "image", "annotations": "annotation", "categories": "category"}[kind]
        for _, id_, record in CocoReader(Path(), []).records(records, singular):
            found[id_] = {key: value for key, value in record.items() if key not in FIELDS[kind]}
    return found


def _without_nan(content: dict[str, Any], notes: Repairs) -> None:
    """Write null for NaN and infinity, which JSON has no words for, in the fields that came along."""
    for key in [key for key in content if key not in FIELDS]:
        content[key], changed = _finite(content[key])
        if changed:
            notes.add("format", f"NaN and infinity in {key} became null")
    for kind, own in FIELDS.items():
        for record in content[kind]:
            for key in [key for key in record if key not in own]:
                record[key], changed = _finite(record[key])
                if changed:
                    annotation = record["id"] if kind == "annotations" else None
                    what = f"NaN and infinity in {kind}.{key} of id {record['id']} became null"
                    notes.add("format", what, annotation=annotation)


def _finite(value: Any) -> tuple[Any, bool]:
    """A value from a JSON file with null for what is no finite number, and whether there was any."""
    if isinstance(value, str | int):
        return value, False  # as most are
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return json.loads(json.dumps(value), parse_constant=lambda _: None), True
    return value, False


def _source(report: Report, split: Split) -> dict[str, Any]:
    """The COCO file that a split was read from; empty when it was another format's."""
    wrong = (OSError, ValueError, DataError)
    with contextlib.suppress(*wrong):  # what is wrong with it the examination has said
        layout = recognise(report.data)
        if not isinstance(layout, COCO):
            return {}
        content = read_json(layout.places(split.name)[0])
        if isinstance(content, dict):
            return {k: v for k, v in content.items() if k not in FIELDS or isinstance(v, list)}
    return {}
