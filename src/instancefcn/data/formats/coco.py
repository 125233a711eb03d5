"""COCO JSON: polygons, compressed and uncompressed RLEs, and crowds. `coco_layouts` finds the files.

An annotation file holds three lists:

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [x, y, width, height], "area": 9.0,
                      "iscrowd": 0, "segmentation": [[x, y, x, y, x, y]]}],
     "categories": [{"id": 3, "name": "cat"}]}

Everything wrong with a file and its images is collected and raised together. A missing or null `bbox` or
`area` is derived from the outline (the area is its number of pixels); a missing or null `iscrowd` is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord, too_many_pixels
from instancefcn.data.formats.gathering import annotation_from_outline, capped_problems
from instancefcn.data.formats.output import OutputFolder
from instancefcn.data.image_checks import box_problem, image_problems
from instancefcn.data.paths import ImageFinder, is_there
from instancefcn.data.text_files import read_json
from instancefcn.data.unusable import Unusable, ignored_region
from instancefcn.errors import DataError, ImageError, Problem
from instancefcn.files import write_json
from instancefcn.geometry.outlines import extent, normalised, outline_problem, without_bad_polygons
from instancefcn.images.decoding import read_image_size
from instancefcn.images.opening import check_image_size
from instancefcn.limits import MAX_CLASSES, MAX_PROBLEMS
from instancefcn.safe_text import is_name, shown

FIELDS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"},
    "categories": {"id", "name"},
}
"""The fields of COCO's records that a Dataset keeps."""


# Reading


