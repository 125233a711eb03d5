"""From what a person types (files, folders, patterns, URLs, videos, a webcam) to the files to read."""

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
from instancefcn.inference.coco_source import CocoSource

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".mts", ".3gp"}
)
EMPTY_SOURCE = "an empty source was given (a variable that is not set?)"
OVERLAY_SUFFIX, MOVIE_SUFFIX = ".overlay.png", ".overlay.mp4"
"""Suffixes of overlays that instancefcn wrote; folders and patterns leave them out."""
RESULT_FOLDERS = ("labels", "labelme", "cutouts", "labelmaps", "explained")
"""The folders in OUT that results are written to, besides OUT itself."""
RESULT_SUFFIXES = frozenset({".json", ".jsonl", ".csv", ".txt"})
"""Of results in OUT itself, except overlays."""


@dataclass(frozen=True)
class Sources:
    """What to read.

    Attributes:
        images: files, and URLs as strings.
        videos: video files.
        webcam: index of a webcam, or None. It is the only source.
        coco: the COCO file that names the images, or None.
    """

    images: tuple[Path | str, ...] = ()
    videos: tuple[Path, ...] = ()
    webcam: int | None = None
    coco: CocoSource | None = None


def find_sources(sources: Iterable[str | Path], out: Path | None = None) -> Sources:
    """Expand files, folders, patterns and URLs, and separate videos from images.

    Files, folders and patterns are those of `find_images`; a file with the suffix of a video is a video (a
    folder gives its images alone). `https://...` and `http://...` are images. `webcam` is the first webcam,
    `webcam:1` the second, unless a file has that name.

    Args:
        sources: what a person typed.
        out: the folder of the results; patterns leave out what an earlier call wrote there.

    Returns:
        the sources in their order, each once.

    Raises:
        ImageError: a source gives nothing, or there is no source, or a webcam is not the only one; all
            problems are named at once.
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
        problems.append("a webcam must be the only source: it runs until it is stopped")
    if problems:
        raise ImageError("\n".join(problems))
    if webcams:
        return Sources(webcam=webcams[0])
    if not found:
        raise ImageError("no source was given: name image files, folders or patterns such as 'photos/*.jpg'")
    videos = tuple(one for one in found.values() if isinstance(one, Path) and is_video(one))
    return Sources(tuple(one for one in found.values() if one not in videos), videos)


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Expand files, folders and patterns.

    A file is taken whatever its name. A folder gives the images directly in it, recognised by their suffix,
    without hidden files and our own overlays. A pattern (`*`, `?`, `[...]`; `**` for any depth) gives every
    file that it matches except hidden ones and our own overlays. A path that exists is never read as a
    pattern, nor are the existing folders that a pattern begins with.

    Returns:
        paths in the order of the sources, sorted by name within each, each file once.

    Raises:
        ImageError: a source gives nothing, or there is no source, or one is not an image file (a URL, a
            video, a webcam); all problems are named at once.
    """
    found = find_sources(sources)
    paths = [image for image in found.images if isinstance(image, Path)]
    if found.webcam is not None or found.videos or len(paths) < len(found.images):
        raise ImageError("only image files can be read here, not videos, webcams or URLs")
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
        return f"{url}: is not a valid address ({error})"
    if scheme not in ("http", "https"):
        return f"{url}: only http and https addresses are read, not {scheme}"
    if is_video(Path(url.split("?", 1)[0].split("#", 1)[0])):
        return f"{url}: a video is not read from the web: download it first"
    return None


def _expand(source: str | Path, out: Path | None) -> tuple[list[Path], str]:
    """The files of one source, and what to say when there are none."""
    path = at_home(source)
    try:
        return _found(path, source, out)
    except OSError as error:  # a name that is too long, a loop of links, no permission
        return [], f"{source}: cannot be searched ({error.strerror})"


def _found(path: Path, source: str | Path, out: Path | None) -> tuple[list[Path], str]:
    if path.is_dir():
        paths = sorted(inside for inside in path.iterdir() if _is_image_name(inside))
        if paths:
            return paths, ""
        deeper = next((p for p in path.rglob("*") if _is_image_name(p)), None)
        hint = f"; use '{path}/**/*{deeper.suffix}' for images in its subfolders" if deeper else ""
        return [], f"{path}: no image found in this folder (suffixes: {_suffixes()}){hint}"
    if path.exists():
        return [path], ""
    # Leading folders that exist are not patterns: "photos [2024]/*.jpg".
    existing = next((folder for folder in path.parents if folder.is_dir()), Path())
    pattern = str(path.relative_to(existing))
    if glob.has_magic(pattern):
        pattern = os.path.join(glob.escape(str(existing)), pattern)
        matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
        images = list(_without_results(matches, out))
        other = " except results of an earlier call" if matches else ""
        return images, f"{source}: no file{other} matches this pattern (searched from {Path.cwd()})"
    return [], f"{source}: no such file or folder{_nearby(path)}"


def _without_results(paths: Iterable[Path], out: Path | None) -> Iterator[Path]:
    """Those of the files that no earlier call wrote."""
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
    """A guess at what was meant, or the folder that does not exist."""
    import difflib

    parent = path.parent
    if not parent.is_dir():
        return f" (the folder {parent} does not exist)"
    close = difflib.get_close_matches(path.name, os.listdir(parent), n=1)
    return f"; did you mean {parent / close[0]}?" if close else ""
