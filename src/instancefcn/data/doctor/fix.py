"""Write a repaired copy of a dataset as COCO JSON, with a list of every repair."""

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
from instancefcn.data.doctor.renewed import renewed
from instancefcn.data.doctor.repairs import Repairs, Treatment, merge_records, repaired
from instancefcn.data.formats.coco import FIELDS, CocoReader
from instancefcn.data.formats.layouts import CocoLayout, recognise
from instancefcn.data.formats.output import put_image, suffix_of
from instancefcn.data.image_checks import Inspection
from instancefcn.data.text_files import read_json
from instancefcn.data.unusable import without_unusable
from instancefcn.errors import DataError, OutputError
from instancefcn.files import new_folder, write_json
from instancefcn.images.decoding import stored_turn, turn_of
from instancefcn.images.embedded import SUFFIX, is_embedded
from instancefcn.images.opening import open_image
from instancefcn.models.zoo import AnySpec

REPAIRS = "repairs.json"
"""The list of repairs, a JSON file beside the split files of a repaired copy."""
_ORIENTATION = 0x0112
_INVERSE = {
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
}
"""The inverse of each transposition that is not its own inverse."""
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}
"""How to encode pixels again with (almost) no loss. "exact" keeps colours at alpha 0, as the original
has them."""
_KEPT_TAGS = frozenset({270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853})
"""TIFF tags that do not describe how pixels are stored: description, camera, resolution, program, date,
author, rights, EXIF and GPS data. Other tags, such as width and height, belong to the old file."""


def write_repaired_copy(
    report: Report,
    copy: Path | str,
    *,
    model: str | AnySpec | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Report]:
    """Write a repaired copy of an examined dataset, and examine the copy.

    The copy holds SPLIT.json, images/ (hard links if the disk allows them, else copies) and repairs.json. It
    appears when it is complete.

    Args:
        report: from `examine`.
        copy: the new folder.
        model, progress: passed to `examine` for the copy.

    Returns:
        The repairs, and the report on the copy: what could not be repaired.

    Raises:
        OutputError: the folder exists already.
    """
    copy = Path(copy)
    if copy.exists():
        raise OutputError(f"{copy}: exists already: choose a new folder for the copy")
    entries: list[dict[str, Any]] = []
    names, own = _names(report), separate_splits(report.splits)
    kept: set[str] = set()
    with new_folder(copy) as folder:
        # Lists of other splits' images come last: they lose the images that those splits lose.
        for split in sorted(report.splits, key=lambda split: split.name not in own):
            repairs = Repairs(split.name)
            gone = _lost(report, own, kept) if split.name not in own else _leaked(report, own, split)
            kept |= _write_split(report, renewed(report, split, repairs), gone, names, folder, repairs)
            entries += repairs.entries
        write_json(folder / REPAIRS, {"source": report.data, "repairs": entries})
    left = examine(copy, [split.name for split in report.splits], model=model, progress=progress)
    findings = [finding.as_json() for finding in left.findings]
    write_json(copy / REPAIRS, {"source": report.data, "repairs": entries, "left": findings})
    return entries, left


def _names(report: Report) -> dict[str, str]:
    """The name below images/ of each image, by its absolute path.

    It is the path from the folder that all images have in common. If they have none, as on several drives,
    the folders are numbered.
    """
    paths = {absolute_path(p) for split in report.splits for p in split.dataset.images}
    folders = sorted({os.path.dirname(path) for path in paths})
    try:
        root = os.path.commonpath(folders)
        below = {folder: Path(os.path.relpath(folder, root)) for folder in folders}
    except ValueError:
        below = {folder: Path(str(number)) for number, folder in enumerate(folders)}
    names = {path: (below[os.path.dirname(path)] / os.path.basename(path)).as_posix() for path in paths}
    taken = set(names.values())
    for path in sorted(path for path in paths if is_embedded(Path(path))):
        with contextlib.suppress(DataError):  # what cannot be opened is left out
            suffix = suffix_of(Path(path))
            short = f"{names[path][: -len(SUFFIX)]}{suffix}"
            names[path] = short if short not in taken else names[path] + suffix
    return names


