"""What a call over many images has done so far, so that it can be resumed after it was stopped or killed.

`OUT/unfinished.jsonl` begins with a line that says what the results depend on. One line follows for each
image whose results are all written, in the order of the images. The file is removed when the call ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from instancefcn.errors import ConfigError
from instancefcn.files import atomic_write, remove_leftovers, writable
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.pages import split_page
from instancefcn.inference.predictor import FileResult, Predictor
from instancefcn.inference.sources import RESULT_FOLDERS
from instancefcn.inference.writers import below_one_folder
from instancefcn.instances import Instances
from instancefcn.version import __version__

NAME = "unfinished.jsonl"


@dataclass(frozen=True)
class Done:
    """One image whose results are written.

    Attributes:
        number: index of the image in the call.
        path: its file or URL.
        stamp: length and time of the file, see `stamp_of`.
        files: its results, relative to OUT.
        instances: what was found, exactly, as JSON values.
    """

    number: int
    path: str
    stamp: list[int] | None
    files: list[str]
    instances: dict[str, Any]


def done_of(number: int, result: FileResult, out: Path) -> Done:
    """The entry of a result whose files are written to `out`."""
    found = result.instances
    assert found is not None
    stored = {
        "image_size": list(found.image_size),
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
        "labels": found.labels.tolist(),
        "masks": found.rles(),
        "limit_reached": found.limit_reached,
    }
    files = [file.relative_to(out).as_posix() for file in result.files]
    return Done(number, str(result.path), stamp_of(result.path), files, stored)


def restored(
    done: Done, path: Path | str, out: Path, class_names: tuple[str, ...], category_ids: tuple[int, ...]
) -> FileResult:
    """The result of an entry, without the image."""
    stored = done.instances
    instances = Instances(
        torch.tensor(stored["boxes"], dtype=torch.float32).reshape(-1, 4),
        torch.tensor(stored["scores"], dtype=torch.float32),
        torch.tensor(stored["labels"], dtype=torch.int64),
        CroppedMasks.from_rles(stored["masks"], tuple(stored["image_size"])),
        class_names,
        category_ids,
        done.path,
        stored.get("limit_reached"),
    )
    return FileResult(path, None, instances, None, files=tuple(out / file for file in done.files))


class ResumeLog:
    """The file, open for writing.

    Args:
        out: the folder of the results.
        request: what the results depend on, by the name of the option: JSON values.
        images: files and URLs in their order. They are those of the stopped call if their paths below their
            common folder are the same.
        resume: continue with what `out` holds, if it holds anything.

    Attributes:
        done: the images that need not be segmented again, by index: all their results exist, and the file is
            unchanged.

    Raises:
        ConfigError: the stopped call was another one, or the file is damaged.
        OutputError: the file cannot be written.
    """

    def __init__(
        self, out: Path, request: Mapping[str, Any], images: Sequence[Path | str], resume: bool
    ) -> None:
        self.out, self.path = out, out / NAME
        self.done: dict[int, Done] = {}
        # A file's name may hold any bytes; those that are not valid UTF-8 are lone surrogates in Python.
        _, names = below_one_folder(list(map(str, images)))
        text = "\n".join(names).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=8).hexdigest()
        head = json.loads(json.dumps({**request, "images": [len(images), digest]}))
        if resume:
            for folder in (".", *RESULT_FOLDERS):
                remove_leftovers(out / folder)
            self._read(head, images)
        lines = [head, *(asdict(done) for done in self.done.values())]
        with writable(), atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        # Unbuffered: what does not fit on the disk is not tried again when the file is closed.
        self._file: IO[bytes] = self.path.open("ab", buffering=0)

    def add(self, done: Done) -> None:
        """Note one more image. Raises OutputError when the disk is full."""
        line = json.dumps(asdict(done)).encode() + b"\n"
        with writable():
            while line:  # a nearly full disk takes a part of the line
                line = line[self._file.write(line) :]

    def close(self) -> None:
        """Stop writing; the file remains."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file: all images are done."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _read(self, head: dict[str, Any], images: Sequence[Path | str]) -> None:
        try:
            # What follows the last line end was cut off.
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        try:
            before, *entries = (json.loads(line) for line in lines)
            dones = [Done(**entry) for entry in entries]
            differences = _differences(before, head)
            if any(not 0 <= done.number < head["images"][0] for done in dones):
                raise ValueError("it names an image that is not there")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self.path} is damaged ({error}): leave out --resume to start anew"
            ) from error
        if differences:
            raise ConfigError(
                f"{self.path} belongs to a different call: {'; '.join(differences)}. Leave out --resume to"
                " start anew, or choose another --out"
            )
        for done in sorted(dones, key=lambda d: d.number):
            path = images[done.number]
            # LabelMe's files say where their image is.
            moved = str(path) != done.path and "labelme" in head["save"]
            if not moved and self._holds(done, path):
                self.done[done.number] = replace(done, path=str(path))

    def _holds(self, done: Done, path: Path | str) -> bool:
        exist = all(os.path.isfile(self.out / file) for file in done.files)
        return exist and stamp_of(path) == done.stamp


def stamp_of(path: Path | str) -> list[int] | None:
    """Length of a file in bytes and time of its last change in nanoseconds; None without a file (a URL)."""
    try:
        status = os.stat(split_page(path)[0])
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def identity(predictor: Predictor) -> dict[str, str]:
    """What identifies a model: a digest of its weights and description, and the version of this package."""
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
            found.append("the model differs")
        elif key == "ids":
            found.append("the ids of the COCO file differ")
        elif key == "images" and old and new:
            found.append(f"the images differ ({old[0]} and {new[0]} of them)")
        else:
            found.append(f"{key} was {old!r} and is now {new!r}")
    return found
