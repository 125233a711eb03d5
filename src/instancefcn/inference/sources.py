"""From what a person types (files, folders, globs) to a list of picture files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from instancefcn.data.paths import PICTURE_SUFFIXES
from instancefcn.errors import ImageError

OVERLAY_SUFFIX = ".overlay.png"
"""How overlays end that instancefcn wrote itself; a folder's listing leaves them out."""


def find_pictures(sources: Iterable[str | Path]) -> list[Path]:
    """Expand files, folders and globs.

    A file is taken whatever its name is. A folder gives the pictures that lie directly in it, known by
    their suffix, hidden files and our own overlays left out. A pattern (`*`, `?`, `[...]`; `**` for any
    depth) gives every file it matches. A path that exists is never taken as a pattern.

    Returns:
        paths in the order of the sources, sorted by name within one, each file once.

    Raises:
        ImageError: a source gives nothing, or there is none; all such sources are named at once.
    """
    found: dict[str, Path] = {}
    problems = []
    for source in sources:
        paths, problem = _expand(source)
        if not paths:
            problems.append(problem)
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    if problems:
        raise ImageError("\n".join(problems))
    if not found:
        raise ImageError(
            "no source was given: name picture files, folders or patterns such as 'photos/*.jpg'"
        )
    return list(found.values())


def _expand(source: str | Path) -> tuple[list[Path], str]:
    """The pictures of one source, and what to say when there are none."""
    path = Path(source).expanduser()
    if path.is_dir():
        paths = sorted(inside for inside in path.iterdir() if _is_picture_name(inside))
        if paths:
            return paths, ""
        deeper = next((p for p in path.rglob("*") if _is_picture_name(p)), None)
        hint = f"; deeper pictures are reached by '{path}/**/*{deeper.suffix}'" if deeper else ""
        return [], f"{path}: no picture lies in this folder (looked for {_suffixes()}){hint}"
    if path.exists():
        return [path], ""
    text = str(path)
    if glob.has_magic(text):
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True) if os.path.isfile(match))
        return matches, f"{source}: no file matches this pattern (looked in {Path.cwd()})"
    return [], f"{source}: there is no such file or folder{_nearby(path)}"


def _is_picture_name(path: Path) -> bool:
    name = path.name.lower()
    return (
        path.suffix.lower() in PICTURE_SUFFIXES
        and not name.startswith(".")
        and not name.endswith(OVERLAY_SUFFIX)
        and path.is_file()
    )


def _suffixes() -> str:
    return ", ".join(sorted(PICTURE_SUFFIXES))


def _nearby(path: Path) -> str:
    """A guess at what was meant, or how far the path exists."""
    import difflib

    parent = path.parent
    if not parent.is_dir():
        return f" (the folder {parent} does not exist)"
    close = difflib.get_close_matches(path.name, os.listdir(parent), n=1)
    return f"; did you mean {parent / close[0]}?" if close else ""
