"""tools/tables.py: the pages are up to date, and what a cell shows of several seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from documented import ROOT

RUNS = [
    {"network": "fcis", "seed": 0, "images": 10, "mask": {"AP": 0.1}},
    {"network": "fcis", "seed": 0, "images": 20, "mask": {"AP": 0.4}},
    {"network": "fcis", "seed": 1, "images": 10, "mask": {"AP": 0.2}},
    {"network": "fcis", "seed": 1, "images": 20, "mask": {"AP": 0.6}},
    {"network": "other", "seed": 0, "images": 20, "mask": {"AP": 0.9}},
]
AP = {"head": "AP", "key": "mask > AP", "spread": True}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import tables

    monkeypatch.delitem(sys.modules, "tables")
    return tables


@pytest.fixture
def body(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The rows of a table of RUNS, without its head."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "runs.json").write_text(json.dumps({"command": "python run.py", "rows": RUNS}))

    def make(**table: Any) -> list[str]:
        return str(tables.written("it", {"tables": {"it": table}})).splitlines()[2:]

    return make


def test_the_tables_are_up_to_date(tables: ModuleType) -> None:
    pages = list(tables.pages())
    assert pages
    old = [path.name for path, text in pages if path.read_text(encoding="utf-8") != text]
    assert old == [], "run make tables"


def test_a_row_is_the_last_entry_of_every_seed(body: Any) -> None:
    row = {"label": ["ours"], "file": "runs", "where": {"network": "fcis"}}
    columns = [{"head": "seeds", "key": "seeds"}, AP]
    assert body(labels=[""], columns=columns, rows=[row]) == ["| ours | 2 | 0.500 (0.400 to 0.600) |"]


def test_rows_by_a_key_and_by_evaluation(body: Any) -> None:
    by_network = body(labels=[""], columns=[AP], each={"file": "runs", "by": "network"})
    assert by_network == ["| fcis | 0.500 (0.400 to 0.600) |", "| other | 0.900 |"]
    images = {"head": "images", "key": "images", "format": "{:.0f}"}
    curve = body(columns=[images, AP], each={"file": "runs", "where": {"network": "fcis"}})
    assert curve == ["| 10 | 0.150 (0.100 to 0.200) |", "| 20 | 0.500 (0.400 to 0.600) |"]


@pytest.mark.parametrize("where", [{"network": "fcis_lite"}, {"seed": 7}])
def test_an_entry_that_is_missing_is_an_error(body: Any, where: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match=str(next(iter(where.values())))):
        body(labels=[""], columns=[AP], rows=[{"label": ["ours"], "file": "runs", "where": where}])


def test_a_missing_figure_is_an_error_unless_the_column_is_optional(body: Any) -> None:
    box = {"head": "box AP", "key": "box > AP"}
    with pytest.raises(SystemExit, match="box"):
        body(columns=[box], each={"file": "runs"})
    assert set(body(columns=[{**box, "optional": True}], each={"file": "runs"})) == {"| |"}


def test_commands_come_from_the_result_files(body: Any, tables: ModuleType) -> None:
    text = tables.written("it", {"tables": {"it": {"commands": ["runs", "runs"]}}})
    assert text == "```bash\npython run.py\n```\n"
