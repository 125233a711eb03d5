"""A sitting: the labels, the model and its training together, as the page sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instancefcn.data.doctor.report import verdict
from instancefcn.errors import DataError, ImageError
from instancefcn.evaluation.dataset_check import check
from instancefcn.files import writable
from instancefcn.images.drawing import colour_of
from instancefcn.safe_text import is_name
from instancefcn.studio.labelling.export import Exporter, write_files
from instancefcn.studio.labelling.opening import HELD_OUT, MAX_CLASSES, Labels
from instancefcn.studio.labelling.pixels import TILE, WHOLE, Pixels
from instancefcn.studio.labelling.shapes import (
    Shape,
    painted_shape,
    rings_of,
    shape_of,
    shape_of_rings,
    shape_of_stroke,
)
from instancefcn.studio.labelling.store import Change, Edit, Row
from instancefcn.studio.labelling.suggest import (
    GENERAL_MODEL,
    Found,
    Point,
    Reader,
    Suggester,
    load_reader,
)
from instancefcn.studio.labelling.trainer import Trainer, measured

LEASE = 20.0
"""Seconds without a word after which a tab counts as closed."""

AHEAD = 3
"""Images after the current one that the model looks at next."""

MAX_ACTIONS = 5000
"""Actions of one change."""


Acted = dict[int, tuple[Row | None, Row]]
"""Objects before and after a change, by id; None: new."""


class Lease:
    """Lets one tab change the labels: the first that came, or the one that took over."""

    def __init__(self) -> None:
        self._holder, self._until = "", 0.0
        self._lock = threading.Lock()

    def hold(self, client: str, take: bool = False) -> bool:
        """Whether this tab may change the labels now, and for the next seconds.

        Args:
            client: the tab's own random name.
            take: take over from another tab.
        """
        with self._lock:
            if take or client == self._holder or time.monotonic() > self._until:
                self._holder, self._until = client, time.monotonic() + LEASE
            return client == self._holder

    def leave(self, client: str) -> None:
        """The tab was closed."""
        with self._lock:
            if client == self._holder:
                self._until = 0.0


class Session:
    """Everything that the routes call.

    Args:
        labels: the open labels.
        model: suggests at first; None: the model of the last training here, else GENERAL_MODEL.
        load: loads a model.
        settings: further words of the training's command.
    """

    def __init__(
        self,
        labels: Labels,
        model: str | None = None,
        load: Callable[[str], Reader] = load_reader,
        settings: Sequence[str] = (),
    ) -> None:
        self.labels, self.store = labels, labels.store
        self.pixels, self.lease = Pixels(), Lease()
        self.write_error = ""
        self._lock = threading.RLock()
        self._given = model
        chosen = model or self.store.fact("model")
        if chosen not in self.models().values():
            chosen = GENERAL_MODEL
        self.suggester = Suggester(labels, self.pixels, chosen, load)
        self.exporter = Exporter(lambda: write_files(labels), self._written)
        self.exporter.changed()  # the last server may have been killed before it wrote them
        self.trainer = Trainer(self.store.out, self.store.folder / "runs", self._trained, settings)
        if (training := self.store.fact("training")) is not None:
            self.trainer.adopt(training)

    def close(self) -> None:
        """End the training, write everything, and give the lock back."""
        self.trainer.close()
        self.suggester.close()
        self.exporter.close()
        self.store.close()

    def _written(self, error: OSError | None) -> None:
        self.write_error = "" if error is None else f"{error.filename or 'a file'}: {error.strerror}"

    def _trained(self, run: Path) -> None:
        # Weights of a later training replace those of this path in no cache.
        with self.store.transaction():
            self.store.put("model", str(run))
            self.store.put("training", None)
        self.suggester.use(str(run))

    def models(self) -> dict[str, str]:
        """The models that can suggest, by the names that the page shows: the general one, the one that was
        given, and those trained here, the latest last.
        """
        found = {"general": GENERAL_MODEL}
        if self._given is not None:
            found[Path(self._given).name] = self._given
        runs = self.store.folder / "runs"
        finished = [run for run in runs.glob("run-*") if any(run.glob("*.safetensors"))]
        for run in sorted(finished, key=lambda run: (len(run.name), run.name)):
            found[run.name] = str(run)
        return found

    def choose(self, name: str) -> None:
        """Let another model suggest. Raises DataError when there is none of this name."""
        models = self.models()
        if name not in models:
            raise DataError(f"there is no model {name!r}: reload the page")
        self.store.note("model", models[name])
        self.suggester.use(models[name])

    # -- looking

    def overview(self) -> dict[str, Any]:
        """The numbers beside the image, and how suggestions and training are going."""
        done, held, images = self.store.labelled()
        counts = self.store.counts()
        training = self.trainer.progress()
        current, models = self.suggester.model, self.models()
        return {
            "data": str(self.store.out),
            "images": images,
            "labelled": done,
            "held_out": held,
            "classes": [
                {"id": id_, "name": name, "objects": counts.get(id_, 0), "colour": _colour(index)}
                for index, (id_, name) in enumerate(self.store.classes().items())
            ],
            "model": next((name for name, model in models.items() if model == current), ""),
            "models": list(models),
            "model_error": self.suggester.error,
            "left": self.suggester.left(),
            "training": None if training is None else training.as_json(),
            "ap": measured(Path(current)),
            "problems": self.store.fact("problems") or [],
            "write_error": self.write_error,
        }

    def open(self, image: int) -> dict[str, Any]:
        """An image's size, objects and suggestions; the model looks at it and at those behind it.

        Raises:
            DataError: there is no such image.
            ImageError: its file cannot be read.
        """
        row = self.store.image(image)
        path = self.labels.path(row)
        if row["width"] is None:
            pixels = self.pixels.image(path)
            self.store.set_size(image, pixels.shape[2], pixels.shape[1])
            row = self.store.image(image)
        self.suggester.focus([image, *self._behind(image, AHEAD)])
        return {
            "id": image,
            "name": row["name"],
            "width": row["width"],
            "height": row["height"],
            "whole": WHOLE,
            "tile": TILE,
            "done": bool(row["done"]),
            "objects": [_for_page(id_, one, row) for id_, one in self.store.objects(image)],
            "deleted": [(id_, one["box"]) for id_, one in self.store.objects(image, deleted=True)],
            **self.suggestions(image),
        }

    def suggestions(self, image: int) -> dict[str, Any]:
        """What the model sees in an image: None until it has looked."""
        if image in self.suggester.broken:
            raise ImageError(self.suggester.broken[image])
        return {
            "suggestions": self.suggester.stored(image),
            "ready": self.suggester.ready(image),
        }

    def at_point(self, image: int, x: float, y: float, count: int) -> list[Found]:
        """The best candidates at a point of an image, best first; none outside it."""
        row = self._sized(image)
        if not _on((x, y), row):
            return []
        return self.suggester.at_point(image, x, y, count)

    def in_box(
        self, image: int, box: Sequence[float], positive: Sequence[Point], negative: Sequence[Point]
    ) -> Found | None:
        """The object in a box of an image, or None: nothing is seen there.

        Raises:
            DataError: the box is empty or outside the image.
        """
        row = self._sized(image)
        x1, x2 = sorted(min(max(x, 0.0), float(row["width"])) for x in (box[0], box[2]))
        y1, y2 = sorted(min(max(y, 0.0), float(row["height"])) for y in (box[1], box[3]))
        if x2 - x1 < 1 or y2 - y1 < 1:
            raise DataError("the box is smaller than a pixel of the image: drag a larger one")
        on = [[p for p in clicks if _on(p, row)] for clicks in (positive, negative)]
        return self.suggester.in_box(image, (x1, y1, x2, y2), *on)

    def _sized(self, image: int) -> Row:
        """The row of an image that has been opened."""
        row = self.store.image(image)
        if row["width"] is None:
            raise DataError(f"open image {image} first")
        return row

    def deleted(self, image: int) -> list[dict[str, Any]]:
        """The objects of an image that were deleted, the latest first."""
        row = self.store.image(image)
        return [_for_page(id_, one, row) for id_, one in reversed(self.store.objects(image, deleted=True))]

    def next(self, image: int, least_sure: bool) -> int | None:
        """The image to label after this one: the least sure, else the next in order that is not labelled;
        None when all are.
        """
        if least_sure and (found := self.store.least_sure(self.suggester.model, image)) is not None:
            return found
        behind = self._behind(image, 1)
        return behind[0] if behind else None

    def _behind(self, image: int, count: int) -> list[int]:
        todo = self.store.image_ids(done=False)
        later = [id_ for id_ in todo if id_ > image] + [id_ for id_ in todo if id_ < image]
        return [id_ for id_ in later if id_ not in self.suggester.broken][:count]

    def check(self) -> dict[str, Any]:
        """What `check` finds in the labelled images, with the ids of the images. Raises DataError."""
        with writable():
            self.exporter.now()
        report = check(self.store.out).report
        ids = {name: id_ for id_, name, _, _ in self.store.images()}
        folder = self.store.out / "images"
        findings = []
        for one in report.findings:
            inside = one.image is not None and one.image.is_relative_to(folder)
            name = one.image.relative_to(folder).as_posix() if one.image is not None and inside else ""
            findings.append({**one.as_json(), "id": ids.get(name)})
        return {"verdict": verdict(report), "findings": findings}

    # -- changing

    def change(self, image: int, actions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Do what a person did to one image, as one change that can be undone.

        Args:
            image: its id.
            actions: each one of
                {"do": "add", "class", "shape"},
                {"do": "dismiss", "class", "shape"}: a suggestion that is wrong, kept as a deleted object,
                {"do": "reshape", "id", "shape"},
                {"do": "paint", "id", "stroke", "erase"},
                {"do": "class", "id", "class"},
                {"do": "delete", "id"}, {"do": "restore", "id"},
                {"do": "done", "done"}.
                A shape is {"rings": [..]}, {"rle": {..}} or {"stroke": {"points", "radius"}}.

        Returns:
            what changed: see `_result`.

        Raises:
            DataError: there is no such image, object or class, or a shape is not valid.
            OutputError: it cannot be saved.
        """
        if not 0 < len(actions) <= MAX_ACTIONS:
            raise DataError(f"a change has 1 to {MAX_ACTIONS:,} actions, this one {len(actions):,}")
        with self._lock:
            row = self._sized(image)
            rows = self._acted(image, row, actions)
            edits = [Edit("objects", id_, before, after) for id_, (before, after) in rows.items()]
            done = [action["done"] for action in actions if action["do"] == "done"]
            if done and done[-1] != bool(row["done"]):
                edits.append(Edit("images", image, row, self._marked(image, row, done[-1], rows)))
            if not edits:
                return self._result(None, image, [])
            change = self.store.change(image, _words(edits), edits)
        self._changed_files(edits)
        return self._result(change, image, edits)

    def _acted(self, image: int, row: Row, actions: Sequence[dict[str, Any]]) -> Acted:
        """The image's objects that the actions change."""
        rows: Acted = {}
        new = self.store.next_id("objects")
        for action in actions:
            if action["do"] in ("add", "dismiss"):
                added = _object_row(image, self._class(action["class"]), _shape(action["shape"], row))
                rows[new] = (None, added if action["do"] == "add" else {**added, "deleted": 1})
                new += 1
            elif action["do"] != "done":
                id_ = action["id"]
                before, now = rows[id_] if id_ in rows else (self.store.object(id_),) * 2
                if now["image"] != image:
                    raise DataError(f"object {id_} is in another image: reload the page")
                rows[id_] = (before, self._changed(action, now, row))
        return rows

    def _changed(self, action: dict[str, Any], now: Row, image: Row) -> Row:
        match action["do"]:
            case "reshape":
                return {**now, **_stored(_shape(action["shape"], image))}
            case "paint":
                height, width = image["height"], image["width"]
                painted = painted_shape(now["segmentation"], action["stroke"], action["erase"], height, width)
                # What is erased to the last pixel is deleted as it was.
                return {**now, "deleted": 1} if painted is None else {**now, **_stored(painted)}
            case "class":
                return {**now, "class": self._class(action["class"])}
            case "delete":
                return {**now, "deleted": 1}
            case "restore":
                return {**now, "deleted": 0}
        raise DataError(f"unknown action {action['do']!r}")

    def _class(self, id_: int) -> int:
        if id_ not in self.store.classes():
            raise DataError(f"there is no class {id_}: reload the page")
        return id_

    def _marked(self, image: int, row: Row, done: bool, rows: Acted) -> Row:
        """The image's row, labelled or no longer. Every fifth labelled image is held out for good, unless
        it shows a class that no other image has for training.
        """
        split = row["split"]
        if done and split is None:
            after = dict(self.store.objects(image)) | {id_: now for id_, (_, now) in rows.items()}
            classes = {one["class"] for one in after.values() if not one["deleted"] and not one["crowd"]}
            labelled, held, _ = self.store.labelled()
            spare = bool(classes) and classes <= self.store.trained_classes()
            split = "val" if spare and held < (labelled + 1) // HELD_OUT else "train"
        return {**row, "done": int(done), "split": split}

    def add_class(self, name: str) -> int:
        """Add a class; return its id. Raises DataError when the name is not valid or taken."""
        name = name.strip()
        with self._lock:
            classes = self.store.classes()
            self._check_name(name, classes)
            if len(classes) >= MAX_CLASSES:
                raise DataError(f"there are {MAX_CLASSES} classes already: no more can be added")
            id_ = self.store.next_id("classes")
            edits = [Edit("classes", id_, None, {"name": name})]
            self.store.change(None, f"added class {name}", edits)
        self._changed_files(edits)
        return id_

    def rename_class(self, id_: int, name: str) -> None:
        """Rename a class. Raises DataError when there is none, or the name is not valid or taken."""
        name = name.strip()
        with self._lock:
            classes = self.store.classes()
            before = classes.get(self._class(id_))
            if name == before:
                return
            self._check_name(name, classes)
            edits = [Edit("classes", id_, {"name": before}, {"name": name})]
            self.store.change(None, f"renamed class {before} to {name}", edits)
        self._changed_files(edits)

    def _check_name(self, name: str, classes: dict[int, str]) -> None:
        if not is_name(name) or len(name) > 100:
            raise DataError("a class needs a name of 1 to 100 visible characters")
        if name in classes.values():
            raise DataError(f"there is a class {name!r} already: choose another name")

    def undo(self) -> dict[str, Any] | None:
        """Take the last change back, in whichever image; None when there is none."""
        return self._travelled(self.store.undo())

    def redo(self) -> dict[str, Any] | None:
        """Do again what was taken back last; None when there is nothing."""
        return self._travelled(self.store.redo())

    def _travelled(self, change: Change | None) -> dict[str, Any] | None:
        if change is None:
            return None
        self._changed_files(change.edits)
        return self._result(change, change.image, change.edits)

    def _changed_files(self, edits: Sequence[Edit]) -> None:
        self.exporter.changed()
        if any(edit.table == "images" for edit in edits):
            self.suggester.refresh()

    def _result(self, change: Change | None, image: int | None, edits: Sequence[Edit]) -> dict[str, Any]:
        """What the page draws anew: the objects that are there afterwards, (id, box) of those that are
        deleted, the ids of those that never were, and the image's state and number of objects.
        """
        row = None if image is None else self.store.image(image)
        last = {edit.id: edit.after for edit in edits if edit.table == "objects"}
        return {
            "image": image,
            "what": "" if change is None else change.what,
            "done": None if row is None else bool(row["done"]),
            "objects": [
                _for_page(id_, after, row)
                for id_, after in last.items()
                if row and after and not after["deleted"]
            ],
            "deleted": [(id_, after["box"]) for id_, after in last.items() if after and after["deleted"]],
            "removed": [id_ for id_, after in last.items() if after is None],
            "count": None if image is None else self.store.object_count(image),
        }

    # -- training

    def train(self, minutes: float) -> None:
        """Begin a training on the labelled images.

        Raises:
            ConfigError: one is running.
            DataError: nothing is labelled.
            OutputError: a file cannot be written.
        """
        done, _, _ = self.store.labelled()
        if not done or not self.store.trained_classes():
            raise DataError("nothing to train on yet: label an image and press Enter")
        with writable():
            self.exporter.now()
        self.trainer.start(minutes)
        self.store.note("training", self.trainer.running())