def read_coco(
    annotations: Path | str,
    images: Path | str,
    *,
    name: str | None = None,
    check_images: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read a COCO JSON file.

    Category ids may be any integers; labels are their ranks.

    Args:
        annotations: the JSON file.
        images: the folder that the records' file names start in. No name may lead out of it.
        name: the dataset's name; by default that of the JSON file.
        check_images: decode every image once, so that a broken one is found now and not during training.
        progress: called with (images checked, images in total).

    Raises:
        DataError: with every problem found.
    """
    dataset, problems = parse_coco(annotations, images, name=name)
    if check_images:
        problems = problems + image_problems(dataset.images, progress)
    if problems:
        raise DataError(problems)
    return dataset


def parse_coco(
    annotations: Path | str, images: Path | str, *, name: str | None = None
) -> tuple[Dataset, list[str]]:
    """The usable part of a COCO JSON file, and the problems of the rest. An image is opened only if its
    record does not state its size.

    An annotation with some bad polygons keeps its good ones. A bad box is replaced by that of the outline,
    and an id that is already taken by a new one. The problems are `Problem`s; those of annotations that are
    left out are `Unusable`.

    Raises:
        DataError: there are more than MAX_PROBLEMS problems.
    """
    annotations, images = Path(annotations), Path(images)
    name = annotations.stem if name is None else name
    problems: list[str] = []
    content = _load(annotations, problems)
    usable_folder = is_there(images) and images.is_dir()
    if not usable_folder:
        problems.append(f"{images}: folder of images not found: create it or name the right one")
    if content is None or not usable_folder:
        return Dataset(name, (), (), ()), problems
    reader = CocoReader(annotations, problems)
    names = reader.categories(content["categories"])
    ids = tuple(sorted(names))
    finder = ImageFinder(images)
    records = reader.images(content["images"], finder)
    outlines = reader.annotations(
        content["annotations"], {id_: label for label, id_ in enumerate(ids)}, records
    )
    filled = [
        ImageRecord(p.id, p.path, p.height, p.width, tuple(outlines.get(p.id, ())))
        for p in records.values()
        if p is not None and p.id not in reader.missing
    ]
    usable = []
    for image in filled:
        if problem := too_many_pixels(image):
            problems.append(problem)
        else:
            usable.append(image)
    notes = (*finder.notes(), *reader.notes())
    return Dataset(name, tuple(usable), tuple(names[i] for i in ids), ids, notes), problems


def _load(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The file's content, or None if it lacks one of the three lists."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        problems.append(f"{path}: annotation file not found: add it or name the right one")
        return None
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return None
    except ValueError as error:
        problems.append(f"{path}: is not a valid JSON file ({error}): export the annotations again")
        return None
    if not isinstance(content, dict):
        problems.append(
            f'{path}: is a {type(content).__name__}, not an object with "images", "annotations" and '
            '"categories": give an annotation file (COCO results are a list)'
        )
        return None
    before = len(problems)
    for key in ("images", "annotations", "categories"):
        if key not in content:
            problems.append(
                f'{path}: has no "{key}": a COCO file needs "images", "annotations" and "categories"'
            )
        elif not isinstance(content[key], list):
            problems.append(f'{path}: "{key}" is a {type(content[key]).__name__}: it must be a list')
        elif not content[key] and key != "annotations":
            problems.append(f'{path}: "{key}" is empty: there is nothing to train on')
        elif key == "categories" and len(content[key]) > MAX_CLASSES:
            problems.append(f'{path}: "{key}" has {len(content[key]):,} classes, at most {MAX_CLASSES:,}')
    return content if len(problems) == before else None


class CocoReader:
    """Reads the records of one file and collects their problems.

    Attributes:
        path: the file, for messages.
        problems: what is wrong, in the order found.
        missing: ids of images whose file does not exist. They are reported once and never opened.
    """

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path, self.problems = path, problems
        self.missing: set[int] = set()
        self._numbers: dict[str, _Numbers] = {}
        self._sizes_read: list[str] = []
        self._outlines_read: list[int] = []

    def notes(self) -> tuple[str, ...]:
        """What was read although it is not as COCO's format says, one line each."""
        lines = []
        for kind, numbers in self._numbers.items():
            if texts := list(numbers.of_text):
                which = f"{shown(texts[0])}{', ..' * (len(texts) > 1)}"
                lines.append(f"{len(texts)} ids of {kind} records are text ({which}): they are numbered")
        if self._sizes_read:
            which = f"{self._sizes_read[0]}{', ..' * (len(self._sizes_read) > 1)}"
            count = len(self._sizes_read)
            lines.append(f"{count} image records have no size ({which}): it is read from the files")
        if self._outlines_read:
            lines.append(
                f"{len(self._outlines_read)} outlines are lists of points instead of lists of polygons "
                f"(annotation {self._outlines_read[0]}): each is read as one polygon"
            )
        return tuple(f"{self.path.name}: {line}" for line in lines)

    def add_problem(
        self,
        where: str,
        what: str,
        check: str = "format",
        image: Path | None = None,
        annotation: int | None = None,
    ) -> None:
        """Add a problem. Raises DataError at more than MAX_PROBLEMS."""
        check = what.check if isinstance(what, Problem) else check
        self._add(Problem(f"{self.path}: {where}: {what}", check, image=image, annotation=annotation))

    def _add(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) > MAX_PROBLEMS:
            raise DataError(capped_problems(self.problems))

    def records(self, records: list[Any], kind: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Each record's name for messages, its id, and the record.

        Ids of text get numbers. An annotation without a unique id gets a new one. An image or category
        without one is left out, because annotations refer to it by id.
        """
        numbers = self._numbers[kind] = _Numbers(records)
        seen: set[int] = set()
        for index, record in enumerate(records):
            if not isinstance(record, dict):
                self.add_problem(f"{kind} record {index}", f"is a {type(record).__name__}, not an object")
                continue
            id_ = numbers.number(record.get("id"))
            where = f"{kind} record {index}" if id_ is None else f"{kind} {shown_id(record['id'])}"
            if id_ is None or id_ in seen:
                if id_ is not None:
                    what = "this id is used more than once: give every record its own id"
                elif "id" in record:
                    what = f"id {shown(record['id'])} is not an integer: number the records"
                else:
                    what = "has no id: number the records"
                given = numbers.fresh() if kind == "annotation" else None
                self.add_problem(where, what, "duplicate-id", annotation=given)
                if given is None:
                    continue
                id_ = given
            seen.add(id_)
            yield where, id_, record

    def categories(self, records: list[Any]) -> dict[int, str]:
        """Class names by category id."""
        names: dict[int, str] = {}
        for where, id_, record in self.records(records, "category"):
            name = record.get("name")
            name = str(name) if _is_number(name) else name
            if not is_name(name):
                found = f"its name is {shown(name)}" if name else "has no name"
                self.add_problem(where, f"{found}: give it a name of visible characters")
                name = f"category {id_}"
            names[id_] = str(name)
        return names

    def images(self, records: list[Any], finder: ImageFinder) -> dict[int, ImageRecord | None]:
        """Images by id. None: the record cannot be used, which is reported once, not per annotation."""
        images: dict[int, ImageRecord | None] = {}
        names: dict[Path, dict[int, str]] = {}
        for called, id_, record in self.records(records, "image"):
            file_name = record.get("file_name")
            images[id_] = None
            where = f"{called} ({_clipped(file_name)})" if file_name else called
            if not isinstance(file_name, str) or not file_name:
                self.add_problem(where, "has no file_name: write the file's path below the folder of images")
                continue
            path, problem = finder.find(file_name)
            if problem:
                self.add_problem(where, problem, "missing-image", finder.folder / Path(file_name).name)
            size = self._size(where, record, path)
            if size is None:
                continue
            if path is not None:
                images[id_] = ImageRecord(id_, path, *size)
                names.setdefault(path, {})[id_] = file_name
            else:  # its outlines can still be checked
                images[id_] = ImageRecord(id_, finder.folder / Path(file_name).name, *size)
                self.missing.add(id_)
        for path, written in names.items():
            self._check_same_file(path, written, finder)
        return images

    def _size(self, where: str, record: dict[str, Any], path: Path | None) -> tuple[int, int] | None:
        """(height, width) as the record states them, or else those of the file; None with a problem."""
        stated = record.get("height"), record.get("width")
        height, width = map(_integer, stated)
        if any(value in UNSTATED for value in stated):
            if path is None:
                return None  # reported as missing
            try:
                size = read_image_size(path)
            except ImageError as error:
                self.add_problem(where, str(error), "unreadable-image", path)
                return None
            known = [(value, side) for value, side in zip(stated, size, strict=True) if value not in UNSTATED]
            if all(_integer(value) == side for value, side in known):
                self._sizes_read.append(path.name)
                return size
        called = f"{shown(stated[1])} x {shown(stated[0])}"
        if height is None or width is None or height < 1 or width < 1:
            self.add_problem(where, f"width x height is {called}: write the image's size in pixels")
            return None
        try:
            check_image_size(height, width)
        except ImageError as error:
            self.add_problem(where, f"width x height is {called}: {error}")
            return None
        return height, width

    def _check_same_file(self, path: Path, written: dict[int, str], finder: ImageFinder) -> None:
        """Two stale paths that end alike ("train/1.jpg", "val/1.jpg") must not both become one file."""
        if len(set(written.values())) < 2:
            return
        for id_, name in written.items():
            if not finder.finds(name, moved=False):
                what = (
                    f"file_name {shown(name)} leads to {path}, like that of other records: "
                    "correct the paths so that each leads to its own file"
                )
                self.add_problem(f"image {id_} ({_clipped(name)})", what, "missing-image", path)
                self.missing.add(id_)

    def annotations(
        self, records: list[Any], labels: dict[int, int], images: dict[int, ImageRecord | None]
    ) -> dict[int, list[Annotation]]:
        """Annotations by image id."""
        found: dict[int, list[Annotation]] = {}
        for called, id_, record in self.records(records, "annotation"):
            image_id = self._number("image", record.get("image_id"))
            category = self._number("category", record.get("category_id"))
            image = None if image_id is None else images.get(image_id)
            label = labels.get(category, -1) if category is not None else -1
            annotation, wrong = self._annotation(id_, record, label, image) if image else (None, [])
            if label < 0:
                known = ", ".join(map(str, list(labels)[:20])) + (", .." if len(labels) > 20 else "")
                what = f"category_id {shown(record.get('category_id'))} is unknown"
                what = f"{what}: use one of {known}, or add a category"
                wrong.insert(0, Problem(what, "unknown-category"))
            if image_id not in images:
                what = f"image_id {shown(record.get('image_id'))} is unknown"
                what = f"{what}: add an image record with this id, or remove the annotation"
                wrong.append(Problem(what, "unknown-image"))
            if annotation is not None and label >= 0 and image is not None:
                found.setdefault(image.id, []).append(annotation)
            if wrong:
                self._add_wrong(called, id_, record, label, image, annotation, wrong)
        return found

    def _add_wrong(
        self,
        called: str,
        id_: int,
        record: dict[str, Any],
        label: int,
        image: ImageRecord | None,
        annotation: Annotation | None,
        wrong: list[Problem],
    ) -> None:
        """Add the problems of one annotation, with the region to ignore where it is left out."""
        where = f"{called} ({image.path.name})" if image else called
        region = None
        if image is not None and (box := annotation.box if annotation else _corners(record.get("bbox"))):
            region = ignored_region(id_, label, box, image.height, image.width)
        for problem in wrong:
            text = f"{self.path}: {where}: {problem}"
            if image is None:
                self._add(Problem(text, problem.check, annotation=id_))
                continue
            self._add(
                Unusable(
                    text,
                    problem.check,
                    image=image.path,
                    annotation=id_,
                    image_id=image.id,
                    region=region,
                )
            )

    def _annotation(
        self, id_: int, record: dict[str, Any], label: int, image: ImageRecord
    ) -> tuple[Annotation | None, list[Problem]]:
        """The annotation, or None if it cannot be used, and what is wrong with it."""
        height, width = image.height, image.width
        segmentation, as_points = _as_polygons(record.get("segmentation"))
        if as_points:
            self._outlines_read.append(id_)
        crowd = record.get("iscrowd")
        crowd = 0 if crowd is None else _integer(crowd) if isinstance(crowd, str) else crowd
        bad_outline = outline_problem(segmentation, height, width)
        wrong = [bad_outline] if bad_outline else []
        if crowd not in (0, 1):
            wrong.append(Problem(f"iscrowd is {shown(record['iscrowd'])}: write 0 or 1"))
        box = None
        if record.get("bbox") is not None:
            box = _corners(record["bbox"])
            if box is None:
                what = f"bbox is {shown(record['bbox'])}: write four finite numbers x, y, width, height"
                wrong.append(Problem(what))
            elif bad_box := box_problem(box, height, width):
                wrong.append(bad_box)
        usable = without_bad_polygons(segmentation, height, width) if bad_outline else segmentation
        if usable is None or crowd not in (0, 1):
            return None, wrong
        assert isinstance(usable, list | dict)
        outline = normalised(usable, height, width)
        if box is None or wrong:
            box = extent(outline, height, width)
        area = record.get("area")
        if not isinstance(area, int | float) or not 0 <= area < 1e18:
            area = annotation_from_outline(label, outline, height, width).area
        return Annotation(id_, label, box, outline, float(area), bool(crowd)), wrong

    def _number(self, kind: str, value: object) -> int | None:
        """The number of the record of a kind that an annotation refers to."""
        return self._numbers[kind].number(value)


class _Numbers:
    """The numbers of one kind of record: their ids, or new ones for ids of text.

    Attributes:
        of_text: the number of each id of text.
    """

    def __init__(self, records: list[Any]) -> None:
        ids = [record.get("id") for record in records if isinstance(record, dict)]
        self._last = max((n for n in map(_integer, ids) if n is not None), default=0)
        self.of_text: dict[str, int] = {}
        for id_ in ids:
            if isinstance(id_, str) and id_.strip() and _integer(id_) is None and id_ not in self.of_text:
                self.of_text[id_] = self.fresh()

    def number(self, id_: object) -> int | None:
        """The number of a record, None if its id is neither an integer nor a text that a record has."""
        known = self.of_text.get(id_) if isinstance(id_, str) else None
        return _integer(id_) if known is None else known

    def fresh(self) -> int:
        """A number that no record has."""
        self._last += 1
        return self._last


UNSTATED = (None, "", 0, -1)
"""What tools write where they do not know an image's size."""


def _integer(value: object) -> int | None:
    """An integer that a float holds exactly, also one written as 3.0 or as text; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,15}", value.strip(), re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        return None
    return int(value) if value == int(value) else None


def shown_id(value: object) -> str:
    """An id in messages: a text in quotes, a number as an integer."""
    number = _integer(value)
    return shown(value) if number is None else str(number)


def _as_polygons(segmentation: object) -> tuple[object, bool]:
    """COCO's list of polygons made of a list of numbers or points, and whether it was one.

    [x, y, x, y, ..], [[x, y], [x, y], ..] and [{"x": x, "y": y}, ..] are one polygon, and [[[x, y], ..], ..]
    are several. A list with one RLE is that RLE. Anything else is not changed.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return segmentation, False
    if len(segmentation) == 1 and isinstance(segmentation[0], dict) and "counts" in segmentation[0]:
        return segmentation[0], False
    if all(map(_is_number, segmentation)):
        return [segmentation], True
    if (polygon := _of_points(segmentation)) is not None:
        return [polygon], True
    polygons = [_of_points(part) if isinstance(part, list) else None for part in segmentation]
    return (segmentation, False) if None in polygons else (polygons, True)


def _of_points(points: list[Any]) -> list[Any] | None:
    """x, y, x, y, .. of at least three points; None if they are no points."""
    if points and all(isinstance(point, dict) and point.keys() >= {"x", "y"} for point in points):
        points = [[point["x"], point["y"]] for point in points]
    if len(points) < 3 or not all(
        isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)) for point in points
    ):
        return None
    return [value for point in points for value in point]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _clipped(name: object) -> str:
    return name if isinstance(name, str) and len(name) <= 200 else shown(name)