def _leaked(report: Report, own: set[str], split: Split) -> set[str]:
    """The paths of train's images that a later split in `own` has too; empty for other splits."""
    if split.name != "train":
        return set()
    after = report.splits[report.splits.index(split) + 1 :]
    later = {inspection.digest for other in after if other.name in own for inspection in other.inspections}
    pairs = zip(split.dataset.images, split.inspections, strict=True)
    return {absolute_path(image) for image, inspection in pairs if inspection.digest in later}


def _lost(report: Report, own: set[str], kept: set[str]) -> set[str]:
    """The paths of images that no split with its own images has kept."""
    splits = [split for split in report.splits if split.name in own]
    return {absolute_path(p) for split in splits for p in split.dataset.images} - kept


def _write_split(
    report: Report, split: Split, gone: set[str], names: dict[str, str], folder: Path, repairs: Repairs
) -> set[str]:
    """Write a split's file and images into `folder`, without the images whose paths are in `gone`.

    `names` holds the new name of each path. Returns the paths of the images written.
    """
    split = _readable(split, repairs)
    written: dict[Path, Treatment] = {}
    images: list[tuple[ImageRecord, str]] = []
    for records in _files(split, gone, repairs):
        results = [repaired(*record, repairs) for record in records]
        if merged := merge_records(results, repairs):
            better, treatment = merged
            written[better.path] = treatment
            images.append((better, names[absolute_path(better)]))
    paths = {absolute_path(image) for image, _ in images}
    for path, treatment in written.items():
        _put(path, folder / "images" / names[os.path.abspath(path)], treatment)
    images = _numbered(images, repairs)
    content = _content(report, split, images, repairs)
    _without_nan(content, repairs)
    write_json(folder / f"{split.name}.json", content, indent=None)
    (folder / "images").mkdir(exist_ok=True)
    return paths


def _files(split: Split, gone: set[str], repairs: Repairs) -> Iterator[list[tuple[ImageRecord, Inspection]]]:
    """The records of each image to keep. Of equal files, the one with the most annotations is kept."""
    equal: dict[bytes | int, dict[str, list[tuple[ImageRecord, Inspection]]]] = {}
    for number, (image, inspection) in enumerate(zip(split.dataset.images, split.inspections, strict=True)):
        if inspection.digest and absolute_path(image) in gone:
            _leave_out("leak", "another split", image, repairs)
        else:
            files = equal.setdefault(inspection.digest or number, {})
            files.setdefault(absolute_path(image), []).append((image, inspection))
    for files in equal.values():
        counts = {path: sum(len(p.annotations) for p, _ in records) for path, records in files.items()}
        kept = max(counts, key=counts.__getitem__)
        yield files.pop(kept)
        for image, _ in chain.from_iterable(files.values()):
            _leave_out("duplicate-image", "this split", image, repairs)


def _leave_out(check: str, where: str, image: ImageRecord, repairs: Repairs) -> None:
    what = f"left out, with its {len(image.annotations)} annotations: the same image is in {where}"
    repairs.add(check, what, image)


def _readable(split: Split, repairs: Repairs) -> Split:
    """The split without what its reader could not use, which is noted: see `data.unusable`."""
    usable = without_unusable(split.dataset, split.problems)
    for what, problem in usable.done:
        image = None if problem.image is None else ImageRecord(0, problem.image, 1, 1)
        repairs.add(problem.check, f"{what}: {problem}", image, problem.annotation)
    inspections = tuple(split.inspections[i] for i in usable.kept)
    return replace(split, dataset=usable.dataset, problems=(), inspections=inspections)


