"""Write the tables of README.md and docs/ from the result files in docs/results/.

    python tools/tables.py

A page holds a table between the lines `<!-- table: NAME -->` and `<!-- end -->`. What it shows is described
in docs/results/tables.toml; every figure comes from a JSON file beside it, which a benchmark or
`instancefcn eval` wrote with --json. A description has

* `columns`: a list of {head, key, format, scale, spread}, or the name of such a list under [columns]. `key`
  is a path such as "mask > AP" ("": the entry itself), or "seeds": how many there are. `format` is a format
  string of Python, "{:.3f}" unless given; a value [mean, error] fills two fields. Numbers are multiplied
  by `scale`. With `spread` the minimum and the maximum of several seeds follow their mean. A column is
  `optional` when result files may lack its key.
* `rows`: a list of {label, file, at, where}: the label's cells, the result file, the path of an entry or of a
  list of entries in it ("rows" where there is one), and what the entries of a list must hold.
* or `each`, {file, at, where, by}: one row per key of a dictionary, per value that the entries of a list have
  under `by`, or, without `by`, per evaluation of a run (the n-th of every seed together).
* `labels`: the heads above the labels.
* or only `commands`, a list of files: the commands that made them, as a block.

Several entries of a list are the seeds of one row; of one seed the last entry counts.
"""

from __future__ import annotations

import json
import re
import statistics
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from instancefcn.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = tuple[list[str], list[Any]]
"""The cells of a label, and the entries, one a seed."""


@cache
def result(name: str) -> Any:
    """The document of docs/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def look_up(entry: Any, path: str) -> Any:
    """What stands in `entry` under "key > key > ...". Raises KeyError where a key is missing."""
    for key in filter(None, path.split(" > ")):
        entry = entry[key]
    return entry


def located(source: dict[str, Any]) -> Any:
    """The part of a result file that a row or `each` names; of a list the entries that `where` describes."""
    document, where = result(source["file"]), source.get("where", {}).items()
    implied = "rows" if isinstance(document, dict) and "rows" in document else ""
    found = look_up(document, source.get("at", implied))
    if isinstance(found, list):
        found = [entry for entry in found if where <= entry.items()]
        if not found:
            raise KeyError(f"{source['file']}: {dict(where)}")
    return found


def by_seed(entries: list[Any]) -> list[list[Any]]:
    """The entries of every seed, in the order of the file."""
    runs: dict[Any, list[Any]] = {}
    for entry in entries:
        runs.setdefault(entry.get("seed"), []).append(entry)
    return list(runs.values())


def rows(table: dict[str, Any]) -> Iterator[Row]:
    """The rows of a table."""
    for row in table.get("rows", []):
        found = located(row)
        entries = [run[-1] for run in by_seed(found)] if isinstance(found, list) else [found]
        yield row["label"], entries
    if "each" in table:
        found, key = located(table["each"]), table["each"].get("by")
        if isinstance(found, dict):
            yield from (([str(name)], [entry]) for name, entry in found.items())
        elif key is None:
            yield from (([], [e for e in turn if e is not None]) for turn in zip_longest(*by_seed(found)))
        else:
            for value in dict.fromkeys(entry[key] for entry in found):
                group = by_seed([entry for entry in found if entry[key] == value])
                yield [str(value)], [run[-1] for run in group]


def cell(entries: list[Any], column: dict[str, Any]) -> str:
    """The figure of one row in one column; empty where the result file has null, or nothing and the column is
    optional.
    """
    key, form, scale = column["key"], column.get("format", "{:.3f}"), column.get("scale", 1)
    if key == "seeds":
        return str(sum(entry.get("seeds", 1) for entry in entries))
    try:
        values = [value for entry in entries if (value := look_up(entry, key)) is not None]
    except KeyError:
        if column.get("optional"):
            return ""
        raise
    if not values:
        return ""
    if isinstance(values[0], str):
        return values[0]
    if isinstance(values[0], list):
        return str(form.format(*values[0]))
    # Of runs that are no longer there only the mean, the minimum and the maximum are known.
    known = [v if isinstance(v, dict) else dict.fromkeys(("mean", "min", "max"), v) for v in values]

    def pick(name: str, of: Callable[[list[float]], float]) -> str:
        return str(form.format(scale * of([value[name] for value in known])))

    text = pick("mean", statistics.mean)
    low, high = pick("min", min), pick("max", max)
    return f"{text} ({low} to {high})" if column.get("spread") and low != high else text


def written(name: str, description: dict[str, Any]) -> str:
    """The Markdown of one table."""
    table = description["tables"][name]
    if "commands" in table:
        documents = map(result, table["commands"])
        commands = dict.fromkeys(document["command"] for document in documents if "command" in document)
        return "\n".join(("```bash", *commands, "```\n"))
    columns = table["columns"]
    columns = description["columns"][columns] if isinstance(columns, str) else columns
    heads = [*table.get("labels", []), *(column["head"] for column in columns)]
    try:
        body = [[*label, *(cell(entries, column) for column in columns)] for label, entries in rows(table)]
    except (KeyError, IndexError) as error:
        raise SystemExit(f"docs/results/tables.toml, {name}: the result file has no {error}") from error
    lines = [heads, ["---"] * len(heads), *body]
    return "".join("|" + "".join(f" {text} |" if text else " |" for text in line) + "\n" for line in lines)


def pages() -> Iterator[tuple[Path, str]]:
    """Every page that holds tables, and its text as it should be."""
    description = tomllib.loads((RESULTS / "tables.toml").read_text(encoding="utf-8"))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            yield path, BLOCK.sub(lambda found: found[1] + written(found[2], description) + found[3], text)


def main() -> None:
    """Rewrite the pages whose tables changed."""
    for path, text in pages():
        if path.read_text(encoding="utf-8") != text:
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
