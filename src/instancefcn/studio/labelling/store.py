"""The labels on disk: images, classes, objects, every change, and what the model suggests.

One SQLite file in OUT/labelling. Its write-ahead log is the journal and its pages are the snapshot: a change
is on the disk when `change` returns, and a process killed at any moment leaves the last whole change. The
file is locked for as long as it is open; the lock ends with the process, however that ends.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from instancefcn.data.paths import LABELLING
from instancefcn.errors import ConfigError, DataError, OutputError

FILE = "labels.sqlite"
VERSION = 1

UNDO_LIMIT = 10_000
"""Changes that can be undone; older ones are forgotten, what they deleted is kept."""

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE classes (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
CREATE TABLE images (id INTEGER PRIMARY KEY, name TEXT NOT NULL, width INTEGER, height INTEGER,
                     done INTEGER NOT NULL, split TEXT);
CREATE TABLE objects (id INTEGER PRIMARY KEY AUTOINCREMENT, image INTEGER NOT NULL, class INTEGER NOT NULL,
                      segmentation TEXT NOT NULL, box TEXT NOT NULL, area REAL NOT NULL,
                      crowd INTEGER NOT NULL, deleted INTEGER NOT NULL);
CREATE INDEX objects_by_image ON objects (image);
CREATE TABLE changes (id INTEGER PRIMARY KEY AUTOINCREMENT, image INTEGER, what TEXT NOT NULL,
                      edits TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE suggestions (image INTEGER PRIMARY KEY, model TEXT NOT NULL, doubt REAL NOT NULL,
                          found TEXT NOT NULL);
"""

Table = Literal["classes", "images", "objects"]
Row = dict[str, Any]
"""A row without its id."""

_COLUMNS: dict[str, tuple[str, ...]] = {
    "classes": ("name",),
    "images": ("name", "width", "height", "done", "split"),
    "objects": ("image", "class", "segmentation", "box", "area", "crowd", "deleted"),
}
_AS_JSON = ("segmentation", "box")


@dataclass(frozen=True)
class Edit:
    """One row before and after a change; None where there is none."""

    table: Table
    id: int
    before: Row | None
    after: Row | None

    def reversed(self) -> Edit:
        """The edit that takes this one back."""
        return Edit(self.table, self.id, self.after, self.before)


@dataclass(frozen=True)
class Change:
    """What one action of a person did.

    Attributes:
        id: ascending.
        image: the image it concerns, or None: the classes.
        what: in a few words, for the page.
        edits: in order.
    """

    id: int
    image: int | None
    what: str
    edits: tuple[Edit, ...]


