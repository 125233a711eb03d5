"""Read COCO instance annotations: polygons, compressed and uncompressed RLE, crowds.

Nothing is dropped or guessed in silence: everything that is wrong with a file and its pictures is gathered
and raised at once. What other tools leave out, or write as null, and can be derived is derived: a box and
an area (from the outline, the area as its number of pixels) and `iscrowd` (0).
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instancefcn.data.dataset import Annotation, Dataset, ImageRecord, too_many_pixels
from instancefcn.data.formats.gathering import OnProgress, given_up, in_order, outlined
from instancefcn.data.formats.output import OutputFolder
from instancefcn.data.image_checks import box_problem, image_problems
from instancefcn.data.paths import ImageFinder, is_there
from instancefcn.data.text_files import read_json, read_yaml
from instancefcn.errors import DataError, ImageError, Problem
from instancefcn.files import write_json
from instancefcn.geometry.outlines import extent, normalised, outline_problem, without_bad_polygons
from instancefcn.images.opening import check_image_size
from instancefcn.limits import MAX_CLASSES, MAX_PROBLEMS
from instancefcn.safe_text import is_name, shown


def read_coco(
    annotations: Path | str,
    images: Path | str,
    *,
    name: str | None = None,
    check_images: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read a COCO JSON file.

    Category ids may be any whole numbers; labels are their ranks.

    Args:
        annotations: the JSON file.
        images: the folder that the records' file names start from. A name never leads out of it.
        name: the dataset's; by default that of the JSON file.
        check_images: decode every picture once, so that a broken one is known now and not in the middle of
            training.
        progress: called with (pictures checked, pictures).

    Raises:
        DataError: everything that is wrong.
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
    reader = CocoReader(annotations, problems)
    names = reader.categories(content["categories"])
    ids = tuple(sorted(names))
    records = reader.images(content["images"], ImageFinder(images))
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


class CocoReader:
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
        image: Path | None = None,
        annotation: int | None = None,
    ) -> None:
        check = what.check if isinstance(what, Problem) else check
        text = f"{self.path}: {where}: {what}"
        self.problems.append(Problem(text, check, image=image, annotation=annotation))
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

    def images(self, records: list[Any], finder: ImageFinder) -> dict[int, ImageRecord | None]:
        """By id. None: the record cannot be used, which is said once and not for each annotation."""
        images: dict[int, ImageRecord | None] = {}
        for called, id_, record in self.records(records, "image"):
            file_name = record.get("file_name")
            height, width = _whole(record.get("height")), _whole(record.get("width"))
            images[id_] = None
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
                check_image_size(height, width)
            except ImageError as error:
                self.complain(where, f"width x height is {size}: {error}")
                continue
            if path is not None:
                images[id_] = ImageRecord(id_, path, height, width)
            else:  # the outlines can still be checked
                images[id_] = ImageRecord(id_, finder.folder / Path(file_name).name, height, width)
                self.missing.add(id_)
        return images

    def annotations(
        self, records: list[Any], labels: dict[int, int], images: dict[int, ImageRecord | None]
    ) -> dict[int, list[Annotation]]:
        """By image id."""
        found: dict[int, list[Annotation]] = {}
        for called, id_, record in self.records(records, "annotation"):
            image_id, category = _whole(record.get("image_id")), _whole(record.get("category_id"))
            image = None if image_id is None else images.get(image_id)
            path = image.path if image else None
            where = f"{called} ({image.path.name})" if image else called
            if category not in labels:
                known = ", ".join(map(str, list(labels)[:20])) + (", .." if len(labels) > 20 else "")
                what = f"category_id {shown(record.get('category_id'))} is unknown"
                what = f"{what}: use one of {known}, or add a category"
                self.complain(where, what, "unknown-category", path, id_)
            if image_id not in images:
                what = f"image_id {shown(record.get('image_id'))} is unknown: no image record has it"
                self.complain(
                    where, f"{what}; add one or remove the annotation", "unknown-picture", None, id_
                )
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
            box = _box(record["bbox"])
            if box is None:
                wrong.append(f"bbox is {shown(record['bbox'])}, not four finite numbers x, y, width, height")
            else:
                wrong.append(box_problem(box, height, width))
        for complaint in wrong:
            if complaint:
                self.complain(where, complaint, "format", image.path, id_)
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


_USUAL = ("train.json", "val.json")
FIELDS = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"},
    "categories": {"id", "name"},
}
"""The fields of COCO's records that a Dataset keeps."""