def _put(source: Path, target: Path, treatment: Treatment) -> None:
    """Link, copy or rewrite an image, unless another split has written it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    if treatment == "unchanged":
        put_image(source, target)
        return
    with open_image(source) as image:
        asked, turn = stored_turn(image), turn_of(image)
        image.load()
        kind = "JPEG" if image.format in ("JPEG", "MPO") else image.format
        if treatment == "without EXIF rotation":
            # Undo a rotation that turn_of has applied already.
            turn = _INVERSE.get(asked, asked) if asked is not None and turn is None else None
        exif = image.getexif()
        exif.pop(_ORIENTATION, None)
        if kind == "TIFF":
            for tag in exif.keys() - _KEPT_TAGS:
                del exif[tag]
        options: dict[str, Any] = {"exif": exif, "icc_profile": image.info.get("icc_profile")}
        options |= _SAVE_OPTIONS.get(str(kind), {})
        turned = image.copy() if turn is None else image.transpose(turn)
        turned.save(target, format=kind, **{k: v for k, v in options.items() if v is not None})


def _numbered(images: list[tuple[ImageRecord, str]], repairs: Repairs) -> list[tuple[ImageRecord, str]]:
    """The images, with new ids for images and annotations whose id is taken."""
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
            repairs.add("duplicate-id", f"image {image.id} given the id {fresh_image}", image)
            image = replace(image, id=fresh_image)
        seen_images.add(image.id)
        annotations: list[Annotation] = []
        for annotation in image.annotations:
            if annotation.id in seen:
                fresh += 1
                repairs.add("duplicate-id", f"given the id {fresh}", image, annotation.id)
                annotation = replace(annotation, id=fresh)
            seen.add(annotation.id)
            annotations.append(annotation)
        result.append((replace(image, annotations=tuple(annotations)), name))
    return result


def _content(
    report: Report, split: Split, images: list[tuple[ImageRecord, str]], repairs: Repairs
) -> dict[str, Any]:
    """The COCO file of the images, with all other fields of the source file."""
    old = _source(report, split)
    extra = {kind: _extra(old.get(kind, []), kind) for kind in FIELDS}
    ids = split.dataset.category_ids
    names = dict(zip(ids, split.dataset.class_names, strict=True))
    for image, _ in images:
        for a in image.annotations:
            if not 0 <= a.label < len(ids):
                repairs.add("unknown-category", "left out: its class is unknown", image, a.id)
    for other in report.splits:
        for id_, name in zip(other.dataset.category_ids, other.dataset.class_names, strict=True):
            if id_ not in names:
                names[id_] = name
                repairs.add("class-names", f"category {id_} {name!r} added, as in {other.dataset.name}")
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
    """The other fields of each record, by the id that the reader gave it."""
    found: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(DataError):  # too many problems: the reader has read nothing either
        singular = {"images": "image", "annotations": "annotation", "categories": "category"}[kind]
        for _, id_, record in CocoReader(Path(), []).records(records, singular):
            found[id_] = {key: value for key, value in record.items() if key not in FIELDS[kind]}
    return found


def _without_nan(content: dict[str, Any], repairs: Repairs) -> None:
    """Replace NaN and infinity, which JSON does not have, by null in the source's other fields."""
    for key in [key for key in content if key not in FIELDS]:
        content[key], changed = _finite(content[key])
        if changed:
            repairs.add("format", f"NaN and infinity in {key} replaced by null")
    for kind, own in FIELDS.items():
        for record in content[kind]:
            for key in [key for key in record if key not in own]:
                record[key], changed = _finite(record[key])
                if changed:
                    annotation = record["id"] if kind == "annotations" else None
                    what = f"NaN and infinity in {kind}.{key} of id {record['id']} replaced by null"
                    repairs.add("format", what, annotation=annotation)


def _finite(value: Any) -> tuple[Any, bool]:
    """A JSON value with null for NaN and infinity, and whether it had any."""
    if isinstance(value, str | int):
        return value, False  # nearly always
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return json.loads(json.dumps(value), parse_constant=lambda _: None), True
    return value, False


def _source(report: Report, split: Split) -> dict[str, Any]:
    """The content of the COCO file that a split was read from; empty for other formats."""
    wrong = (OSError, ValueError, DataError)
    with contextlib.suppress(*wrong):  # the examination has reported what is wrong
        layout = recognise(report.data)
        if not isinstance(layout, CocoLayout):
            return {}
        content = read_json(layout.paths(split.name)[0])
        if isinstance(content, dict):
            return {k: v for k, v in content.items() if k not in FIELDS or isinstance(v, list)}
    return {}