@contextmanager
def saved() -> Iterator[None]:
    """Turn an error of SQLite (disk full, no permission) into an OutputError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise OutputError(
            f"the labels cannot be saved ({error}): free some space; nothing was changed"
        ) from error


class Store:
    """The open file. Its methods may be called from any thread.

    Args:
        out: the data set's folder; `out/labelling` is created.

    Raises:
        ConfigError: another server has it open, or it is of a newer version.
        DataError: the file is damaged.
        OutputError: it cannot be created.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / LABELLING
        self.path = self.folder / FILE
        self._lock = threading.RLock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{self.path}: cannot be opened ({error}): choose another --out") from error
        self._base.row_factory = sqlite3.Row
        try:
            self._open()
        except sqlite3.OperationalError as error:
            self._base.close()
            if "locked" in str(error):
                raise ConfigError(
                    f"{out} is open in another server: use that page, or stop it (Ctrl-C) and start again"
                ) from error
            raise OutputError(f"{self.path}: cannot be opened ({error}): choose another --out") from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise DataError(
                f"{self.path} is damaged ({error}): move {self.folder} away, and give {out} with a new --out"
            ) from error
        except ConfigError:
            self._base.close()
            raise

    def _open(self) -> None:
        # In this order: an exclusive lock before the log is opened needs no shared memory, which network
        # drives lack.
        self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")
        self._base.execute("BEGIN IMMEDIATE")
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            self._base.execute("ROLLBACK")
            raise ConfigError(f"{self.path} is of a newer version of instancefcn: update it")
        if version == 0:
            for statement in _SCHEMA.split(";"):
                self._base.execute(statement)
            self._base.execute(f"PRAGMA user_version = {VERSION}")
        self._base.execute("COMMIT")

    def close(self) -> None:
        """Give the lock back."""
        with self._lock:
            self._base.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; on the disk afterwards.

        Raises:
            OutputError: it cannot be saved.
        """
        with self._lock, saved():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    # -- facts: the source of the images, the model, the training

    def fact(self, name: str) -> Any:
        """A stored JSON value, or None."""
        rows = self._all("SELECT value FROM facts WHERE name = ?", (name,))
        return json.loads(rows[0]["value"]) if rows else None

    def put(self, name: str, value: Any) -> None:
        """Store a JSON value, in a `transaction`."""
        self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def note(self, name: str, value: Any) -> None:
        """Store a JSON value."""
        with self.transaction():
            self.put(name, value)

    # -- reading

    def classes(self) -> dict[int, str]:
        """Names by id, in the order of the ids."""
        return {row["id"]: row["name"] for row in self._all("SELECT * FROM classes ORDER BY id")}

    def image(self, id_: int) -> Row:
        """An image's row. Raises DataError when there is none."""
        return self._row("images", id_)

    def images(self) -> list[tuple[int, str, bool, int]]:
        """(id, name, done, number of objects) of every image, in order."""
        rows = self._all(
            "SELECT images.id, name, done, COUNT(objects.id) AS objects FROM images LEFT JOIN objects"
            " ON objects.image = images.id AND NOT deleted GROUP BY images.id ORDER BY images.id"
        )
        return [(row["id"], row["name"], bool(row["done"]), row["objects"]) for row in rows]

    def image_ids(self, done: bool) -> list[int]:
        """The images that are labelled, or those that are not."""
        return [row["id"] for row in self._all("SELECT id FROM images WHERE done = ? ORDER BY id", (done,))]

    def object(self, id_: int) -> Row:
        """An object's row. Raises DataError when there is none."""
        return self._row("objects", id_)

    def objects(self, image: int, deleted: bool = False) -> list[tuple[int, Row]]:
        """(id, row) of an image's objects, or of its deleted ones."""
        rows = self._all(
            "SELECT * FROM objects WHERE image = ? AND deleted = ? ORDER BY id", (image, int(deleted))
        )
        return [(row["id"], _plain("objects", row)) for row in rows]

    def object_count(self, image: int) -> int:
        """The number of an image's objects."""
        (row,) = self._all("SELECT COUNT(*) AS n FROM objects WHERE image = ? AND NOT deleted", (image,))
        return int(row["n"])

    def counts(self) -> dict[int, int]:
        """Objects per class in all images; crowds are none."""
        rows = self._all(
            "SELECT class, COUNT(*) AS n FROM objects WHERE NOT deleted AND NOT crowd GROUP BY class"
        )
        return {row["class"]: row["n"] for row in rows}

    def labelled(self) -> tuple[int, int, int]:
        """Numbers of labelled images, of those held out, and of all images."""
        (row,) = self._all(
            "SELECT COALESCE(SUM(done), 0) AS done, COALESCE(SUM(done AND split = 'val'), 0) AS held,"
            " COUNT(*) AS n FROM images"
        )
        return row["done"], row["held"], row["n"]

    def trained_classes(self) -> set[int]:
        """Classes with an object in a labelled image that is trained on."""
        rows = self._all(
            "SELECT DISTINCT class FROM objects JOIN images ON images.id = objects.image"
            " WHERE NOT deleted AND NOT crowd AND done AND split = 'train'"
        )
        return {row["class"] for row in rows}

    def records(self) -> Iterator[tuple[int, Row, list[tuple[int, Row]]]]:
        """(id, row, objects) of every labelled image, in order."""
        for row in self._all("SELECT * FROM images WHERE done ORDER BY id"):
            yield row["id"], _plain("images", row), self.objects(row["id"])

    def _row(self, table: Table, id_: int) -> Row:
        rows = self._all(f"SELECT * FROM {table} WHERE id = ?", (id_,))
        if not rows:
            raise DataError(f"there is no {table.removesuffix('s').removesuffix('e')} {id_}: reload the page")
        return _plain(table, rows[0])

    # -- changes

    def next_id(self, table: Table) -> int:
        """An id that no row has or ever had: an undone change may bring an old one back."""
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
        return rows[0]["seq"] + 1 if rows else 1

    def change(self, image: int | None, what: str, edits: Sequence[Edit]) -> Change:
        """Do edits as one change that can be undone. What was undone before can no longer be done again.

        Raises:
            OutputError: it cannot be saved; nothing was changed.
        """
        with self.transaction():
            for edit in edits:
                self._write(edit)
            self._base.execute("DELETE FROM changes WHERE undone")
            number = self._base.execute(
                "INSERT INTO changes (image, what, edits) VALUES (?, ?, ?)", (image, what, _dumped(edits))
            ).lastrowid
            assert number is not None
            self._base.execute("DELETE FROM changes WHERE id <= ?", (number - UNDO_LIMIT,))
        return Change(number, image, what, tuple(edits))

    def undo(self) -> Change | None:
        """Take the last change back; None when there is none."""
        return self._travel("SELECT * FROM changes WHERE NOT undone ORDER BY id DESC LIMIT 1", undone=True)

    def redo(self) -> Change | None:
        """Do the change again that was taken back last; None when there is none."""
        return self._travel("SELECT * FROM changes WHERE undone ORDER BY id LIMIT 1", undone=False)

    def _travel(self, query: str, undone: bool) -> Change | None:
        with self.transaction():
            rows = self._all(query)
            if not rows:
                return None
            row = rows[0]
            edits = [Edit(**edit) for edit in json.loads(row["edits"])]
            if undone:
                edits = [edit.reversed() for edit in reversed(edits)]
            for edit in edits:
                self._write(edit)
            self._base.execute("UPDATE changes SET undone = ? WHERE id = ?", (int(undone), row["id"]))
        return Change(row["id"], row["image"], row["what"], tuple(edits))

    def _write(self, edit: Edit) -> None:
        if edit.after is None:
            self._base.execute(f"DELETE FROM {edit.table} WHERE id = ?", (edit.id,))
            return
        columns = _COLUMNS[edit.table]
        values = [json.dumps(edit.after[c]) if c in _AS_JSON else edit.after[c] for c in columns]
        marks = ", ".join("?" * (len(columns) + 1))
        self._base.execute(
            f"INSERT OR REPLACE INTO {edit.table} (id, {', '.join(columns)}) VALUES ({marks})",
            (edit.id, *values),
        )

    def fill(self, table: Table, rows: Iterable[tuple[int, Row]]) -> None:
        """Write rows that no person changed, as when a data set is opened: they cannot be undone. Call it in
        a `transaction`.
        """
        for id_, row in rows:
            self._write(Edit(table, id_, None, row))

    def set_size(self, image: int, width: int, height: int) -> None:
        """Note an image's size, known when it is first opened."""
        with self.transaction():
            self._base.execute("UPDATE images SET width = ?, height = ? WHERE id = ?", (width, height, image))

    # -- suggestions

    def suggestions(self, image: int, model: str) -> list[Any] | None:
        """What a model suggested for an image; None when it has not looked at it."""
        rows = self._all("SELECT found FROM suggestions WHERE image = ? AND model = ?", (image, model))
        return json.loads(rows[0]["found"]) if rows else None

    def suggest(self, image: int, model: str, doubt: float, found: Sequence[Mapping[str, Any]]) -> None:
        """Store what a model suggests for an image, and how unsure it is."""
        with self.transaction():
            self._base.execute(
                "INSERT OR REPLACE INTO suggestions VALUES (?, ?, ?, ?)",
                (image, model, doubt, json.dumps(list(found))),
            )

    def without_suggestions(self, model: str) -> list[int]:
        """Images that are not labelled and that the model has not looked at."""
        rows = self._all(
            "SELECT id FROM images WHERE NOT done AND NOT EXISTS (SELECT 1 FROM suggestions"
            " WHERE image = images.id AND model = ?) ORDER BY id",
            (model,),
        )
        return [row["id"] for row in rows]

    def least_sure(self, model: str, leave_out: int) -> int | None:
        """The image, not labelled, of which the model is least sure; None when it has looked at none."""
        rows = self._all(
            "SELECT images.id FROM images JOIN suggestions ON image = images.id"
            " WHERE NOT done AND model = ? AND images.id != ? ORDER BY doubt DESC, images.id LIMIT 1",
            (model, leave_out),
        )
        return rows[0]["id"] if rows else None


def _plain(table: Table, row: sqlite3.Row) -> Row:
    return {c: json.loads(row[c]) if c in _AS_JSON else row[c] for c in _COLUMNS[table]}


def _dumped(edits: Sequence[Edit]) -> str:
    return json.dumps([{"table": e.table, "id": e.id, "before": e.before, "after": e.after} for e in edits])
