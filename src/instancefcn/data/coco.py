"""Read COCO instance annotations: polygons, compressed and uncompressed RLE, crowds.

Nothing is dropped or guessed in silence: everything that is wrong with a file and its pictures is gathered
and raised at once. What other tools leave out, or write as null, and can be derived is derived: a box and
an area (from the outline, the area as its number of pixels) and `iscrowd` (0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instancefcn.data.check import box_problem, picture_problems
from instancefcn.data.dataset import Annotation, Dataset, Picture, too_many_pixels
from instancefcn.data.dataset import rasterize as rasterize  # offered here too
from instancefcn.data.gather import given_up, outlined
from instancefcn.data.paths import PictureFinder, is_there
from instancefcn.data.reading import read_json
from instancefcn.errors import DataError, ImageError, Problem
from instancefcn.geometry.outlines import extent, normalised, outline_problem, without_bad_polygons
from instancefcn.images.opening import check_size
from instancefcn.limits import MAX_CLASSES, MAX_PROBLEMS
from instancefcn.safe_text import is_name, shown


def read_coco(
    annotations: Path | str,
    images: Path | str,
    *,
    name: str | None = None,
    check_pictures: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read a COCO JSON file.

    Category ids may be any whole numbers; labels are their ranks.

    Args:
        annotations: the JSON file.
        images: the folder that the records' file names start from. A name never leads out of it.
        name: the dataset's; by default that of the JSON file.
        check_pictures: decode every picture once, so that a broken one is known now and not in the middle of
            training.
        progress: called with (pictures checked, pictures).

    Raises:
        DataError: everything that is wrong.
    """
    dataset, problems = parse_coco(annotations, images, name=name)
    if check_pictures:
        problems = problems + picture_problems(dataset.pictures, progress)
    if problems:
        raise DataError(problems)
    return dataset


def parse_coco(
    annotations: Path | str, images: Path | str, *, name: str | None = None
) -> tuple[Dataset, list[str]]:
    """The usable part of a COCO JSON file, and what is wrong with the rest. No picture is opened yet.

    Usable is also an annotation without its bad polygons, one whose box can be taken from its outline
    instead, and one whose id another has: it gets a new one. The problems are of the class `Problem`.

    Raises:
        DataError: more than MAX_PROBLEMS things are wrong.
    """
    annotations, images = Path(annotations), Path(images)
    name = annotations.stem if name is None else name
    problems: list[str] = []
    content = _load(annotations, problems)
    usable_folder = is_there(images) and images.is_dir()
    if not usable_folder:
        problems.append(f"{images}: there is no such folder of pictures: create it or name the right one")
    if content is None or not usable_folder:
        return Dataset(name, (), (), ()), problems
    reader = Reader(annotations, problems)
    names = reader.categories(content["categories"])
    ids = tuple(sorted(names))
    pictures = reader.pictures(content["images"], PictureFinder(images))
    outlines = reader.annotations(
        content["annotations"], {id_: label for label, id_ in enumerate(ids)}, pictures
    )
    filled = [
        Picture(p.id, p.path, p.height, p.width, tuple(outlines.get(p.id, ())))
        for p in pictures.values()
        if p is not None and p.id not in reader.missing
    ]
    usable = []
    for picture in filled:
        if problem := too_many_pixels(picture):
            problems.append(problem)
        else:
            usable.append(picture)
    return Dataset(name, tuple(usable), tuple(names[i] for i in ids), ids), problems


