"""From what a person types (files, folders, globs, URLs, videos, a webcam) to what there is to read."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from instancefcn.data.paths import IMAGE_SUFFIXES, at_home, is_there
from instancefcn.errors import ImageError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".mts", ".3gp"}
)
EMPTY_SOURCE = "an empty source was given (a variable that is not set?)"
OVERLAY_SUFFIX, MOVIE_SUFFIX = ".overlay.png", ".overlay.mp4"
"""How overlays end that instancefcn wrote itself; folders and patterns leave them out."""
RESULT_FOLDERS = ("labels", "labelme", "cutouts", "labelmaps", "explained")
"""The folders in OUT that results are written to, beside OUT itself."""
RESULT_SUFFIXES = frozenset({".json", ".jsonl", ".csv", ".txt"})
"""Of results in OUT itself, but for overlays."""


@dataclass(frozen=True)
class Sources:
    """What there is to read.

    Attributes:
        images: files, and URLs as strings.
        videos: video files.
        webcam: the number of a webcam, from 0, or None. It comes alone.
    """

    images: tuple[Path | str, ...] = ()
    videos: tuple[Path, ...] = ()
    webcam: int | None = None


def find_sources(sources: Iterable[str | Path], out: Path | None = None) -> Sources:
    """Expand files, folders, globs and URLs, and tell videos from pictures.

    Files, folders and globs are those of `find_images`; a file with the suffix of a video is one (a folder
    gives its pictures alone). `https://...` and `http://...` are pictures. `webcam` is the first webcam,
    `webcam:1` the second; a file of that name goes before.

    Args:
        sources: what a person typed.
        out: the folder of the results: what an earlier call wrote there is left out of what a pattern gives.

    Returns:
        the sources in their order, each once.

    Raises:
        ImageError: a source gives nothing, or there is none, or there is another beside a webcam; all are
            named at once.
    """
    found: dict[str, Path | str] = {}
    webcams = []
    problems = []
    sources = list(sources)
    for source in sources:
        if not str(source).strip():
            problems.append(EMPTY_SOURCE)
        elif isinstance(source, str) and "://" in source:
            if problem := _url_problem(source):
                problems.append(problem)
            found.setdefault(source, source)
        elif (camera := re.fullmatch(r"webcam(?::(\d+))?", str(source))) and not is_there(Path(source)):
            webcams.append(int(camera[1] or 0))
        else:
            paths, problem = _expand(source, out)
            if not paths:
                problems.append(problem)
            for path in paths:
                found.setdefault(os.path.realpath(path), path)
    if webcams and len(sources) > 1:
        problems.append("a webcam is a source by itself: it goes on until it is stopped")
    if problems:
        raise ImageError("\n".join(problems))
    if webcams:
        return Sources(webcam=webcams[0])
    if not found:
        raise ImageError(
            "no source was given: name picture files, folders or patterns such as 'photos/*.jpg'"
        )
    videos = tuple(one for one in found.values() if isinstance(one, Path) and is_video(one))
    return Sources(tuple(one for one in found.values() if one not in videos), videos)


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Expand files, folders and globs.

    A file is taken whatever its name is. A folder gives the pictures that lie directly in it, known by
    their suffix, hidden files and our own overlays left out. A pattern (`*`, `?`, `[...]`; `**` for any
    depth) gives every file it matches but hidden ones and our own overlays. A path that exists is never taken
    as a pattern, nor are the folders that a pattern begins with.

    Returns:
        paths in the order of the sources, sorted by name within one, each file once.

    Raises:
        ImageError: a source gives nothing, or there is none, or is no picture file by its name (a URL, a
            video, a webcam); all such sources are named at once.
    """
    found = find_sources(sources)
    paths = [image for image in found.images if isinstance(image, Path)]
    if found.webcam is not None or found.videos or len(paths) < len(found.images):
        raise ImageError("only picture files can be read here, no video, webcam or URL")
    return paths


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _url_problem(url: str) -> str | None:
    scheme = url.split("://", 1)[0].lower()
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{url}: is no address ({error})"
    if scheme not in ("http", "https"):
        return f"{url}: only http and https addresses are read, not {scheme}"
    if is_video(Path(url.split("?", 1)[0].split("#", 1)[0])):
        return f"{url}: a video is not read from the web: download it first"
    return None


def _expand(source: str | Path, out: Path | None) -> tuple[list[Path], str]:
    """The pictures of one source, and what to say when there are none."""
    path = at_home(source)
    try:
        return _found(path, source, out)
    except OSError as error:  # longer than any name of a file, a loop of links, no right to look
        return [], f"{source}: cannot be looked for ({error.strerror})"


def _found(path: Path, source: str | Path, out: Path | None) -> tuple[list[Path], str]:
    if path.is_dir():
        paths = sorted(inside for inside in path.iterdir() if _is_image_name(inside))
        if paths:
            return paths, ""
        deeper = next((p for p in path.rglob("*") if _is_image_name(p)), None)
        hint = f"; deeper pictures are reached by '{path}/**/*{deeper.suffix}'" if deeper else ""
        return [], f"{path}: no picture lies in this folder (looked for {_suffixes()}){hint}"
    if path.exists():
        return [path], ""
    # Leading folders, as far as they are there, are meant as they are: "photos [2024]/*.jpg".
    there = next((folder for folder in path.parents if folder.is_dir()), Path())
    pattern = str(path.relative_to(there))
    if glob.has_magic(pattern):
        pattern = os.path.join(glob.escape(str(there)), pattern)
        matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
        images = list(_without_results(matches, out))
        other = " but results of an earlier call" if matches else ""
        return images, f"{source}: no file{other} matches this pattern (looked in {Path.cwd()})"
    return [], f"{source}: there is no such file or folder{_nearby(path)}"


def _without_results(paths: Iterable[Path], out: Path | None) -> Iterator[Path]:
    """The files that no earlier call wrote, of those that a pattern came upon."""
    results = "" if out is None else os.path.realpath(out)
    folders = {os.path.join(results, name) for name in RESULT_FOLDERS}
    for path in paths:
        if path.name.lower().endswith((OVERLAY_SUFFIX, MOVIE_SUFFIX)):
            continue
        if results:
            folder = os.path.realpath(path.parent)
            if folder in folders or (folder == results and path.suffix.lower() in RESULT_SUFFIXES):
                continue
        yield path


def _is_image_name(path: Path) -> bool:
    name = path.name.lower()
    return (
        path.suffix.lower() in IMAGE_SUFFIXES
        and not name.startswith(".")
        and not name.endswith(OVERLAY_SUFFIX)
        and path.is_file()
    )


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _nearby(path: Path) -> str:
    """A guess at what was meant, or how far the path exists."""
    import difflib

    parent = path.parent
    if not parent.is_dir():
        return f" (the folder {parent} does not exist)"
    close = difflib.get_close_matches(path.name, os.listdir(parent), n=1)
    return f"; did you mean {parent / close[0]}?" if close else ""