def _corners(value: object) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of COCO's x, y, width, height; None if it is not four finite numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(_is_number(v) and abs(v) < 1e18 for v in value):
        return None
    x, y, width, height = map(float, value)
    return x, y, x + width, y + height


def other_fields(annotations: Path) -> list[str]:
    """Fields of a COCO file that a Dataset does not keep, such as "licenses" and "images.license"."""
    content = read_json(annotations)
    found = {key for key in content if key not in FIELDS and content[key]}
    for kind, known in FIELDS.items():
        for record in content[kind]:
            found |= {f"{kind}.{key}" for key in record if key not in known}
    return sorted(found)


# Writing


def write_coco(splits: Mapping[str, Dataset], output: OutputFolder) -> None:
    """Write images/ and one JSON file per split. Ids, boxes, areas and outlines do not change."""
    for split, dataset in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name, image in zip(output.names[split], dataset.images, strict=True):
            file_name = output.add_image(image, name, "images").name
            images.append(
                {"id": image.id, "file_name": file_name, "width": image.width, "height": image.height}
            )
            annotations += [_record(a, image.id, dataset) for a in image.annotations]
        categories = [
            {"id": id_, "name": name}
            for id_, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(output.out / f"{split}.json", content, indent=None)


def _record(annotation: Annotation, image_id: int, dataset: Dataset) -> dict[str, Any]:
    x1, y1, x2, y2 = annotation.box
    return {
        "id": annotation.id,
        "image_id": image_id,
        "category_id": dataset.category_ids[annotation.label],
        # Rounding to a millionth of a pixel removes the error of subtracting floats.
        "bbox": [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)],
        "area": annotation.area,
        "iscrowd": int(annotation.crowd),
        "segmentation": annotation.segmentation,
    }
