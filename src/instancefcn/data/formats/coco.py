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

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord, too_many_pixels
from instancefcn.data.formats.gathering import annotation_from_outline, capped_problems
from instancefcn.data.formats.output import OutputFolder
from instancefcn.data.image_checks import box_problem, image_problems
from instancefcn.data.paths import ImageFinder, is_there
from instancefcn.data.text_files import read_json
from instancefcn.errors import DataError, ImageError, Problem
from instancefcn.files import write_json
from instancefcn.geometry.outlines import extent, normalised, outline_problem, without_bad_polygons
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
    """The usable part of a COCO JSON file, and the problems of the rest. No image is opened.

    An annotation with some bad polygons keeps its good ones. A bad box is replaced by that of the outline,
    and an id that is already taken by a new one. The problems are `Problem`s.

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
    return Dataset(name, tuple(usable), tuple(names[i] for i in ids), ids, finder.notes()), problems


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
        text = f"{self.path}: {where}: {what}"
        self.problems.append(Problem(text, check, image=image, annotation=annotation))
        if len(self.problems) > MAX_PROBLEMS:
            raise DataError(capped_problems(self.problems))

    def records(self, records: list[Any], kind: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Each record's name for messages, its id, and the record.

        An annotation without a unique id gets a new one. An image or category without one is left out,
        because annotations refer to it by id.
        """
        taken = (
            {_integer(r.get("id")) for r in records if isinstance(r, dict)} if kind == "annotation" else set()
        )
        fresh = max((id_ for id_ in taken if id_ is not None), default=0)
        seen: set[int] = set()
        for index, record in enumerate(records):
            if not isinstance(record, dict):
                self.add_problem(f"{kind} record {index}", f"is a {type(record).__name__}, not an object")
                continue
            id_ = _integer(record.get("id"))
            where = f"{kind} record {index}" if id_ is None else f"{kind} {id_}"
            if id_ is None or id_ in seen:
                fresh += 1
                if id_ is not None:
                    what = "this id is used more than once: give every record its own id"
                elif "id" in record:
                    what = f"id {shown(record['id'])} is not an integer: number the records"
                else:
                    what = "has no id: number the records"
                given = fresh if kind == "annotation" else None
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
            if not is_name(name):
                found = f"its name is {shown(name)}" if name else "has no name"
                self.add_problem(where, f"{found}: give it a name of visible characters")
                name = f"category {id_}"
            names[id_] = str(name)
        return names

    def images(self, records: list[Any], finder: ImageFinder) -> dict[int, ImageRecord | None]:
        """Images by id. None: the record cannot be used, which is reported once, not per annotation."""
        images: dict[int, ImageRecord | None] = {}
        for called, id_, record in self.records(records, "image"):
            file_name = record.get("file_name")
            height, width = _integer(record.get("height")), _integer(record.get("width"))
            images[id_] = None
            where = f"{called} ({_clipped(file_name)})" if file_name else called
            if not isinstance(file_name, str) or not file_name:
                self.add_problem(where, "has no file_name: write the file's path below the folder of images")
                continue
            path, problem = finder.find(file_name)
            if problem:
                self.add_problem(where, problem, "missing-image", finder.folder / Path(file_name).name)
            size = f"{shown(record.get('width'))} x {shown(record.get('height'))}"
            if height is None or width is None or height < 1 or width < 1:
                self.add_problem(where, f"width x height is {size}: write the image's size in pixels")
                continue
            try:
                check_image_size(height, width)
            except ImageError as error:
                self.add_problem(where, f"width x height is {size}: {error}")
                continue
            if path is not None:
                images[id_] = ImageRecord(id_, path, height, width)
            else:  # its outlines can still be checked
                images[id_] = ImageRecord(id_, finder.folder / Path(file_name).name, height, width)
                self.missing.add(id_)
        return images

    def annotations(
        self, records: list[Any], labels: dict[int, int], images: dict[int, ImageRecord | None]
    ) -> dict[int, list[Annotation]]:
        """Annotations by image id."""
        found: dict[int, list[Annotation]] = {}
        for called, id_, record in self.records(records, "annotation"):
            image_id, category = _integer(record.get("image_id")), _integer(record.get("category_id"))
            image = None if image_id is None else images.get(image_id)
            path = image.path if image else None
            where = f"{called} ({image.path.name})" if image else called
            if category not in labels:
                known = ", ".join(map(str, list(labels)[:20])) + (", .." if len(labels) > 20 else "")
                what = f"category_id {shown(record.get('category_id'))} is unknown"
                what = f"{what}: use one of {known}, or add a category"
                self.add_problem(where, what, "unknown-category", path, id_)
            if image_id not in images:
                what = f"image_id {shown(record.get('image_id'))} is unknown"
                what = f"{what}: add an image record with this id, or remove the annotation"
                self.add_problem(where, what, "unknown-image", None, id_)
            if image is not None:
                label = labels.get(category, -1) if category is not None else -1
                annotation = self._annotation(where, id_, record, label, image)
                if annotation is not None and label >= 0:
                    found.setdefault(image.id, []).append(annotation)
        return found

    def _annotation(
        self, where: str, id_: int, record: dict[str, Any], label: int, image: ImageRecord
    ) -> Annotation | None:
        height, width = image.height, image.width
        segmentation = record.get("segmentation")
        crowd = 0 if record.get("iscrowd") is None else record["iscrowd"]
        bad_outline = outline_problem(segmentation, height, width)
        wrong: list[str | None] = [bad_outline]
        if crowd not in (0, 1):
            wrong.append(f"iscrowd is {shown(crowd)}: write 0 or 1")
        box = None
        if record.get("bbox") is not None:
            box = _corners(record["bbox"])
            if box is None:
                wrong.append(
                    f"bbox is {shown(record['bbox'])}: write four finite numbers x, y, width, height"
                )
            else:
                wrong.append(box_problem(box, height, width))
        for problem in wrong:
            if problem:
                self.add_problem(where, problem, "format", image.path, id_)
        usable = without_bad_polygons(segmentation, height, width) if bad_outline else segmentation
        if usable is None or crowd not in (0, 1):
            return None
        outline = normalised(usable, height, width)
        if box is None or any(wrong):
            box = extent(outline, height, width)
        area = record.get("area")
        if not isinstance(area, int | float) or not 0 <= area < 1e18:
            area = annotation_from_outline(label, outline, height, width).area
        return Annotation(id_, label, box, outline, float(area), bool(crowd))


def _integer(value: object) -> int | None:
    """An integer that a float holds exactly, also one written as 3.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        return None
    return int(value) if value == int(value) else None


def _clipped(name: object) -> str:
    return name if isinstance(name, str) and len(name) <= 200 else shown(name)


def _corners(value: object) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of COCO's x, y, width, height; None if it is not four finite numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e18 for v in value):
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
