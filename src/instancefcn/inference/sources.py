"""From what a person types (files, folders, patterns, URLs, videos, a webcam) to the files to read."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from instancefcn.data.paths import IMAGE_SUFFIXES, at_home, is_there
from instancefcn.errors import ImageError
from instancefcn.images.opening import HEIC_COMMAND, heic_is_installed
from instancefcn.images.pages import split_page
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
HEIC_SUFFIXES = frozenset({".heic", ".heif"})
UNREAD_SUFFIXES = frozenset(
    {".jxl", ".psd", ".svg", ".exr", ".hdr", ".tga", ".dcm", ".czi", ".lif", ".nd2", ".oib", ".vsi", ".fits"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}
)
"""Of images that nothing here reads. (HEIC images are read where the extra `heic` is installed.)"""


@dataclass(frozen=True)
class Sources:
    """What to read.

    Attributes:
        images: files, and URLs as strings.
        videos: video files.
        webcam: index of a webcam, or None. It is the only source.
        coco: the COCO file that names the images, or None.
        left_out: files of given folders that are not read: of other formats, or no images.
    """

    images: tuple[Path | str, ...] = ()
    videos: tuple[Path, ...] = ()
    webcam: int | None = None
    coco: CocoSource | None = None
    left_out: tuple[Path, ...] = ()

    @property
    def unread(self) -> tuple[Path, ...]:
        """Those of the files left out that are images."""
        return tuple(path for path in self.left_out if _is_unread(path))


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
    left_out: dict[str, Path] = {}
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
        elif (file := split_page(source)[0]) is not source and Path(file).is_file():
            found.setdefault(str(source), str(source))
        else:
            paths, problem = _expand(source, out)
            left_out |= {os.path.realpath(path): path for path in left_out_of(at_home(source), out)}
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
    others = tuple(path for real, path in left_out.items() if real not in found)
    return Sources(tuple(one for one in found.values() if one not in videos), videos, left_out=others)


def describe_left_out(paths: Iterable[PurePath]) -> str:
    """For example "not read: 3 .jxl, 1 .txt", with the command that lets HEIC be read; "" without paths."""
    counts = Counter(path.suffix.lower() or path.name for path in paths)
    if not counts:
        return ""
    how = f" ({HEIC_COMMAND} reads them)"
    parts = [f"{n} {suffix}{how if suffix in HEIC_SUFFIXES else ''}" for suffix, n in sorted(counts.items())]
    return f"not read: {', '.join(parts)}"


def unread_error(path: Path) -> ImageError:
    """Why an image of a folder is not read."""
    if path.suffix.lower() in HEIC_SUFFIXES:
        return ImageError(f"{path}: is a HEIC image: {HEIC_COMMAND} installs what reads it")
    kind = path.suffix.lower().removeprefix(".")
    return ImageError(f"{path}: {kind} images are not supported: save it as PNG or JPEG")


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
        inside = sorted(path.iterdir())
        paths = [file for file in inside if _is_image_name(file) and not _is_unread(file)]
        if paths:
            return paths, ""
        deeper = next((p for p in path.rglob("*") if _is_image_name(p)), None)
        hint = f"; use '{path}/**/*{deeper.suffix}' for images in its subfolders" if deeper else ""
        unread = describe_left_out(file for file in left_out_of(path, out) if _is_unread(file))
        others = f"; {unread}" if unread else ""
        return [], f"{path}: no image found in this folder (suffixes: {_suffixes()}){others}{hint}"
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


def left_out_of(folder: Path, out: Path | None = None) -> list[Path]:
    """The files directly in a folder that are not read, sorted, without hidden files and results in `out`."""
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        return [
            path
            for path in _without_results(inside, out)
            if (_is_unread(path) or path.suffix.lower() not in IMAGE_SUFFIXES)
            and path.name.lower() not in _SYSTEM_FILES
            and not path.name.startswith(".")
            and path.is_file()
        ]
    except OSError:  # searching it for images reports it
        return []


_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def _is_unread(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in UNREAD_SUFFIXES or (suffix in HEIC_SUFFIXES and not heic_is_installed())


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
