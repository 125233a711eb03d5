"""Find the file that a record names, never outside the folder of images; and choose names for results."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from instancefcn.safe_text import shown

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
    | {".avif", ".jp2", ".j2k", ".heic", ".heif"}
)
LABELLING = "labelling"
"""The folder of a dataset in which `instancefcn label` keeps its changes and trained models."""
LONGEST_NAME = 150
"""Maximum bytes of a result's name. Writers add a number, a class and a suffix; file systems allow 255."""


class ImageFinder:
    """Finds images below one folder.

    A file name is a path below the folder ("a.jpg", "2017/a.jpg"). If no file has it, the name may start with
    the folder's own name, as in exports that write "images/a.jpg". Last, composed (NFC) and decomposed (NFD)
    forms of accents are tried, because archives made on macOS hold the latter. Symbolic links are followed.

    Of a path of another machine ("C:\\data\\a.jpg", "/home/me/a.jpg", an address), the longest end that names
    a file below the folder is taken; `notes` says so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._moved: dict[str, Path] = {}

    def find(self, file_name: str, beside: Path | None = None) -> tuple[Path | None, str | None]:
        """(path, None), or (None, the problem).

        Args:
            file_name: the name as it is written.
            beside: a folder below the finder's in which the end of another machine's path is sought first.
        """
        path, problem = self._as_written(file_name)
        if path is None:
            path = self._end_of(file_name, beside)
        return (path, None) if path is not None else (None, problem)

    def finds(self, file_name: str, *, moved: bool) -> bool:
        """Whether there is a file of this name; with `moved`, also by the end of another machine's path."""
        found, _ = self._as_written(file_name, hint=False)
        return found is not None or (moved and self._end_of(file_name) is not None)

    def find_stem(self, stem: str) -> tuple[Path | None, str | None]:
        """Find an image by its name without suffix, ".jpg" first. Returns what `find` does."""
        path, problem = self.find(f"{stem}.jpg")
        for suffix in _ALL_SPELLINGS:
            if path is not None:
                return path, None
            path, _ = self.find(f"{stem}{suffix}")
        return (path, None) if path is not None else (None, problem)

    def notes(self) -> tuple[str, ...]:
        """One line about the files that were found by the ends of their paths; none if there are none."""
        if not self._moved:
            return ()
        written, path = min(self._moved.items())
        count, example = len(self._moved), f"{shown(written)} is {path}"
        which = "1 image path leads" if count == 1 else f"{count:,} image paths lead"
        return (
            f"{which} to no file below {self.folder}, so the end of the path is taken ({example}): correct "
            "the paths if other files are meant",
        )

    def _as_written(self, file_name: str, hint: bool = True) -> tuple[Path | None, str | None]:
        """What `find` returns, without paths of other machines. `hint`: the problem says how to fix it."""
        name = file_name.replace("\\", "/").removeprefix(f"{os.path.abspath(self.folder)}/")
        pure = PurePosixPath(name)
        base = re.split(r"[\\/]", file_name)[-1]
        if "\0" in name or pure.is_absolute() or PureWindowsPath(file_name).drive:
            fix = self._hint(base, "") if hint else ""
            return None, f"file_name {shown(file_name)} must be a relative path below {self.folder}{fix}"
        inside = os.path.normpath(name)
        if inside == "." or inside.split(os.sep)[0] == os.pardir:
            fix = self._hint(base, ": put the image below that folder") if hint else ""
            return None, f"file_name {shown(file_name)} leads out of {self.folder}{fix}"
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
        fix = self._hint(missing.name, ": add it or remove its record and annotations") if hint else ""
        return None, refused or f"image {missing} not found{fix}"

    def _end_of(self, file_name: str, beside: Path | None = None) -> Path | None:
        """The file that the longest end of a path names in `beside` or below the folder, or None."""
        for folder in (beside, self.folder):
            path = None if folder is None else existing_end(file_name, folder)
            if path is not None and path.is_file():
                self._moved[file_name] = path
                return path
        return None

    def _hint(self, base: str, otherwise: str) -> str:
        """How to fix it: the paths of other files of that name, if there are some."""
        others = self._elsewhere.get(_composed(base).lower())
        if not others:
            return otherwise
        named = " or ".join(f'"{other}"' for other in others[:3])
        return f": write {named} as its file_name if that file is meant"

    @cached_property
    def _elsewhere(self) -> dict[str, list[str]]:
        """The paths for each file name below the folder; names in lower case with composed accents."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in files_below(self.folder):
            found[_composed(path.name).lower()].append(path.relative_to(self.folder).as_posix())
        return found


def existing_end(written: str, folder: Path) -> Path | None:
    """What the longest end of a path or address names below a folder, or None.

    Of "C:\\mine\\siteB\\a%20b.jpg", the ends are siteB/a b.jpg and a b.jpg; if siteB/ exists, the latter is
    another file. Label Studio's addresses (`?d=..`) and prefixes of uploads are understood.
    """
    for parts in _endings(written):
        try:
            path = folder.joinpath(*parts)
            if path.exists():
                return path
            if len(parts) > 1 and (folder / parts[0]).is_dir():
                return None
        except (OSError, ValueError):  # too long for a file name, ..
            continue
    return None


def _endings(written: str) -> Iterator[list[str]]:
    """The parts of every end of a path or address, longest first."""
    text = written
    if "?d=" in text:
        text = text.split("?d=", 1)[1].split("&", 1)[0]
    elif "://" in text:
        text = re.split(r"[?#]", text.split("://", 1)[1])[0]
    for spelling in dict.fromkeys((text, unquote(text))):
        parts = [part for part in re.split(r"[\\/]+", spelling) if part not in ("", ".")]
        leading = [i for i, part in enumerate(parts) if part == ".." or PureWindowsPath(part).drive]
        parts = parts[leading[-1] + 1 :] if leading else parts
        yield from (parts[start:] for start in range(len(parts)))
        if parts and (upload := re.fullmatch(r"[0-9a-f]{8}-(.+)", parts[-1])):
            yield [upload[1]]


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


def images_below(folder: Path) -> list[Path]:
    """The files with an image's suffix in a folder and its subfolders, see `files_below`."""
    return files_below(folder, IMAGE_SUFFIXES)


def images_in(folder: Path) -> list[Path]:
    """The files with an image's suffix directly in a folder, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )


def files_below(folder: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """The files in a folder and its subfolders, sorted; links that lead nowhere count as files.

    Links are followed, and a folder that several paths lead to is read once, which also ends loops of links.
    Hidden files and hidden subfolders are left out: Jupyter keeps copies in `.ipynb_checkpoints`.

    Args:
        folder: none exists: no files.
        suffixes: only files with one of these, in lower case with the dot; None takes all.
    """
    found = [
        here / name
        for here, names in walked(folder)
        for name in names
        if (suffixes is None or os.path.splitext(name)[1].lower() in suffixes)
        and ((here / name).is_file() or not (here / name).exists())
    ]
    return sorted(found)


def walked(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder in a folder, itself included, and the names of its files; see `files_below`.

    Folders come before links to them, so that a folder keeps its own path. A link to a folder around `folder`
    is not followed: it would lead to other data.
    """
    top = Path(os.path.realpath(folder))
    seen = {str(parent) for parent in top.parents}
    waiting = [str(folder)]
    while waiting:
        for here, folders, files in os.walk(waiting.pop(0)):
            real = os.path.realpath(here)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = (os.path.join(here, name) for name in folders)
            waiting += [path for path in inside if os.path.islink(path)]
            yield Path(here), [name for name in files if not name.startswith(".")]


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