class CocoFolder:
    """A folder with SPLIT.json and images/."""

    title = "COCO JSON"

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def at(cls, data: Path) -> CocoFolder | None:
        """The folder at `data`; None when there is no file of COCO's kind in it."""
        if any(is_coco(data / name) for name in _USUAL):
            return cls(data)
        has_images = (data / "images").is_dir()
        return cls(data) if has_images and any(is_coco(p) for p in data.glob("*.json")) else None

    def splits(self) -> list[str]:
        """The names of the annotation files."""
        return in_order([p.stem for p in self.root.glob("*.json") if p.name in _USUAL or is_coco(p)])

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest.

        Raises:
            DataError: its files are not there; the message names what is.
        """
        return parse_coco(*self.places(split), name=name)

    def places(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of pictures. Raises DataError when they are not there."""
        annotations, images = self.root / f"{split}.json", self.root / "images"
        problems = []
        if not annotations.is_file():
            problems.append(f"{self.root}: has no {split}.json; {there('splits', self.splits())}")
        if not images.is_dir():
            folders = sorted(p.name for p in self.root.iterdir() if p.is_dir())
            problems.append(
                f"{self.root}: has no folder images/; {there('folders', folders)}. If they lie elsewhere, "
                "name the places in a YAML file (train: {annotations: .., images: ..}) and give that instead"
            )
        if problems:
            raise DataError(problems)
        return annotations, images


class CocoYaml:
    """A YAML file that names the annotation file and the folder of pictures of every split.

    Args:
        file: the YAML file; the paths in it start from its folder.
        content: what it holds.
    """

    title = "COCO JSON, named by a YAML file"

    def __init__(self, file: Path, content: Mapping[str, Any]) -> None:
        # YAML takes a name such as 2017 for a number.
        self.file, self.content = file, {str(key): value for key, value in content.items()}

    @classmethod
    def at(cls, file: Path) -> CocoYaml:
        """Raises DataError when the file is not of this kind."""
        if file.suffix.lower() not in (".yaml", ".yml"):
            raise DataError(f"{file}: is neither a folder nor a .yaml file: give the folder of the dataset")
        try:
            content: Any = read_yaml(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: is no YAML file ({error})") from error
        if not isinstance(content, dict):
            raise DataError(f"{file}: must hold lines such as 'train: {_FORM}'")
        return cls(file, content)

    def splits(self) -> list[str]:
        """The keys."""
        return in_order(list(self.content))

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest.

        Raises:
            DataError: the file does not name it as it should.
        """
        return parse_coco(*self.places(split), name=name)

    def places(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of pictures. Raises DataError when they are not named."""
        if split not in self.content:
            raise DataError(f"{self.file}: has no {split!r}; {there('splits', self.splits())}")
        entry = self.content[split]
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(k), str) for k in ("annotations", "images")
        ):
            raise DataError(f"{self.file}: {split} must be {_FORM}")
        if unknown := sorted(set(map(str, entry)) - {"annotations", "images"}):
            raise DataError(
                f"{self.file}: {split} holds {', '.join(unknown)}; only annotations and images are known"
            )
        return self.file.parent / entry["annotations"], self.file.parent / entry["images"]


_FORM = "{annotations: FILE.json, images: FOLDER}"


def there(kind: str, names: Sequence[str]) -> str:
    """For messages: what there is instead."""
    return f"{kind} there: {', '.join(names)}" if names else f"there are no {kind}"


def is_coco(path: Path) -> bool:
    """Whether the file holds the names of COCO's lists. A damaged file may: reading it says what is wrong."""
    if not path.is_file():
        return False
    if path.stat().st_size == 0:
        return path.name in _USUAL
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        listed = content.find(b'"images"') >= 0 and content.find(b'"categories"') >= 0
        return listed or (path.name in _USUAL and content.find(b'"shapes"') < 0)