def _on(point: Point, image: Row) -> bool:
    """Whether a point lies on an image."""
    return bool(0 <= point[0] < image["width"] and 0 <= point[1] < image["height"])


def _colour(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(index))


def _shape(shape: dict[str, Any], image: Row) -> Shape:
    height, width = image["height"], image["width"]
    if "rings" in shape:
        return shape_of_rings(shape["rings"], height, width)
    if "stroke" in shape:
        return shape_of_stroke(shape["stroke"], height, width)
    return shape_of(shape["rle"], height, width)


def _stored(shape: Shape) -> Row:
    return {"segmentation": shape.segmentation, "box": list(shape.box), "area": shape.area}


def _object_row(image: int, class_: int, shape: Shape) -> Row:
    return {"image": image, "class": class_, **_stored(shape), "crowd": 0, "deleted": 0}


def _for_page(id_: int, row: Row, image: Row) -> dict[str, Any]:
    return {
        "id": id_,
        "class": row["class"],
        "rings": rings_of(row["segmentation"], image["height"], image["width"]),
        "box": row["box"],
        "area": row["area"],
        "crowd": bool(row["crowd"]),
    }


def _words(edits: Sequence[Edit]) -> str:
    """A change in a few words."""
    kinds: dict[str, int] = {}
    for edit in edits:
        if edit.table == "images":
            kind = "labelled" if edit.after and edit.after["done"] else "not labelled"
        elif edit.before is None:
            kind = "dismissed" if edit.after and edit.after["deleted"] else "added"
        elif edit.after is None:
            kind = "removed"
        elif edit.after and edit.after["deleted"] != edit.before["deleted"]:
            kind = "deleted" if edit.after["deleted"] else "restored"
        elif edit.after and edit.after["class"] != edit.before["class"]:
            kind = "class of"
        else:
            kind = "reshaped"
        kinds[kind] = kinds.get(kind, 0) + 1
    words = []
    for kind, count in kinds.items():
        if kind in ("labelled", "not labelled"):
            words.append(f"image {kind}")
        else:
            words.append(f"{kind} {count} object{'s' * (count > 1)}")
    return ", ".join(words)
