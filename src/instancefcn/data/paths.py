"""Find the file that a record names, never outside the folder of images; and choose names for results."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from instancefcn.safe_text import shown

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
    | {".avif", ".jp2", ".j2k", ".heic", ".heif"}
)
LONGEST_NAME = 150
"""Maximum bytes of a result's name. Writers add a number, a class and a suffix; file systems allow 255."""


class ImageFinder:
    """Finds images below one folder.

    A file name is a path below the folder ("a.jpg", "2017/a.jpg"). If no file has it, the name may start with
    the folder's own name, as in exports that write "images/a.jpg". Last, composed (NFC) and decomposed (NFD)
    forms of accents are tried, because archives made on macOS hold the latter. Symbolic links are followed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, file_name: str) -> tuple[Path | None, str | None]:
        """(path, None), or (None, the problem)."""
        name = file_name.replace("\\", "/")
        pure = PurePosixPath(name)
        if "\0" in name or pure.is_absolute() or PureWindowsPath(file_name).drive:
            return None, f"file_name {shown(file_name)} must be a relative path below {self.folder}"
        inside = os.path.normpath(name)
        if inside == "." or inside.split(os.sep)[0] == os.pardir:
            return (
                None,
                f"file_name {shown(file_name)} leads out of {self.folder}: put the image below that folder",
            )
        names = [inside]
        if _composed(pure.parts[0]) == _composed(self.folder.name) and len(pure.parts) > 1:
            names.append(str(Path(*Path(inside).parts[1:])))
        others = (unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in names)
        refused = None
        for name in dict.fromkeys([*names, *others]):
            try:
                if (self.folder / name).is_file():
                    return self.folder / name, None
            except OSError as error:  # too long for a file name, a loop of links, ..
                if name in names:
                    reason = f"is not a valid file name ({error.strerror}): rename the file"
                    refused = f"file_name {shown(file_name)} {reason}"
        missing = self.folder / inside
        return None, refused or f"image {missing} not found{self._hint(missing.name)}"

    def find_stem(self, stem: str) -> tuple[Path | None, str | None]:
        """Find an image by its name without suffix, ".jpg" first. Returns what `find` does."""
        path, problem = self.find(f"{stem}.jpg")
        for suffix in _ALL_SPELLINGS:
            if path is not None:
                return path, None
            path, _ = self.find(f"{stem}{suffix}")
        return (path, None) if path is not None else (None, problem)

    def _hint(self, base: str) -> str:
        """How to fix it: the path of another file of that name, if there is one."""
        others = self._elsewhere.get(_composed(base).lower())
        if not others:
            return ": add it or remove its record and annotations"
        return f': write "{others}" as its file_name if that file is meant'

    @cached_property
    def _elsewhere(self) -> dict[str, str]:
        """A path for each file name below the folder; names in lower case with composed accents."""
        found: dict[str, str] = {}
        for root, folders, files in os.walk(self.folder):
            folders.sort()
            for file in sorted(files):
                path = (Path(root) / file).relative_to(self.folder).as_posix()
                found.setdefault(_composed(file).lower(), path)
        return found


@cache
def spellings(suffix: str) -> tuple[str, ...]:
    """A suffix in lower case, in upper case, and in every mixed case."""
    mixed = map("".join, itertools.product(*zip(suffix.lower(), suffix.upper(), strict=True)))
    return tuple(dict.fromkeys((suffix.lower(), suffix.upper(), *mixed)))


_ALL_SPELLINGS = sorted(
    itertools.chain.from_iterable(map(spellings, IMAGE_SUFFIXES)),
    key=lambda suffix: (not suffix.islower(), not suffix.isupper(), suffix),
)
"""Every spelling of every image suffix, the usual ones first."""


def in_any_case(path: Path) -> Path:
    """The file of this name whose suffix may differ in case; `path` itself if there is none."""
    return next((p for p in map(path.with_suffix, spellings(path.suffix)) if p.is_file()), path)


def findable(path: Path) -> Path:
    """An absolute path like this one, whose parts every format's reader can find.

    Names that start with a dot count as hidden, lines of lists are stripped, and a backslash or a drive would
    change the path.
    """
    whole = path.absolute()
    suffix = f".{_findable(path.suffix[1:])}" if path.suffix else ""
    return Path(whole.anchor, *map(_findable, whole.parts[1:-1]), f"{_findable(path.stem)}{suffix}")


def _findable(name: str) -> str:
    text = os.fsencode(name).decode("utf-8", "replace").replace("\\", "_")
    text = re.sub(r"^[\s.]+|\s+$", "", "_".join(text.splitlines()))
    return text.replace(":", "_", 1) if PureWindowsPath(text).drive else text or "image"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def is_there(path: Path) -> bool:
    """Whether a file or folder exists; False also for invalid names."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def at_home(source: str | Path) -> Path:
    """The path with `~` replaced by the home folder.

    It does not change if a file of that very name exists, or if the user does not.
    """
    path = Path(source)
    if is_there(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def images_below(folder: Path) -> Iterator[Path]:
    """The files with an image's suffix in a folder and its subfolders, sorted.

    Hidden files and hidden subfolders are left out: Jupyter keeps copies in `.ipynb_checkpoints`.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path, folder) and path.is_file():
            yield path


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path, folder))


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below `folder`, or a folder on the way to it, has a name that starts with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def output_names(paths: Sequence[Path]) -> list[str]:
    """One name per image for its results: the stem, made longer only if two images share it.

    `a/cat.jpg` and `b/cat.jpg` become `a_cat` and `b_cat`; `cat.jpg` and `cat.png` become `cat_jpg` and
    `cat_png`. Names that differ only in case count as equal, as on some file systems. The names do not depend
    on the order. Names longer than LONGEST_NAME bytes are cut.
    """
    names = [path.stem for path in paths]
    deepest = max((len(path.absolute().parts) for path in paths), default=0)
    for folders, suffix in (
        (depth, with_suffix) for depth in range(deepest) for with_suffix in (False, True)
    ):
        for group in _clashes(names):
            for index in group:
                names[index] = _name(paths[index], folders, suffix)
    names = [shortened(name, LONGEST_NAME) for name in names]
    # Names still equal are of one file given twice, or of files such as a_b/c and a/b_c: number them.
    taken = {name.casefold() for name in names}
    for group in _clashes(names):
        for index in group[1:]:
            stem, number = names[index], 2
            while f"{stem}-{number}".casefold() in taken:
                number += 1
            names[index] = f"{stem}-{number}"
            taken.add(names[index].casefold())
    return names


def shortened(name: str, most: int) -> str:
    """A name of at most `most` bytes: a longer one is cut and ends in a digest of the whole."""
    data = os.fsencode(name)
    if len(data) <= most:
        return name
    digest = hashlib.blake2b(data, digest_size=4).hexdigest()
    return f"{data[: most - 9].decode('utf-8', 'ignore')}-{digest}"


def _name(path: Path, folders: int, suffix: bool) -> str:
    """The stem, after the names of its last `folders` folders and before its `suffix`, if asked for."""
    parts = path.absolute().parts[1:-1]
    chosen = parts[max(0, len(parts) - folders) :] if folders else ()
    return "_".join((*chosen, path.stem, *([path.suffix.lstrip(".")] if suffix and path.suffix else [])))


def _clashes(names: Sequence[str]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        groups[name.casefold()].append(index)
    return [group for group in groups.values() if len(group) > 1]