def other_fields(annotations: Path) -> list[str]:
    """Fields of a COCO file that a Dataset does not keep, such as "licenses" and "images.license"."""
    content = read_json(annotations)
    found = {key for key in content if key not in FIELDS and content[key]}
    for kind, known in FIELDS.items():
        for record in content[kind]:
            found |= {f"{kind}.{key}" for key in record if key not in known}
    return sorted(found)


def write_coco(splits: Mapping[str, Dataset], target: OutputFolder) -> None:
    """Write images/ and a JSON file for every split, with the ids, boxes, areas and outlines as they are."""
    for split, dataset in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name, image in zip(target.names[split], dataset.images, strict=True):
            file_name = target.place(image, name, "images").name
            images.append(
                {"id": image.id, "file_name": file_name, "width": image.width, "height": image.height}
            )
            annotations += [_record(a, image.id, dataset) for a in image.annotations]
        categories = [
            {"id": id_, "name": name}
            for id_, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(target.out / f"{split}.json", content, indent=None)


def _record(annotation: Annotation, image_id: int, dataset: Dataset) -> dict[str, Any]:
    x1, y1, x2, y2 = annotation.box
    return {
        "id": annotation.id,
        "image_id": image_id,
        "category_id": dataset.category_ids[annotation.label],
        # Differences of floats: a millionth of a pixel is as near as they come to what was written once.
        "bbox": [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)],
        "area": annotation.area,
        "iscrowd": int(annotation.crowd),
        "segmentation": annotation.segmentation,
    }


_ROBOFLOW = "_annotations.coco.json"
_PREFIX = "instances_"
_VAL = ("valid", "validation")


class CocoExport:
    """A folder whose SPLIT/ holds pictures and _annotations.coco.json, or whose annotations/ holds
    instances_SPLIT.json for the pictures in SPLIT/, images/SPLIT/ or images/.

    Args:
        files: the annotation file and the folder of pictures of every split.
    """

    title = "COCO JSON, as exported"

    def __init__(self, files: Mapping[str, tuple[Path, Path]]) -> None:
        self.files = dict(files)

    @classmethod
    def at(cls, data: Path) -> CocoExport | None:
        """The folder at `data`; None when it is not laid out so."""
        files = _roboflow(data) or _annotations(data)
        return cls(files) if files else None

    def splits(self) -> list[str]:
        """Their names, without COCO's years; "valid" is "val"."""
        return in_order(list(self.files))

    def read(self, split: str, name: str, progress: OnProgress | None = None) -> tuple[Dataset, list[str]]:
        """The usable part of a split, and what is wrong with the rest."""
        return parse_coco(*self.places(split), name=name)

    def places(self, split: str) -> tuple[Path, Path]:
        """The annotation file and the folder of pictures."""
        return self.files[split]


def _roboflow(data: Path) -> dict[str, tuple[Path, Path]]:
    files = sorted(data.glob(f"*/{_ROBOFLOW}"))
    names = _names([file.parent.name for file in files])
    return {names[file.parent.name]: (file, file.parent) for file in files}


def _annotations(data: Path) -> dict[str, tuple[Path, Path]]:
    files = [file for file in sorted(data.glob("annotations/*.json")) if is_coco(file)]
    # Beside them COCO has captions_, person_keypoints_ and others of the same pictures.
    files = [file for file in files if file.name.startswith(_PREFIX)] or files
    written = {file: file.stem.removeprefix(_PREFIX) for file in files}
    names = _names(list(written.values()))
    return {names[as_is]: (file, _images(data, as_is, names[as_is])) for file, as_is in written.items()}


def _images(data: Path, written: str, split: str) -> Path:
    """The folder of a split's pictures; where there is none, the one that COCO would have."""
    places = [data / inner / name for name in (written, split) for inner in (".", "images")]
    return next((place for place in (*places, data / "images") if place.is_dir()), data / written)


def _names(written: list[str]) -> dict[str, str]:
    """Splits by what they are called in files: train of train2017, unless another would be called so, too."""
    short = {name: re.sub(r"(?<=\D)\d{4}$", "", name) for name in written}
    short = {name: "val" if plain.lower() in _VAL else plain for name, plain in short.items()}
    counts = Counter(short.values())
    return {name: plain if counts[plain] == 1 else name for name, plain in short.items()}