def _load(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The file's three lists, or None."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        problems.append(f"{path}: there is no such annotation file")
        return None
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return None
    except ValueError as error:
        problems.append(f"{path}: is no JSON file ({error}): export the annotations again")
        return None
    if not isinstance(content, dict):
        problems.append(
            f'{path}: holds a {type(content).__name__}, not an object with "images", "annotations" and '
            '"categories" (COCO results are a list: annotations are wanted)'
        )
        return None
    before = len(problems)
    for key in ("images", "annotations", "categories"):
        if key not in content:
            problems.append(
                f'{path}: has no "{key}": a COCO file holds "images", "annotations" and "categories"'
            )
        elif not isinstance(content[key], list):
            problems.append(f'{path}: "{key}" is a {type(content[key]).__name__}, not a list')
        elif not content[key] and key != "annotations":
            problems.append(f'{path}: "{key}" is empty: there is nothing to learn')
        elif key == "categories" and len(content[key]) > MAX_CLASSES:
            problems.append(
                f'{path}: "{key}" has {len(content[key]):,} classes, {MAX_CLASSES:,} are the most'
            )
    return content if len(problems) == before else None


class Reader:
    """Walks through the records of one file and notes what is wrong with them."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path, self.problems = path, problems
        self.missing: set[int] = set()
        """Ids of the pictures whose file is not there: said already, so nobody needs to open them."""

    def complain(
        self,
        where: str,
        what: str,
        check: str = "format",
        picture: Path | None = None,
        annotation: int | None = None,
    ) -> None:
        check = what.check if isinstance(what, Problem) else check
        text = f"{self.path}: {where}: {what}"
        self.problems.append(Problem(text, check, picture=picture, annotation=annotation))
        if len(self.problems) > MAX_PROBLEMS:
            raise DataError(given_up(self.problems))

    def records(self, records: list[Any], kind: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """How to call a record, its id, and the record. An annotation without an id of its own gets one; of
        the others, to which records refer, it is left out.
        """
        taken = (
            {_whole(r.get("id")) for r in records if isinstance(r, dict)} if kind == "annotation" else set()
        )
        fresh = max((id_ for id_ in taken if id_ is not None), default=0)
        seen: set[int] = set()
        for position, record in enumerate(records):
            if not isinstance(record, dict):
                self.complain(f"{kind} record {position}", f"is a {type(record).__name__}, not an object")
                continue
            id_ = _whole(record.get("id"))
            where = f"{kind} record {position}" if id_ is None else f"{kind} {id_}"
            if id_ is None or id_ in seen:
                fresh += 1
                if id_ is not None:
                    what = "this id was used before: give every record an id of its own"
                elif "id" in record:
                    what = f"id {shown(record['id'])} is not a whole number: number the records"
                else:
                    what = "has no id: number the records"
                given = fresh if kind == "annotation" else None
                self.complain(where, what, "duplicate-id", annotation=given)
                if given is None:
                    continue
                id_ = given
            seen.add(id_)
            yield where, id_, record

    def categories(self, records: list[Any]) -> dict[int, str]:
        names: dict[int, str] = {}
        for where, id_, record in self.records(records, "category"):
            name = record.get("name")
            if not is_name(name):
                found = f"its name is {shown(name)}" if name else "has no name"
                self.complain(where, f"{found}: give it one, of visible characters")
                name = f"category {id_}"
            names[id_] = str(name)
        return names

    def pictures(self, records: list[Any], finder: PictureFinder) -> dict[int, Picture | None]:
        """By id. None: the record cannot be used, which is said once and not for each annotation."""
        pictures: dict[int, Picture | None] = {}
        for called, id_, record in self.records(records, "image"):
            file_name = record.get("file_name")
            height, width = _whole(record.get("height")), _whole(record.get("width"))
            pictures[id_] = None
            where = f"{called} ({_clipped(file_name)})" if file_name else called
            if not isinstance(file_name, str) or not file_name:
                self.complain(
                    where, "has no file_name: write the picture's path below the folder of pictures"
                )
                continue
            path, problem = finder.find(file_name)
            if problem:
                self.complain(where, problem, "missing-picture", finder.folder / Path(file_name).name)
            size = f"{shown(record.get('width'))} x {shown(record.get('height'))}"
            if height is None or width is None or height < 1 or width < 1:
                self.complain(where, f"width x height is {size}: write the picture's size in whole pixels")
                continue
            try:
                check_size(height, width)
            except ImageError as error:
                self.complain(where, f"width x height is {size}: {error}")
                continue
            if path is not None:
                pictures[id_] = Picture(id_, path, height, width)
            else:  # the outlines can still be checked
                pictures[id_] = Picture(id_, finder.folder / Path(file_name).name, height, width)
                self.missing.add(id_)
        return pictures

    def annotations(
        self, records: list[Any], labels: dict[int, int], pictures: dict[int, Picture | None]
    ) -> dict[int, list[Annotation]]:
        """By image id."""
        found: dict[int, list[Annotation]] = {}
        for called, id_, record in self.records(records, "annotation"):
            image_id, category = _whole(record.get("image_id")), _whole(record.get("category_id"))
            picture = None if image_id is None else pictures.get(image_id)
            path = picture.path if picture else None
            where = f"{called} ({picture.path.name})" if picture else called
            if category not in labels:
                known = ", ".join(map(str, list(labels)[:20])) + (", .." if len(labels) > 20 else "")
                what = f"category_id {shown(record.get('category_id'))} is unknown"
                what = f"{what}: use one of {known}, or add a category"
                self.complain(where, what, "unknown-category", path, id_)
            if image_id not in pictures:
                what = f"image_id {shown(record.get('image_id'))} is unknown: no image record has it"
                self.complain(
                    where, f"{what}; add one or remove the annotation", "unknown-picture", None, id_
                )
            if picture is not None:
                label = labels.get(category, -1) if category is not None else -1
                annotation = self._annotation(where, id_, record, label, picture)
                if annotation is not None and label >= 0:
                    found.setdefault(picture.id, []).append(annotation)
        return found

    def _annotation(
        self, where: str, id_: int, record: dict[str, Any], label: int, picture: Picture
    ) -> Annotation | None:
        height, width = picture.height, picture.width
        segmentation = record.get("segmentation")
        crowd = 0 if record.get("iscrowd") is None else record["iscrowd"]
        bad_outline = outline_problem(segmentation, height, width)
        wrong: list[str | None] = [bad_outline]
        if crowd not in (0, 1):
            wrong.append(f"iscrowd is {shown(crowd)}: write 0 or 1")
        box = None
        if record.get("bbox") is not None:
            box = _box(record["bbox"])
            if box is None:
                wrong.append(f"bbox is {shown(record['bbox'])}, not four finite numbers x, y, width, height")
            else:
                wrong.append(box_problem(box, height, width))
        for complaint in wrong:
            if complaint:
                self.complain(where, complaint, "format", picture.path, id_)
        usable = without_bad_polygons(segmentation, height, width) if bad_outline else segmentation
        if usable is None or crowd not in (0, 1):
            return None
        outline = normalised(usable, height, width)
        if box is None or any(wrong):
            box = extent(outline, height, width)
        area = record.get("area")
        if not isinstance(area, int | float) or not 0 <= area < 1e18:
            area = outlined(label, outline, height, width).area
        return Annotation(id_, label, box, outline, float(area), bool(crowd))


def _whole(value: object) -> int | None:
    """A whole number that any program can hold, also one that a table program wrote as 3.0; None for anything
    else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        return None
    return int(value) if value == int(value) else None


def _clipped(name: object) -> str:
    return name if isinstance(name, str) and len(name) <= 200 else shown(name)


def _box(value: object) -> tuple[float, float, float, float] | None:
    """Corners of COCO's x, y, width, height."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e18 for v in value):
        return None
    x, y, width, height = map(float, value)
    return x, y, x + width, y + height
