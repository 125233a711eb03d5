"""From the file name of a record to a file, never outside the folder of pictures."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath


class PictureFinder:
    """Looks for pictures below one folder.

    A file name is a path below the folder ("a.jpg", "2017/a.jpg"). Where no file lies there, the name may
    also begin with the folder's own name, as in exports that write "images/a.jpg". Symbolic links are
    followed: whoever put one there meant it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, file_name: str) -> tuple[Path | None, str | None]:
        """(path, None), or (None, what is wrong)."""
        name = file_name.replace("\\", "/")
        pure = PurePosixPath(name)
        if "\0" in name or pure.is_absolute() or PureWindowsPath(file_name).drive:
            return None, f"file_name must be a path below {self.folder}, not an absolute one"
        inside = os.path.normpath(name)
        if inside == "." or inside.split(os.sep)[0] == os.pardir:
            return None, f"file_name leads out of {self.folder}: pictures must lie in it or below"
        candidates = [self.folder / inside]
        if pure.parts[0] == self.folder.name and len(pure.parts) > 1:
            candidates.append(self.folder.joinpath(*Path(inside).parts[1:]))
        for candidate in candidates:
            if candidate.is_file():
                return candidate, None
        return None, f"there is no picture {candidates[0]}{self._hint(candidates[0].name)}"

    def _hint(self, base: str) -> str:
        """Where a file of that name does lie, if one does."""
        others = self._elsewhere.get(base.lower())
        if not others:
            return ": add it or remove its record and annotations"
        return f': is "{others}" meant? Then write that as its file_name'

    @cached_property
    def _elsewhere(self) -> dict[str, str]:
        """Every file below the folder, by its name in small letters."""
        found: dict[str, str] = {}
        for place, folders, files in os.walk(self.folder):
            folders.sort()
            for file in sorted(files):
                found.setdefault(file.lower(), (Path(place) / file).relative_to(self.folder).as_posix())
        return found
