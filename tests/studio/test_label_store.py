from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instancefcn.data.paths import LABELLING
from instancefcn.errors import ConfigError, DataError
from instancefcn.studio.labelling.store import FILE, Edit, Row, Store


def row(deleted: int = 0, class_: int = 1, image: int = 1) -> Row:
    return {
        "image": image,
        "class": class_,
        "segmentation": [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]],
        "box": [0.0, 0.0, 4.0, 4.0],
        "area": 8.0,
        "crowd": 0,
        "deleted": deleted,
    }


def add(store: Store, class_: int = 1) -> int:
    id_ = store.next_id("objects")
    store.change(1, "added", [Edit("objects", id_, None, row(class_=class_))])
    return id_


def ids(store: Store) -> list[int]:
    return [id_ for id_, _ in store.objects(1)]


def test_changes_are_taken_back_and_done_again_after_reopening(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = add(store), add(store)
    store.change(1, "class", [Edit("objects", first, row(), row(class_=2))])
    store.change(1, "deleted", [Edit("objects", second, row(), row(deleted=1))])
    store.close()

    store = Store(tmp_path)
    assert ids(store) == [first]
    assert [id_ for id_, _ in store.objects(1, deleted=True)] == [second]
    assert [change.what for change in (store.undo(), store.undo()) if change] == ["deleted", "class"]
    assert ids(store) == [first, second]
    assert store.object(first)["class"] == 1
    assert (change := store.redo()) is not None
    assert change.what == "class"
    assert store.object(first)["class"] == 2
    for _ in range(3):
        store.undo()
    assert store.undo() is None
    assert ids(store) == []
    store.close()


def test_a_new_change_ends_what_could_be_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = add(store)
    store.undo()
    second = add(store)
    assert second > first  # an id is never used twice, even if its object is gone
    assert store.redo() is None
    store.close()


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = add(store)
    with pytest.raises(KeyError):
        store.change(
            1, "broken", [Edit("objects", first, row(), row(deleted=1)), Edit("objects", 9, None, {})]
        )
    assert ids(store) == [first]
    assert (change := store.undo()) is not None
    assert change.what == "added"
    store.close()


def test_a_second_server_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store)
    code = "import sys; from pathlib import Path; from instancefcn.studio.labelling.store import Store;"
    code += "Store(Path(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert other.returncode
    assert "ConfigError" in other.stderr
    assert "open in another server" in other.stderr
    store.close()
    Store(tmp_path).close()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    Store(tmp_path).close()
    path = tmp_path / LABELLING / FILE
    path.write_bytes(b"no database" * 400)
    with pytest.raises(DataError, match=FILE):
        Store(tmp_path)


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store._base.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(ConfigError, match="newer version"):
        Store(tmp_path)


WRITER = """
import sys
from pathlib import Path
from instancefcn.studio.labelling.store import Edit, Store
store = Store(Path(sys.argv[1]))
row = {"image": 1, "class": 1, "segmentation": [[0.0] * 6], "box": [0.0] * 4, "area": 1.0, "crowd": 0}
row["deleted"] = 0
while True:
    first = store.next_id("objects")
    store.change(1, "pair", [Edit("objects", id, None, row) for id in (first, first + 1)])
    print(first, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("changes", [1, 30])
def test_a_killed_server_loses_nothing_that_it_acknowledged(tmp_path: Path, changes: int) -> None:
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(changes)]
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        store = Store(tmp_path)  # the lock has ended with the process
        found = set(ids(store))
        assert found >= {id_ for first in acknowledged for id_ in (first, first + 1)}
        assert len(found) % 2 == 0  # both objects of a change, or none
        store.close()
