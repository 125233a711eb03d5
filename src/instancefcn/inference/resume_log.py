"""What a call over many pictures has done so far, so that one that was stopped or killed can go on.

`OUT/unfinished.jsonl` begins with a line that says what was asked for, and gets a line for every picture
whose results are all written, in the order of the pictures. When the call ends, the file goes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from instancefcn.errors import ConfigError
from instancefcn.files import atomic_write, remove_leftovers, writable
from instancefcn.inference.predictor import Predictor
from instancefcn.inference.sources import RESULT_FOLDERS
from instancefcn.version import __version__

NAME = "unfinished.jsonl"


@dataclass(frozen=True)
class Done:
    """One picture whose results are written.

    Attributes:
        number: of the picture in the call, from 0.
        path: its file or URL.
        stamp: length and time of the file, see `stamp_of`.
        files: its results, from OUT.
        objects: how many there are in it.
        kept: what the writers' `finish` needs of it, by the name of the writer's class.
        said: what `--json` prints of it, if it was asked for.
    """

    number: int
    path: str
    stamp: list[int] | None
    files: list[str]
    objects: int
    kept: dict[str, Any]
    said: dict[str, Any] | None


class ResumeLog:
    """The file, open for writing.

    Args:
        out: the folder of the results.
        wanted: what the results depend on, by the name of the option: JSON values.
        images: files and URLs in their order.
        resume: go on with what `out` holds, if it holds anything.

    Attributes:
        done: the pictures that need not be segmented again, by number: those whose results are all there, and
            whose file is as it was.

    Raises:
        ConfigError: what was asked for is not what the stopped call was asked for, or the file is damaged or
            cannot be written.
    """

    def __init__(
        self, out: Path, wanted: Mapping[str, Any], images: Sequence[Path | str], resume: bool
    ) -> None:
        self.out, self.path = out, out / NAME
        self.done: dict[int, Done] = {}
        # The name of a file may be any bytes: those that are no UTF-8 are lone surrogates in Python.
        text = "\n".join(map(str, images)).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=8).hexdigest()
        head = json.loads(json.dumps({**wanted, "pictures": [len(images), digest]}))
        if resume:
            for place in (".", *RESULT_FOLDERS):
                remove_leftovers(out / place)
            self._read(head)
        lines = [head, *(asdict(done) for done in self.done.values())]
        with writable(), atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        # Without a buffer: what did not fit on the disk is not tried again when the file is closed.
        self._file: IO[bytes] = self.path.open("ab", buffering=0)

    def add(self, done: Done) -> None:
        """Note one more picture. Raises ConfigError when there is no room."""
        line = json.dumps(asdict(done)).encode() + b"\n"
        with writable():
            while line:  # the last bytes of room take a part of a line
                line = line[self._file.write(line) :]

    def close(self) -> None:
        """Stop writing; the file stays."""
        self._file.close()

    def remove(self) -> None:
        """All is done."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _read(self, head: dict[str, Any]) -> None:
        try:
            # What follows the last end of a line was cut off.
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        try:
            before, *entries = (json.loads(line) for line in lines)
            dones = [Done(**entry) for entry in entries]
            differences = _differences(before, head)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self.path}: is damaged ({error}): leave out --resume to start anew"
            ) from error
        if differences:
            raise ConfigError(
                f"the call that {self.path} tells of can only go on as it began, but"
                f" {'; '.join(differences)}. Leave out --resume to start anew, or choose another --out"
            )
        self.done = {done.number: done for done in sorted(dones, key=lambda d: d.number) if self._holds(done)}

    def _holds(self, done: Done) -> bool:
        there = all(os.path.isfile(self.out / file) for file in done.files)
        return there and stamp_of(done.path) == done.stamp


def stamp_of(path: Path | str) -> list[int] | None:
    """Bytes of a file and when it was changed, in nanoseconds; None for what is no file (a URL)."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def identity(predictor: Predictor) -> dict[str, str]:
    """What tells a model from another: a digest of its weights and description, and the code's version."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((predictor.metadata, predictor.class_names, predictor.category_ids)).encode())
    for name, tensor in predictor.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return {"model": digest.hexdigest(), "instancefcn": __version__}


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key == "model":
            found.append("the model is another")
        elif key == "pictures" and old and new:
            found.append(f"the pictures are not the same ({old[0]} then, {new[0]} now)")
        else:
            found.append(f"{key} was {old!r} and is now {new!r}")
    return found
