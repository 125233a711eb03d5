"""What reading a dataset decided, and the files in its folder that were not read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from instancefcn.data.doctor.checked_data import CheckedData, Finding

_NAMED = 3
"""How many files of one suffix a finding names."""


def notes(data: CheckedData) -> Iterator[Finding]:
    """What readers decided, such as that a path of another machine was found by its end."""
    for split in data.splits:
        for note in split.dataset.notes:
            yield split.finding("reading", "warning", note)


def unread_files(data: CheckedData) -> Iterator[Finding]:
    """Links that lead nowhere (a warning), and the numbers of files by suffix that no split uses (a note)."""
    first = data.splits[0]
    broken = [path for path in data.unread if not path.exists()]
    if broken:
        what = f"{_some(broken)} link to nothing, so what they should lead to is missing: correct the links"
        yield first.finding("unread-file", "warning", f"{len(broken):,} files are not read: {what}")
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for path in data.unread:
        if path.exists():
            by_suffix[path.suffix.lower() or "no suffix"].append(path)
    if by_suffix:
        total = sum(map(len, by_suffix.values()))
        kinds = "; ".join(f"{len(files):,} {suffix} ({_some(files)})" for suffix, files in by_suffix.items())
        yield first.finding("unread-file", "note", f"{total:,} files are not used by any split: {kinds}")


def _some(paths: Sequence[Path]) -> str:
    """The names of the first few."""
    names = ", ".join(path.name for path in paths[:_NAMED])
    return names + ", .." * (len(paths) > _NAMED)
